"""What rules need to know of tokens as text, worked out once for a whole vocabulary.

Tables have one row more than there are tokens: the last row stands for no token (padding, id -1), so that any id may be looked up.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

NOTHING = -1
"""The id of no token."""
WORD = re.compile(r"[^\W\d_]{2,}")

SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "number": (re.compile(r"\s?\d+"), "numbers"),
    "capitalised": (re.compile(r"\s?[A-Z][a-z]*"), "capitalised words"),
    "upper": (re.compile(r"\s?[A-Z]{2,}"), "words in capitals"),
    "punctuation": (re.compile(r"\s?[^\w\s]+"), "punctuation"),
    "newline": (re.compile(r"\s*\n\s*"), "line breaks"),
    "space": (re.compile(r"[ \t]+"), "blank space"),
    "piece": (re.compile(r"[a-z]+"), "pieces inside words"),
    "foreign": (re.compile(r".*[^\x00-\x7F–—‘’“”…].*", re.DOTALL), "characters outside plain English text"),
}
"""Classes of tokens: the pattern that the whole token matches, and what they are called in labels."""


def fold(token: str) -> str:
    """A token without the spaces around it and in lower case; blank tokens stay as they are."""
    return token.strip().lower() or token


class Vocabulary:
    """The tokens of a subject as text.

    Arguments:
    - `strings`: every token, by id.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(strings)
        self._tables: dict[tuple[str, int], Int[np.ndarray, " vocab"]] = {}
        self._shapes: dict[str, Bool[np.ndarray, " vocab"]] = {}

    def __len__(self) -> int:
        return len(self.strings)

    @cached_property
    def folds(self) -> tuple[str, ...]:
        """Every token folded."""
        return tuple(fold(token) for token in self.strings)

    @cached_property
    def fold_ids(self) -> dict[str, int]:
        """The number of each folded form."""
        return {text: number for number, text in enumerate(dict.fromkeys(self.folds))}

    @cached_property
    def folded(self) -> Int[np.ndarray, " vocab"]:
        """The number of each token's folded form; -1 for no token."""
        return np.array([*(self.fold_ids[text] for text in self.folds), NOTHING], np.int32)

    @cached_property
    def fold_texts(self) -> tuple[str, ...]:
        """The folded forms by number."""
        return tuple(self.fold_ids)

    @cached_property
    def is_word(self) -> Bool[np.ndarray, " fold"]:
        """Which folded forms are words of at least two letters."""
        return np.array([WORD.fullmatch(text) is not None for text in self.fold_texts], np.bool_)

    def numbers(self, words: Sequence[str]) -> Int[np.ndarray, " some"]:
        """The numbers of those of some words that occur as folded forms."""
        return np.array([self.fold_ids[word] for word in map(fold, words) if word in self.fold_ids], np.int32)

    def shape(self, name: str) -> Bool[np.ndarray, " vocab"]:
        """Which tokens belong to a class of `SHAPES`."""
        if name not in self._shapes:
            pattern = SHAPES[name][0]
            self._shapes[name] = np.array([*(pattern.fullmatch(token) is not None for token in self.strings), False], np.bool_)
        return self._shapes[name]

    def prefixes(self, length: int) -> Int[np.ndarray, " vocab"]:
        """A number for each token's first letters; -1 where the token is no word that is longer than that."""
        return self._affixes("prefix", length, lambda text: text[:length])

    def suffixes(self, length: int) -> Int[np.ndarray, " vocab"]:
        """A number for each token's last letters; -1 where the token is no word that is longer than that."""
        return self._affixes("suffix", length, lambda text: text[-length:])

    def _affixes(self, kind: str, length: int, cut: Callable[[str], str]) -> Int[np.ndarray, " vocab"]:
        if (kind, length) not in self._tables:
            numbers = [_spell(cut(text)) if len(text) > length and text.isalpha() and text.isascii() else NOTHING for text in self.folds]
            self._tables[kind, length] = np.array([*numbers, NOTHING], np.int64)
        return self._tables[kind, length]


def _spell(letters: str) -> int:
    """A number that stands for a few ASCII letters, the same in every vocabulary."""
    return int.from_bytes(letters.encode("ascii"), "big")


def affix_number(letters: str) -> int:
    """The number under which `Vocabulary.prefixes` and `suffixes` know some letters; -2 for letters that no token can have there."""
    return _spell(letters) if letters.isascii() and letters.isalpha() else -2


def affix_letters(number: int) -> str:
    """The letters that a number of `Vocabulary.prefixes` or `suffixes` stands for."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big").decode("ascii")


@dataclass(frozen=True)
class Texts:
    """Some stretches of text as token ids, padded with -1 at either side."""

    vocabulary: Vocabulary
    """What the ids mean."""
    ids: Int[np.ndarray, "text pos"]
    """Token ids."""
    start: Int[np.ndarray, " text"]
    """Position in the subject's window of each stretch's first column; negative where it is padding."""
    domains: tuple[str, ...] = ()
    """Kind of each stretch's document; empty where nothing is known."""

    @classmethod
    def of(cls, tokens: Sequence[str]) -> "Texts":
        """One stretch of text, given as tokens."""
        known = {text: number for number, text in enumerate(dict.fromkeys(tokens))}
        ids = np.array([[known[token] for token in tokens]], np.int32).reshape(1, len(tokens))
        return cls(vocabulary=Vocabulary(tuple(known)), ids=ids, start=np.zeros(1, np.int64))

    @cached_property
    def folded(self) -> Int[np.ndarray, "text pos"]:
        """The number of each token's folded form, -1 for padding."""
        return self.vocabulary.folded[self.ids]

    @cached_property
    def before(self) -> Int[np.ndarray, "text pos"]:
        """The folded form before each token, -1 where there is none."""
        return np.pad(self.folded[:, :-1], ((0, 0), (1, 0)), constant_values=NOTHING)

    @cached_property
    def after(self) -> Int[np.ndarray, "text pos"]:
        """The folded form after each token, -1 where there is none."""
        return np.pad(self.folded[:, 1:], ((0, 0), (0, 1)), constant_values=NOTHING)
