"""Cheap tags of features: properties that follow from what was collected, without a label.

A tag that describes the text says that it holds for at least four fifths (`SHARE`) of the feature's sampled segments, and is only given
where there are `LEAST` of them.

| tag | a feature has it when |
|---|---|
| `dead` | it never fired |
| `dense` | it fires on more than a tenth of the tokens (`DENSE`) |
| `token` | its segments peak on one and the same token, whatever its case and the spaces around it |
| `ngram` | one and the same token stands before the peak; with `token`, the feature knows a pair of tokens, alone, what follows a token |
| `positional` | its peaks keep to a fifth of the places in the window: Kuiper's distance from the pool's places is `SHARE` or more |
| `special` | its peaks are special tokens or come right after one: the subject's, and any of the form `<...>` or `[...]` |
| `code` | the segments are program text: the document's kind says so, or there are two different marks of code |
| `language` | the segments are not English: most letters are not Latin, or function words of another language prevail |

`code` and `language` are left out where more than half of the pool is of that kind already: they would tell nothing of the feature.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

TAGS = ("dead", "dense", "token", "ngram", "positional", "special", "code", "language")
"""Every tag, in the order in which a feature has them."""
DENSE = 0.1
"""A feature that fires on a larger share of the tokens is tagged `dense`."""
SHARE = 0.8
"""Share of its segments that a tag must hold for."""
LEAST = 10
"""Sampled segments that are needed to say anything of the text."""
COMMON = 0.5
"""Share of the pool beyond which a kind of text is no property of a feature."""

_SPECIAL = re.compile(r"\s*(<[^<>\s]+>|\[[A-Z_]+\])\s*")
_MARKS = re.compile(
    r"\bdef \w+\(|\bfrom [\w.]+ import\b|\bimport \w+ as\b|\b(?:const|let|var|int|char|double) \w+ =|\breturn\b[^.\n]*;|\bself\.|\belif\b"
    r"|\bfunction \w*\(|\b(?:public|private) (?:static|void|class)\b|\bprintf?\(|\bfor \(|\bif \(|[;{}]\s*\n|\(\)|=>|->|==|!=|&&|\|\||::"
    r"|\+=|\+\+|</\w|/>|#include|\w\[\w+\]|\w\.\w+\(|^\s*(?://|/\*)",
    re.MULTILINE,
)
_FUNCTION_WORDS = {
    "english": "the of and to is in that it was for with as his her you be this not are but",
    "french": "le la les des et est une dans pour que qui sur pas avec du ce il elle nous vous",
    "german": "der die das und ist nicht ein eine den mit von zu auf für sich dem auch wird sind ich",
    "spanish": "el la los las de que y en un una por con para es se del como pero más al",
    "italian": "il la di che e un una per non con del della sono gli nel più si le ha dei",
    "portuguese": "o a os as de que e em um uma para com não por mais do da no na se",
    "dutch": "de het een en van is dat niet op te zijn met voor er aan ook maar bij",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class TextKinds:
    """What kind of text each segment is."""

    code: Bool[np.ndarray, " segment"]
    """Program text."""
    language: Bool[np.ndarray, " segment"]
    """Not English."""

    @classmethod
    def of(cls, texts: Iterator[str] | Sequence[str], domains: Sequence[str]) -> "TextKinds":
        """The kinds of some segments, from their text and the kind of their documents."""
        found = [(is_code(text, domain), is_foreign(text)) for text, domain in zip(texts, domains, strict=True)]
        array = np.array(found, np.bool_).reshape(-1, 2)
        return cls(code=array[:, 0], language=array[:, 1])


@dataclass(frozen=True)
class Sampled:
    """A feature's sampled segments: where they peak, and what stands there."""

    peak: Int[np.ndarray, " n"]
    """Token ids at the peaks."""
    previous: Int[np.ndarray, " n"]
    """Token ids before the peaks, -1 where there is none."""
    position: Int[np.ndarray, " n"]
    """Positions of the peaks in their windows."""
    row: Int[np.ndarray, " n"]
    """Rows of the segments in `TextKinds`."""


class Tagger:
    """Gives features their tags.

    Arguments:
    - `strings`: every token as text, by id.
    - `special_ids`: ids of the subject's special tokens.
    - `kinds`: kinds of all segments.
    - `pool`: rows of the pool's segments in `kinds`.
    - `positions`: positions in their windows of all tokens of the pool that count.
    """

    def __init__(
        self,
        strings: Sequence[str],
        special_ids: Sequence[int],
        kinds: TextKinds,
        pool: Int[np.ndarray, " pool"],
        positions: Int[np.ndarray, " token"],
    ) -> None:
        self._folds = [text.strip().lower() or text for text in strings]
        self._special = np.array([_SPECIAL.fullmatch(text) is not None for text in strings] + [False], np.bool_)
        self._special[list(special_ids)] = True
        self._kinds = kinds
        self._telling = {name: len(pool) == 0 or getattr(kinds, name)[pool].mean() <= COMMON for name in ("code", "language")}
        self._places = np.sort(positions)

    def tags(self, density: float, sampled: Sampled) -> tuple[str, ...]:
        """The tags of one feature.

        Arguments:
        - `density`: share of tokens on which it fires.
        - `sampled`: its sampled segments.
        """
        found = {"dead": density == 0, "dense": density > DENSE}
        if len(sampled.peak) >= LEAST:
            special = self._special[sampled.peak] | self._special[sampled.previous]
            found |= {
                "token": self._one(sampled.peak),
                "ngram": self._one(sampled.previous),
                "positional": kuiper(sampled.position, self._places) >= SHARE,
                "special": special.mean() >= SHARE,
                "code": self._telling["code"] and self._kinds.code[sampled.row].mean() >= SHARE,
                "language": self._telling["language"] and self._kinds.language[sampled.row].mean() >= SHARE,
            }
        return tuple(name for name in TAGS if found.get(name))

    def _one(self, tokens: Int[np.ndarray, " n"]) -> bool:
        counts = Counter(self._folds[token] for token in tokens.tolist() if token >= 0)
        return bool(counts) and counts.most_common(1)[0][1] >= SHARE * len(tokens)


def kuiper(sample: Float[np.ndarray, " n"] | Int[np.ndarray, " n"], sorted_all: Float[np.ndarray, " m"] | Int[np.ndarray, " m"]) -> float:
    """Kuiper's distance (1960) of a sample from what it was drawn from: largest excess plus largest deficit of its distribution.

    0 where both are alike, near 1 where the sample keeps to a narrow range, wherever that lies.
    """
    if not len(sample) or not len(sorted_all):
        return 0.0
    values = np.unique(sample)
    share = np.searchsorted(np.sort(sample), values, "right") / len(sample)
    below = np.searchsorted(np.sort(sample), values, "left") / len(sample)
    all_share = np.searchsorted(sorted_all, values, "right") / len(sorted_all)
    all_below = np.searchsorted(sorted_all, values, "left") / len(sorted_all)
    return float(max(0.0, (share - all_share).max()) + max(0.0, (all_below - below).max()))


def is_code(text: str, domain: str = "") -> bool:
    """Whether a text is program text: its document's kind has the word code in it, or the text has two different marks of code."""
    return "code" in domain.lower() or len({mark.strip() for mark in _MARKS.findall(text)}) >= 2


def is_foreign(text: str) -> bool:
    """Whether a text is not English: most of its letters are not Latin, or of its function words those of another language prevail.

    French, German, Spanish, Italian, Portuguese and Dutch are known by their function words (two of them at least); no other language in
    Latin script is.
    """
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return False
    if sum(map(_is_latin, letters)) < len(letters) / 2:
        return True
    words = [word.lower() for word in _WORD.findall(text)]
    counts = {name: sum(word in known for word in words) for name, known in _LANGUAGES.items()}
    english = counts.pop("english")
    return max(counts.values()) >= max(2, english + 1)


@cache
def _is_latin(letter: str) -> bool:
    return letter < "\x80" or unicodedata.name(letter, "").startswith("LATIN")
