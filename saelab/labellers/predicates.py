"""Predicates: rules over tokens that say where a feature should fire. They make a label falsifiable: any text can be held against them.

A predicate is a small tree of frozen values with strict JSON, tagged by `kind`. Words are compared folded: without the spaces around them
and in lower case. Every predicate looks backwards only, save `next`, which looks one token ahead.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from saelab.errors import Invalid
from saelab.features.vocabulary import SHAPES, Texts, affix_number
from saelab.values import from_json, to_json, value

_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\n|[^\S\n]+")


class Rule(ABC):
    """Abstract: what every predicate can do."""

    @abstractmethod
    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires; never at padding."""

    @abstractmethod
    def words(self) -> str:
        """The predicate in plain English."""

    def fires(self, tokens: Sequence[str]) -> list[bool]:
        """At which tokens of one text it fires."""
        return self.mask(Texts.of(tokens))[0].tolist() if tokens else []

    def matches(self, text: str | Sequence[str]) -> bool:
        """Whether it fires anywhere in a text: one given as tokens, or any other, which is taken apart into words and marks."""
        return any(self.fires(_PIECE.findall(text) if isinstance(text, str) else text))

    def clauses(self) -> int:
        """How many simple predicates it is made of."""
        return 1


@value
class TokenIs(Rule):
    """The token is one of some words."""

    kind: Literal["token"] = "token"
    """Which predicate this is."""
    any_of: tuple[str, ...]
    """The words, folded."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return _among(texts.folded, texts.vocabulary.numbers(self.any_of))

    def words(self) -> str:
        """The predicate in plain English."""
        return f"the token {_quoted(self.any_of)} and variants" if len(self.any_of) == 1 else f"the tokens {_quoted(self.any_of)}"


@value
class PreviousIs(Rule):
    """The token before is one of some words."""

    kind: Literal["previous"] = "previous"
    """Which predicate this is."""
    any_of: tuple[str, ...]
    """The words, folded."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return _among(texts.before, texts.vocabulary.numbers(self.any_of)) & (texts.ids >= 0)

    def words(self) -> str:
        """The predicate in plain English."""
        return f"tokens right after {_quoted(self.any_of)}"


@value
class NextIs(Rule):
    """The token after is one of some words: the subject is about to say it."""

    kind: Literal["next"] = "next"
    """Which predicate this is."""
    any_of: tuple[str, ...]
    """The words, folded."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return _among(texts.after, texts.vocabulary.numbers(self.any_of)) & (texts.ids >= 0)

    def words(self) -> str:
        """The predicate in plain English."""
        return f"tokens right before {_quoted(self.any_of)}"


@value
class Bigram(Rule):
    """The token and the one before it are two given words."""

    kind: Literal["bigram"] = "bigram"
    """Which predicate this is."""
    first: str
    """The word before, folded."""
    second: str
    """The token itself, folded."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        numbers = texts.vocabulary.numbers
        return _among(texts.before, numbers((self.first,))) & _among(texts.folded, numbers((self.second,)))

    def words(self) -> str:
        """The predicate in plain English."""
        return f"the token {_quoted((self.second,))} after {_quoted((self.first,))}"


@value
class ShapeIs(Rule):
    """The token belongs to a class of characters, one of `SHAPES`."""

    kind: Literal["shape"] = "shape"
    """Which predicate this is."""
    shape: Literal["number", "capitalised", "upper", "punctuation", "newline", "space", "piece", "foreign"]
    """The class."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return texts.vocabulary.shape(self.shape)[texts.ids]

    def words(self) -> str:
        """The predicate in plain English."""
        return SHAPES[self.shape][1]


@value
class Affix(Rule):
    """The token is a longer word with a given beginning or ending."""

    kind: Literal["affix"] = "affix"
    """Which predicate this is."""
    place: Literal["prefix", "suffix"]
    """Whether the letters stand at the beginning or at the end."""
    letters: str
    """The letters, lower case."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        tables = texts.vocabulary.prefixes if self.place == "prefix" else texts.vocabulary.suffixes
        return tables(len(self.letters))[texts.ids] == affix_number(self.letters)

    def words(self) -> str:
        """The predicate in plain English."""
        return f"words beginning with “{self.letters}”" if self.place == "prefix" else f"words ending in “{self.letters}”"


@value
class PositionBelow(Rule):
    """The token is among the first ones that the subject reads."""

    kind: Literal["position"] = "position"
    """Which predicate this is."""
    below: int
    """The first position that is too late."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return (np.arange(texts.ids.shape[1]) + texts.start[:, None] < self.below) & (texts.ids >= 0)

    def words(self) -> str:
        """The predicate in plain English."""
        return f"the first {self.below} tokens of a text"


@value
class Topic(Rule):
    """Enough different ones of some words have been said, this token included."""

    kind: Literal["topic"] = "topic"
    """Which predicate this is."""
    any_of: tuple[str, ...]
    """The words, folded."""
    at_least: int
    """How many different ones of them must have been said within the window."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        said = np.zeros(texts.ids.shape, np.int64)
        for number in texts.vocabulary.numbers(self.any_of):
            said += np.logical_or.accumulate(texts.folded == number, axis=1)
        return (said >= self.at_least) & (texts.ids >= 0)

    def words(self) -> str:
        """The predicate in plain English."""
        amount = "" if self.at_least == 1 else f" ({self.at_least} or more of them)"
        return f"text about {{{', '.join(self.any_of)}}}{amount}"


@value
class DomainIs(Rule):
    """The text is of a given kind. It never fires on text whose kind is not known."""

    kind: Literal["domain"] = "domain"
    """Which predicate this is."""
    domain: str
    """The kind of text, such as `dialogue`."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        same = np.array([domain == self.domain for domain in texts.domains] or [False] * len(texts.ids), np.bool_)
        return same[:, None] & (texts.ids >= 0)

    def words(self) -> str:
        """The predicate in plain English."""
        return f"text of the kind “{self.domain}”"


@value
class AllOf(Rule):
    """Every one of some predicates fires at the token."""

    kind: Literal["all"] = "all"
    """Which predicate this is."""
    parts: "tuple[Predicate, ...]"
    """The predicates."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return reduce(np.logical_and, (part.mask(texts) for part in self.parts))

    def words(self) -> str:
        """The predicate in plain English."""
        return ", where also: ".join(part.words() for part in self.parts)

    def clauses(self) -> int:
        """How many simple predicates it is made of."""
        return sum(part.clauses() for part in self.parts)


@value
class AnyOf(Rule):
    """At least one of some predicates fires at the token."""

    kind: Literal["any"] = "any"
    """Which predicate this is."""
    parts: "tuple[Predicate, ...]"
    """The predicates."""

    def mask(self, texts: Texts) -> Bool[np.ndarray, "text pos"]:
        """At which tokens it fires."""
        return reduce(np.logical_or, (part.mask(texts) for part in self.parts))

    def words(self) -> str:
        """The predicate in plain English."""
        return ", or ".join(part.words() for part in self.parts)

    def clauses(self) -> int:
        """How many simple predicates it is made of."""
        return sum(part.clauses() for part in self.parts)


Predicate = Annotated[
    TokenIs | PreviousIs | NextIs | Bigram | ShapeIs | Affix | PositionBelow | Topic | DomainIs | AllOf | AnyOf,
    Field(discriminator="kind"),
]
"""Any predicate."""


@value
class _Written:
    """A predicate as it is written."""

    predicate: Predicate
    """The predicate."""


def write(predicate: Rule) -> str:
    """The JSON of a predicate."""
    return to_json(_Written(predicate=predicate))  # pyright: ignore[reportArgumentType]


def parse(text: str) -> Rule:
    """The predicate that JSON stands for. Raises `Invalid` naming what is wrong in it."""
    if not text:
        raise Invalid("There is no predicate: the label states no rule.")
    return from_json(_Written, text, where="predicate").predicate


def _among(numbers: Int[np.ndarray, "text pos"], wanted: Int[np.ndarray, " some"]) -> Bool[np.ndarray, "text pos"]:
    found = np.zeros(numbers.shape, np.bool_)
    for number in wanted:
        found |= numbers == number
    return found


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(map(shown, words))


def shown(token: str) -> str:
    """A token in quotation marks, its line breaks and tabs visible."""
    return "“" + token.replace("\n", "⏎").replace("\t", "⇥") + "”"
