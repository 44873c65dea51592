"""Named concepts: kinds of tokens that a rule over the text recognises, to look for among features.

A concept is a pattern over the text of a window; a token has it where a match covers any of its characters but blank space, or blank space
too where the concept is made of it. A pattern sees the window alone, so a quotation that began before it is missed. The rules are
approximations of what their names say: they label many tokens alike and cheaply, they do not understand.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

import numpy as np
from jaxtyping import Bool, Int

from saelab.lab import Lab

Finder = Callable[[str], Iterable[tuple[int, int]]]
"""From a text the stretches that have a concept."""
DOMAINS = 12
"""Domains that are concepts of their own, the largest first."""


def _pattern(pattern: str, flags: int = 0) -> Finder:
    compiled = re.compile(pattern, flags)
    return lambda text: (match.span() for match in compiled.finditer(text))


def _words(words: str) -> Finder:
    return _pattern(rf"\b(?:{words.replace(' ', '|')})\b", re.IGNORECASE)


_FUNCTION_WORDS = {
    "English": "the of and to in is was for that with on as his he be at by had not are but from have they which",
    "French": "le la les des est une dans pour que qui avec et du un au sur pas ne il elle nous vous je sont aux ce cette mais",
    "Spanish": "el los las una es en por que con para y del al se su más como pero lo está son un qué no",
    "German": "der die das und ist nicht ein eine zu den von mit dem des auf für im sich auch es als wie ich sie aber",
}


def _language(name: str) -> Finder:
    """Sentences with at least two function words of the language, and more of them than of any other."""
    lists = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}

    def found(text: str) -> Iterator[tuple[int, int]]:
        for match in re.finditer(r"[^.!?\n]+", text):
            words = re.findall(r"[^\W\d_]+", match[0].lower())
            counts = {language: sum(word in known for word in words) for language, known in lists.items()}
            own = counts.pop(name)
            if own >= 2 and own > max(counts.values()):
                yield match.span()

    return found


CONCEPTS: Mapping[str, Finder] = {
    "digits": _pattern(r"\d+"),
    "number words": _words("one two three four five six seven eight nine ten twenty thirty hundred thousand million"),
    "years": _pattern(r"\b(?:1[5-9]\d\d|20\d\d)\b"),
    "months": _words("January February March April June July August September October November December"),
    "weekdays": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "dates": _pattern(r"\b\d{1,4}[-/]\d{1,2}[-/]\d{1,4}\b|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{1,2}\b"),
    "money": _pattern(r"[$€£]\s?\d[\d,.]*|\b\d[\d,.]* (?:dollars|cents|pounds|euros)\b"),
    "percentages": _pattern(r"\b\d[\d.,]*\s?(?:%|percent\b)"),
    "capitalised words": _pattern(r"\b[A-Z][a-z]+"),
    "words in capitals": _pattern(r"\b[A-Z]{2,}\b"),
    "sentence starts": _pattern(r"(?<=[.!?]\s)[A-Z]\w*"),
    "commas": _pattern(r","),
    "full stops": _pattern(r"\.(?=\s|$)"),
    "other punctuation": _pattern(r"[;:!?—–-]"),
    "questions": _pattern(r"[^.!?\n]+\?"),
    "exclamations": _pattern(r"[^.!?\n]+!"),
    "quotations": _pattern(r"\"[^\"\n]{1,300}\"|“[^”\n]{1,300}”"),
    "parentheses": _pattern(r"\([^()\n]{1,200}\)"),
    "line breaks": _pattern(r"\n+"),
    "indentation": _pattern(r"^[ \t]+(?=\S)", re.MULTILINE),
    "code comments": _pattern(r"(?:^|(?<=\s))(?:#|//)(?!\S*\w+://)[^\n]*|/\*.*?\*/|^\s*\"\"\".*?\"\"\"", re.MULTILINE | re.DOTALL),
    "calls and definitions": _pattern(r"\b(?:def|class|function|return|import|self)\b|\b\w+\((?=[^)\n]*\))"),
    "names in code": _pattern(r"\b[a-zA-Z]+_\w+\b|\b[a-z]+[A-Z]\w*\b"),
    "URLs and addresses": _pattern(r"https?://\S+|www\.\S+|\S+@\S+\.\w+"),
    "tags": _pattern(r"<[^<>\n]{1,100}>"),
    "words on -ing": _pattern(r"\b[a-z]{2,}ing\b"),
    "words on -ed": _pattern(r"\b[a-z]{2,}ed\b"),
    "words on -ly": _pattern(r"\b[a-z]{2,}ly\b"),
    "words on -tion": _pattern(r"\b[a-z]{2,}tions?\b"),
    "first person": _words("I me my mine we us our ours"),
    "second person": _words("you your yours"),
    "third person": _words("he him his she her hers they them their"),
    "negations": _pattern(r"\b(?:not|no|never|nothing|nobody|none|neither|nor|cannot)\b|(?<=n)['’]t\b", re.IGNORECASE),
    "words after “the”": _pattern(r"(?<=\b[Tt]he )\w+"),
    "words after “of”": _pattern(r"(?<=\bof )\w+"),
    "family words": _words("mother father son daughter brother sister wife husband child children parents uncle aunt"),
    "places on a map": _words("north south east west country island river sea ocean coast mountains border city capital"),
    "government words": _words("government president congress law court state states constitution parliament election party"),
    "medical words": _words("patient patients disease treatment symptoms doctor blood pain infection medicine drug clinical"),
    "war words": _words("war army military enemy battle soldiers troops weapons peace attack forces"),
    "French": _language("French"),
    "Spanish": _language("Spanish"),
    "German": _language("German"),
}
"""Concepts by name."""


def token_labels(tokens: list[str], finder: Finder) -> Bool[np.ndarray, " pos"]:
    """Which tokens of a text have a concept."""
    text = "".join(tokens)
    ends = np.cumsum([len(token) for token in tokens])
    covered = np.zeros(len(text) + 1, np.int64)
    for begin, end in finder(text):
        visible = [place for place in range(begin, end) if not text[place].isspace()]
        covered[visible or range(begin, end)] = 1
    before = np.concatenate([[0], np.cumsum(covered)])
    return before[ends] > before[np.concatenate([[0], ends[:-1]])]


def concept_labels(
    lab: Lab, window: Int[np.ndarray, " row"], position: Int[np.ndarray, " row"]
) -> tuple[tuple[str, ...], Bool[np.ndarray, "row concept"]]:
    """Names of all concepts, and which of some tokens have each: those of `CONCEPTS`, repeated pairs of tokens, and the largest domains."""
    known, place = np.unique(window, return_inverse=True)
    ids = lab.corpus.windows(known)[0]
    lengths = lab.corpus.window_length[known]
    columns = {name: np.zeros(ids.shape, np.bool_) for name in (*CONCEPTS, "repeated pairs")}
    strings = cache(lab.subject.vocabulary.__getitem__)
    for row, length in enumerate(lengths):
        tokens = [strings(int(token)) for token in ids[row, :length]]
        for name, finder in CONCEPTS.items():
            columns[name][row, :length] = token_labels(tokens, finder)
        columns["repeated pairs"][row, :length] = _repeated(ids[row, :length])
    domains = np.array([lab.corpus.document(number).domain for number in range(lab.corpus.num_documents)])
    names, counts = np.unique(domains[lab.corpus.window_document], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:DOMAINS] if len(names) > 1 else []
    of_row = domains[lab.corpus.window_document[window]]
    found = {name: column[place, position] for name, column in columns.items()}
    found |= {f"domain {name}": of_row == name for name in largest}
    return tuple(found), np.stack(list(found.values()), axis=1)


def _repeated(ids: Int[np.ndarray, " pos"]) -> Bool[np.ndarray, " pos"]:
    """Tokens that, with the one before them, have come in the window already: where an induction head can know the next one."""
    seen: set[tuple[int, int]] = set()
    found = np.zeros(len(ids), np.bool_)
    for place in range(1, len(ids)):
        pair = (int(ids[place - 1]), int(ids[place]))
        found[place] = pair in seen
        seen.add(pair)
    return found
