"""The toy world's sentences: short English documents, each about one of eight topics, made from templates.

A topic has its own nouns, verbs, adjectives and places; names, numbers and function words are shared by all. So there is something to
find for a dictionary: topics, parts of speech, single words.
"""

import re
from collections.abc import Iterator
from random import Random

from saelab.errors import Invalid
from saelab.texts.base import TEXTS, Document, TextSource
from saelab.values import value

TOPICS: dict[str, dict[str, tuple[str, ...]]] = {
    "cooking": {
        "person": ("cook", "baker", "waiter"),
        "thing": ("soup", "pie", "cake", "sauce"),
        "verb": ("stirred", "tasted", "baked", "served"),
        "quality": ("salty", "sweet", "warm"),
        "place": ("kitchen", "bakery"),
    },
    "sailing": {
        "person": ("captain", "sailor", "pilot"),
        "thing": ("ship", "anchor", "rope", "mast"),
        "verb": ("steered", "hauled", "tied", "lowered"),
        "quality": ("rusty", "wet", "swift"),
        "place": ("harbour", "bay"),
    },
    "stars": {
        "person": ("astronomer", "observer", "student"),
        "thing": ("planet", "comet", "moon", "telescope"),
        "verb": ("observed", "measured", "sighted", "tracked"),
        "quality": ("distant", "bright", "round"),
        "place": ("observatory", "sky"),
    },
    "football": {
        "person": ("striker", "keeper", "referee"),
        "thing": ("ball", "goal", "whistle", "flag"),
        "verb": ("kicked", "scored", "saved", "missed"),
        "quality": ("fast", "late", "fair"),
        "place": ("stadium", "field"),
    },
    "medicine": {
        "person": ("doctor", "nurse", "surgeon"),
        "thing": ("wound", "fever", "bandage", "pill"),
        "verb": ("healed", "treated", "examined", "cured"),
        "quality": ("painful", "clean", "severe"),
        "place": ("hospital", "clinic"),
    },
    "law": {
        "person": ("judge", "lawyer", "clerk"),
        "thing": ("verdict", "contract", "case", "crime"),
        "verb": ("argued", "signed", "denied", "judged"),
        "quality": ("guilty", "legal", "false"),
        "place": ("court", "prison"),
    },
    "music": {
        "person": ("singer", "pianist", "drummer"),
        "thing": ("song", "violin", "guitar", "drum"),
        "verb": ("played", "tuned", "sang", "recorded"),
        "quality": ("loud", "gentle", "slow"),
        "place": ("concert", "studio"),
    },
    "garden": {
        "person": ("gardener", "farmer", "florist"),
        "thing": ("rose", "tree", "seed", "hedge"),
        "verb": ("planted", "watered", "pruned", "picked"),
        "quality": ("green", "tall", "ripe"),
        "place": ("garden", "orchard"),
    },
}
"""The topics, which are also the domains, and the words of each."""

_SHARED = {
    "name": ("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo"),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "day": ("monday", "tuesday", "friday", "sunday"),
}
_TEMPLATES = (
    "the {person} {verb} the {quality} {thing} in the {place}.",
    "on {day}, {name} {verb} {number} of the {thing}s.",
    "{name} said that the {thing} was {quality}.",
    "a {quality} {thing} is in the {place}, and the {person} {verb} it.",
    "{name}, the {person}, {verb} a {thing} with {name}.",
    "was the {thing} {quality}? the {person} did not know.",
    "there are {number} {thing}s and {number} {person}s in the {place}.",
)
_SLOT = re.compile(r"\{(\w+)\}")


@TEXTS.register("toy")
@value
class ToyTexts(TextSource):
    """Documents of the toy world: a dozen sentences about one topic each. Its tiny subject is trained on them."""

    num_documents: int = 400
    """Documents, about 110 tokens each."""
    seed: int = 0
    """Another seed gives other documents."""

    def documents(self) -> Iterator[Document]:
        """The documents, topic after topic in turn. Raises `Invalid` for less than one document."""
        if self.num_documents < 1:
            raise Invalid(f"num_documents is {self.num_documents}; give 1 or more.")
        topics = list(TOPICS)
        for number in range(self.num_documents):
            topic = topics[number % len(topics)]
            draw = Random(f"{self.seed}/{number}")
            text = " ".join(_sentence(topic, draw) for _ in range(draw.randint(8, 14)))
            yield Document(key=f"toy/{self.seed}/{number}", domain=topic, text=text)


def _sentence(topic: str, draw: Random) -> str:
    words = {**TOPICS[topic], **_SHARED}
    return _SLOT.sub(lambda slot: draw.choice(words[slot[1]]), draw.choice(_TEMPLATES))


def toy_words() -> list[str]:
    """Every word that the sentences can hold, in alphabetical order; plurals are words of their own."""
    fixed = {word for template in _TEMPLATES for word in re.findall(r"\w+", _SLOT.sub("", template))}
    drawn = {word for words in (*TOPICS.values(), _SHARED) for group in words.values() for word in group}
    plurals = {f"{noun}s" for words in TOPICS.values() for noun in (*words["person"], *words["thing"])}
    return sorted((fixed - {"s"}) | drawn | plurals)
