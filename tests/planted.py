"""A world where it is known what every feature fires on: a corpus of made-up text, and a dictionary that reads the tokens themselves."""

from contextlib import contextmanager

import numpy as np
import torch

from saelab.activations.base import Chunk
from saelab.corpus import Corpus, DocumentInfo, TokenPolicy
from saelab.dictionary import Codes, Dictionary
from saelab.features.collect import CollectConfig, Collected, collect
from saelab.features.geometry import LogitLens, Neighbours
from saelab.features.store import FeatureStore
from saelab.features.write import Geometry, write_features

LAW = (" court", "Court", " judge", " appeal", " lawyer", " trial")
NUMBERS = tuple(f" {n}" for n in range(1900, 1920))
ENDING = (" running", " walking", " eating", " singing", " reading")
SPECIAL = (" of", ",", ".", "\n", " good", " bad")
FILLER = tuple(f" w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300))
STRINGS = (*SPECIAL, *LAW, *NUMBERS, *ENDING, *FILLER)
CONTEXT = 64

COURT, YEARS, AFTER_OF, ENDINGS, DEAD, NOISE, SIGNED, DENSE, TOPIC, MEMORY = range(10)
FIRST_FILLER = 10
D_SAE = 40


def planted_corpus(num_documents: int = 300, seed: int = 0) -> Corpus:
    """Windows of made-up text. Every fifth document is about law."""
    random = np.random.default_rng(seed)
    weights = 1 / (np.arange(len(STRINGS)) + 8.0)
    weights[len(SPECIAL) : len(SPECIAL) + len(LAW)] = 0.0005
    law = weights.copy()
    law[len(SPECIAL) : len(SPECIAL) + len(LAW)] = 0.08
    kinds = [law if number % 5 == 0 else weights for number in range(num_documents)]
    texts = [random.choice(len(STRINGS), int(random.integers(40, 400)), p=p / p.sum()).astype(np.int32) for p in kinds]
    splits = ("explain", "score", "explain", "select", "score", "explain", "score")
    infos = [
        DocumentInfo(key=str(i), domain="other" if i % 5 else "law", split=splits[i // 5 % 7], held_out=i % 10 == 9)
        for i in range(num_documents)
    ]
    return Corpus(TokenPolicy(context=CONTEXT), infos, np.concatenate(texts), np.cumsum([0, *map(len, texts)]))


class PlantedDictionary(Dictionary):
    """Reads activations that are (token, token before, noise, window) and fires as planted."""

    architecture = layout = "planted"

    def __init__(self) -> None:
        super().__init__()
        self.d_in, self.d_sae = 4, D_SAE
        self.register_buffer(
            "rows", torch.nn.functional.normalize(torch.randn(D_SAE, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
        )

    def encode(self, x):
        token, before, noise, window = x.unbind(-1)
        z = torch.zeros(len(x), D_SAE)
        among = lambda words: torch.isin(token, torch.tensor([STRINGS.index(word) for word in words]).float())  # noqa: E731
        z[:, COURT] = among((" court", "Court")) * (1 + noise)
        z[:, YEARS] = among(NUMBERS) * (2 + noise)
        z[:, AFTER_OF] = (before == STRINGS.index(" of")) * (1 + noise)
        z[:, ENDINGS] = among(ENDING) * (1 + 3 * noise)
        z[:, NOISE] = (noise < 0.01) * (0.5 + 50 * noise)
        z[:, SIGNED] = among((" good",)) * (1 + noise) - among((" bad",)) * (2 + noise)
        z[:, DENSE] = (noise < 0.3) * (0.1 + noise)
        z[:, TOPIC] = (torch.tensor(DOCUMENT_IS_LAW)[window.long()]) * (noise > 0.7) * noise
        z[:, MEMORY] = (window % 7 == 3) * (noise > 0.9) * noise
        for feature in range(FIRST_FILLER, D_SAE):
            z[:, feature] = among((FILLER[feature * 3 % len(FILLER)], FILLER[feature * 3 + 1])) * (1 + noise)
        return Codes.from_dense(z)

    def decode(self, codes):
        return codes.dense() @ self.rows

    @property
    def directions(self):
        return self.rows

    def settings(self):
        raise NotImplementedError

    def tensors(self):
        raise NotImplementedError

    @classmethod
    def shapes(cls, d_in, d_sae):
        raise NotImplementedError

    @classmethod
    def restored(cls, settings, tensors):
        raise NotImplementedError


CORPUS = planted_corpus()
DOCUMENT_IS_LAW = [bool(document % 5 == 0) for document in CORPUS.window_document]


class Chunks(list):
    """Chunks as a store gives them."""

    def chunk_rows(self):
        return tuple(len(chunk.x) for chunk in self)

    def chunk(self, number):
        return self[number]


def chunks(windows=None, corpus: Corpus = CORPUS, size: int = 40) -> Chunks:
    """Activations of some windows, `size` windows a chunk."""
    numbers = list(range(len(corpus.window_length))) if windows is None else list(windows)
    made = []
    for begin in range(0, len(numbers), size):
        rows, window, position = [], [], []
        for number in numbers[begin : begin + size]:
            tokens = corpus.window_tokens(number)
            noise = np.random.default_rng(number).random(len(tokens))
            facts = np.stack([tokens[1:], tokens[:-1], noise[1:], np.full(len(tokens) - 1, number)], 1)
            rows.append(facts)
            window += [number] * (len(tokens) - 1)
            position += range(1, len(tokens))
        made.append(Chunk(x=torch.tensor(np.concatenate(rows)).float(), window=torch.tensor(window), position=torch.tensor(position)))
    return Chunks(made)


CONFIG = CollectConfig(top=8, explain=20, select=8, score=20, width=16, before=8, pool=600, batch=2000, checkpoint=0)


def collected(config: CollectConfig = CONFIG) -> Collected:
    """Everything collected of the planted dictionary."""
    return collect(PlantedDictionary(), chunks(), CORPUS, config)


def store(path, config: CollectConfig = CONFIG) -> FeatureStore:
    """A feature store of the planted dictionary. Feature i's neighbours are i+1 and i+2; feature 0 promotes its first tokens."""
    numbers = np.arange(D_SAE)
    near = Neighbours(index=np.stack([(numbers + 1) % D_SAE, (numbers + 2) % D_SAE], 1), similarity=np.full((D_SAE, 2), 0.5, np.float32))
    tokens = np.tile(np.arange(6, dtype=np.int32), (D_SAE, 1))
    values = np.tile(np.arange(6, 0, -1).astype(np.float32), (D_SAE, 1))
    kurtosis = np.where(numbers == COURT, 50.0, 0.0)
    lens = LogitLens(
        top=tokens, top_values=values, bottom=tokens, bottom_values=-values, kurtosis=kurtosis, skew=kurtosis, kurtosis_null=5.0
    )
    places = np.stack([np.cos(numbers), np.sin(numbers)], 1)
    write_features(path, "toy", "planted", collected(config), STRINGS, Geometry({"decoder": near, "firing": near}, lens, places))
    return FeatureStore(path)


def same(one: Collected, other: Collected) -> None:
    """Two passes found the same, to the bit but for sums."""
    for name in ("count", "max", "min", "histogram"):
        np.testing.assert_array_equal(getattr(one.statistics, name), getattr(other.statistics, name))
    np.testing.assert_allclose(one.statistics.total, other.statistics.total, rtol=1e-12)
    np.testing.assert_allclose(one.statistics.squares, other.statistics.squares, rtol=1e-12)
    np.testing.assert_array_equal(one.segments, other.segments)
    assert one.statistics.num_tokens == other.statistics.num_tokens
    assert one.kept.keys() == other.kept.keys()
    for table, kept in one.kept.items():
        for name in ("key", "segment", "peak", "levels"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(other.kept[table], name), err_msg=f"{table}.{name}")
    for name in ("key", "segment", "peak"):
        np.testing.assert_array_equal(getattr(one.tokens, name), getattr(other.tokens, name), err_msg=name)
    for name in ("segments", "seen", "feature", "member", "peak"):
        np.testing.assert_array_equal(getattr(one.pool, name), getattr(other.pool, name))


class PlantedSubject:
    """Repeats itself: tokens that were said are likelier. A change of its one activation speaks through `unembed`."""

    name = "planted"
    max_context = 512

    def __init__(self) -> None:
        self.vocabulary = list(STRINGS)
        self.unembed = torch.randn(len(STRINGS), 4, generator=torch.Generator().manual_seed(1))
        self.unembed[:6] = 3 * PlantedDictionary().directions[COURT]

    def encode(self, text: str) -> list[int]:
        folded = [token.strip().lower() for token in STRINGS]
        return [folded.index(word) for word in text.lower().replace("“", " ").replace("”", " ").split() if word in folded]

    def activations(self, tokens, hooks):
        return {hook: torch.ones(*tokens.shape, 4) for hook in hooks}

    @contextmanager
    def begun(self, tokens, hook):
        yield self.activations(tokens, [hook])[hook]

    def losses(self, prefix, texts):
        found = []
        for ids in texts:
            scores = self.logits(torch.tensor([[*prefix, *ids]])).log_softmax(-1)[0]
            first = max(1, len(prefix))
            found.append(-scores[first - 1 : -1].gather(-1, torch.tensor([[*prefix, *ids]])[0, first:, None])[:, 0])
        return found

    def logits(self, tokens, edits=None, mask=None):
        said = torch.nn.functional.one_hot(tokens, len(STRINGS)).cumsum(1).clamp(max=1) * 3.0
        x = torch.zeros(*tokens.shape, 4)
        for edit in (edits or {}).values():
            x = edit(x, mask)
        return said + x @ self.unembed.T


class PlantedLab:
    """What a scorer asks of a lab."""

    subject = PlantedSubject()
    policy = CORPUS.policy
    dictionary = PlantedDictionary()
    origin = type("Origin", (), {"written_hooks": ("hook",)})()
