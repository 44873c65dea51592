"""The toy world's sentences."""

import re

import pytest

from saelab.errors import Invalid
from saelab.texts.toy import TOPICS, ToyTexts, toy_words


def test_documents_are_of_all_topics_and_use_only_known_words():
    documents = list(ToyTexts(num_documents=80).documents())
    assert {document.domain for document in documents} == set(TOPICS)
    assert {word for document in documents for word in re.findall(r"\w+", document.text)} <= set(toy_words())


def test_a_document_uses_the_words_of_its_own_topic():
    documents = list(ToyTexts(num_documents=80).documents())
    for document in documents:
        own = sum(word in document.text.split() for word in TOPICS[document.domain]["verb"])
        other = max(sum(word in document.text.split() for word in TOPICS[topic]["verb"]) for topic in TOPICS if topic != document.domain)
        assert own > other


def test_the_same_config_gives_the_same_documents_and_another_seed_others():
    assert list(ToyTexts().documents()) == list(ToyTexts().documents())
    assert next(ToyTexts().documents()).text != next(ToyTexts(seed=1).documents()).text


def test_no_documents_at_all_are_refused():
    with pytest.raises(Invalid, match="num_documents is 0"):
        next(ToyTexts(num_documents=0).documents())
