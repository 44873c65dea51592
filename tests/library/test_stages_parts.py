"""Dictionaries that need more than activations through the stages: a concept's labels for SCAR, a frozen part for a residual SAE."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import SOURCE, copied, small

from saelab import stages
from saelab.activations.buffer import BufferConfig
from saelab.activations.labelled import LabelledStore
from saelab.activations.vectors import Vectors
from saelab.analyses.quality import EvaluateConfig
from saelab.dictionary import load_dictionary
from saelab.errors import Invalid, NotFound
from saelab.features.store import FeatureStore
from saelab.lab import Lab
from saelab.records import Intervention, Quality, SteerRequest
from saelab.run import Run, read_saved
from saelab.saes.residual import Residual
from saelab.saes.scar import Scar
from saelab.saes.topk import TopK
from saelab.steering import steer

RECIPE = small()
HOOK = RECIPE.train.hook
SCAR = Scar.Config(d_sae=96, k=6)
TRAIN = replace(RECIPE.train.train, steps=150, lr=3e-3, checkpoint_every=60.0)
TAUGHT = replace(RECIPE.train, source="taught", concept=("sailing", "stars"), train=TRAIN)


def evaluated(run: Run, source: str) -> Quality:
    stages.evaluate(run, EvaluateConfig(windows=16), source)
    return read_saved(Quality, run.source(source).path / "quality.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A small run with a TopK SAE, a SCAR SAE and one on the first's error, whose folder is gone; not to be changed."""
    run = Run(tmp_path_factory.mktemp("parts") / "run")
    stages.read(run, RECIPE.read, RECIPE.texts)
    stages.capture(run, RECIPE.capture)
    stages.train(run, replace(RECIPE.train, train=TRAIN), RECIPE.sae)
    stages.train(run, TAUGHT, SCAR)
    base = shutil.copytree(run.source(SOURCE).path, run.path.parent / "frozen")
    stages.train(run, replace(RECIPE.train, source="boosted", train=TRAIN), Residual.Config(base=str(base), d_sae=32, k=2))
    shutil.rmtree(base)
    stages.collect(run, RECIPE.collect, "boosted")
    return run


def test_the_label_behind_a_row_is_that_of_its_document(run):
    lab = Lab(run, "taught")
    store = LabelledStore(lab.store, lab.corpus, lab.concept)
    chunk, plain = store.chunk(0, held_out=False), lab.store.chunk(0, held_out=False)
    domains = [lab.corpus.document(lab.corpus.window_document[window]).domain for window in chunk.window.tolist()]
    assert torch.equal(chunk.x[:, :-1], plain.x)
    assert chunk.x[:, -1].tolist() == [1.0 if domain in TAUGHT.concept else -1.0 for domain in domains]
    assert (store.d_in, store.max_norms, store.described()) == (lab.store.d_in + 1, lab.store.max_norms, lab.store.described())
    assert store.chunk_rows(True) == lab.store.chunk_rows(True)
    assert torch.equal(store.places(0, True)[0], store.chunk(0, True).window)


def test_the_taught_feature_tells_the_concept_on_held_out_documents(run, tmp_path):
    copy = copied(run, tmp_path / "run")
    quality = evaluated(copy, "taught")
    lab, z, carries, document = Lab(copy, "taught"), [], [], []
    for chunk in lab.store.chunks(held_out=True):
        z += lab.dictionary.encode(chunk.x.float()).dense()[:, 0].tolist()
        document += lab.corpus.window_document[chunk.window.numpy()].tolist()
    carries = [lab.corpus.document(number).domain in TAUGHT.concept for number in document]
    for estimate, strengths, kinds in (
        (quality.concept_auroc, z, carries),
        (quality.concept_document_auroc, *largest(z, carries, document)),
    ):
        up, down = (np.array([s for s, kind in zip(strengths, kinds, strict=True) if kind is wanted]) for wanted in (True, False))
        wins = (np.sign(up[:, None] - down) + 1) / 2
        assert estimate.value == pytest.approx(wins.mean())
        assert estimate.n == len(set(document))
        assert estimate.low <= estimate.value <= estimate.high
    assert quality.concept_auroc.low > 0.5, "words that any document may hold carry no concept"
    assert quality.concept_document_auroc.value > 0.9
    assert evaluated(copy, SOURCE).concept_auroc is None


def largest(z, carries, document):
    found = {number: max(s for s, other in zip(z, document, strict=True) if other == number) for number in set(document)}
    return list(found.values()), [carries[document.index(number)] for number in found]


def test_a_stream_has_the_labels_too(run, tmp_path):
    copy = copied(run, tmp_path / "run")
    streamed = replace(TAUGHT, source="streamed", stream=BufferConfig(rows=1024, shard_windows=32))
    stages.train(copy, streamed, SCAR)
    assert evaluated(copy, "streamed").concept_document_auroc.value > 0.9


WRONG = {
    "scar is taught a concept: name the domains": (replace(TAUGHT, concept=()), SCAR, Invalid),
    "topk is taught no concept": (TAUGHT, TopK.Config(d_sae=96, k=6), Invalid),
    "Unknown domain 'sailin'.*sailing": (replace(TAUGHT, concept=("sailin",)), SCAR, NotFound),
    "Unknown domain 'ethics'.*cooking, football, garden, law": (replace(TAUGHT, concept=("ethics",)), SCAR, NotFound),
    "no other hook, no concept": (
        replace(TAUGHT, hook="vectors", vectors=Vectors(file="x.npy")),
        SCAR,
        Invalid,
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_concept_that_does_not_suit_is_refused(run, said):
    config, sae, error = WRONG[said]
    with pytest.raises(error, match=said):
        stages.train(run, replace(config, source="x"), sae)


def test_all_documents_carrying_the_concept_is_refused(run):
    every = tuple(run.need("read").facts["domains"])
    with pytest.raises(Invalid, match="there is nothing to tell the concept from"):
        stages.train(run, replace(TAUGHT, source="x", concept=every), SCAR)


def test_both_parts_are_one_dictionary_to_every_stage(run, tmp_path):
    copy = copied(run, tmp_path / "run")
    before, after = evaluated(copy, SOURCE), evaluated(copy, "boosted")
    assert after.fvu.value < before.fvu.value
    assert before.l0.value < after.l0.value < before.l0.value + 4
    lab = Lab(copy, "boosted")
    store = FeatureStore(copy.source("boosted").path / "features.db")
    assert store.d_sae == lab.dictionary.d_sae == 96 + 32
    frozen, new = load_dictionary(copy.source(SOURCE).path).directions, lab.dictionary.directions
    assert torch.equal(new[:96], frozen)
    active = [row.index for row in lab.features.rows(range(96, 128)) if row.max > 0]
    assert active
    for feature in (3, active[0]):
        request = SteerRequest(prompt="the captain", interventions=(Intervention(feature=feature, op="add", strength=20.0, unit="raw"),))
        assert steer(lab, replace(request, max_tokens=6)).dose > 0


def test_a_frozen_part_of_another_hook_is_refused(run, tmp_path):
    copy = copied(run, tmp_path / "run")
    other = "blocks.0.hook_resid_post"
    stages.capture_hooks(copy, (other,))
    sae = Residual.Config(base=str(copy.source(SOURCE).path), d_sae=32, k=2)
    with pytest.raises(Invalid, match=f"was trained on {HOOK}, and not on {other}"):
        stages.train(copy, replace(RECIPE.train, hook=other, source="x"), sae)
