"""A fake subject, a corpus and folders for stores."""

from pathlib import Path

import pytest
from fake_subject import FakeSubject

from saelab.corpus import Corpus, TokenPolicy, read_corpus
from saelab.texts.toy import ToyTexts


@pytest.fixture
def subject() -> FakeSubject:
    return FakeSubject()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    policy = TokenPolicy(context=48, special_ids=(ord("."),))
    return read_corpus(ToyTexts(num_documents=24), lambda text: [ord(letter) for letter in text], policy, tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def folders(tmp_path: Path):
    return lambda hook: tmp_path / "activations" / hook
