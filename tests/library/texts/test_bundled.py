"""The bundled corpus."""

from collections import Counter
from importlib import metadata

import pytest

from saelab.errors import Invalid, NotFound
from saelab.texts.base import Document
from saelab.texts.bundled import Bundled

DOMAINS = {"dialogue", "speeches", "encyclopedia", "fiction", "history", "medicine", "code", "docs"}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(Bundled().documents())


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(NotFound, match=r"chitchat-dataset, which is not installed.*pip install saelab\[demo\]"):
        next(Bundled().documents())


def test_a_size_that_is_not_positive_is_refused():
    with pytest.raises(Invalid, match="0 megabytes"):
        next(Bundled(megabytes=0).documents())


@pytest.mark.real
def test_the_default_has_600_thousand_tokens_and_more(documents: list[Document]):
    characters = sum(len(document.text) for document in documents)
    assert characters / 4.2 > 600_000  # 4.17 characters a token of SmolLM2's, measured
    assert characters < 3.5e6


@pytest.mark.real
def test_the_default_is_balanced_by_domain(documents: list[Document]):
    characters: Counter[str] = Counter()
    for document in documents:
        characters[document.domain] += len(document.text)
    shares = {domain: count / characters.total() for domain, count in characters.items()}
    assert set(shares) == DOMAINS
    assert max(shares.values()) < 0.25
    assert min(shares.values()) > 0.02


@pytest.mark.real
def test_either_half_of_it_holds_all_domains(documents: list[Document]):
    """Documents of the rarest are few, and which they are depends on the version of Python."""
    half = len(documents) // 2
    assert {document.domain for document in documents[:half]} == {document.domain for document in documents[half:]} == DOMAINS


@pytest.mark.real
def test_documents_are_short_unique_and_spread_over_their_sources(documents: list[Document]):
    assert len({document.key for document in documents}) == len(documents)
    lengths = sorted(len(document.text) for document in documents)
    assert 1500 < lengths[len(lengths) // 2] < 3000
    assert lengths[-1] < 10_000
    years = {int(document.key.split("/")[1][:4]) for document in documents if document.domain == "speeches"}
    assert min(years) < 1820
    assert max(years) > 2000


@pytest.mark.real
def test_reading_again_gives_the_same_and_a_smaller_corpus_is_a_part_of_it(documents: list[Document]):
    small = list(Bundled(megabytes=0.5).documents())
    assert set(document.key for document in small) < set(document.key for document in documents)
    assert small == [document for document in documents if document in small]


@pytest.mark.real
def test_no_licence_text_html_or_address_is_in_it(documents: list[Document]):
    book = [document.text for document in documents if document.domain in ("fiction", "history", "medicine")]
    assert not any("PROJECT GUTENBERG" in text.upper() for text in book)
    assert not any("<strong>" in document.text for document in documents if document.domain == "encyclopedia")
    assert not any("@gmail" in document.text for document in documents if document.domain == "dialogue")
