"""Dictionaries of several hooks through the stages: a transcoder, a crosscoder, and one SAE for several layers."""

from dataclasses import replace

import pytest
import torch
from folders import copied, small

from saelab import stages
from saelab.activations.disk import DiskStore
from saelab.analyses.quality import EvaluateConfig, evaluate
from saelab.analyses.splices import own, splice
from saelab.errors import Conflict, Invalid, NotFound
from saelab.interventions import feature_edits
from saelab.lab import Lab, activations_on
from saelab.records import Intervention, Quality, SteerRequest
from saelab.run import Run, read_saved
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.scar import Scar
from saelab.saes.topk import TopK
from saelab.saes.transcoder import Transcoder
from saelab.steering import steer

POST, MID, OUT, FIRST = "blocks.1.hook_resid_post", "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"
TEXT = "the captain steered the rusty ship in the harbour."
SMALL = {"d_sae": 96, "k": 6}
STAGES = {
    "skip": (stages.TrainStage(hook=MID, target_hook=OUT, source="skip"), Transcoder.Config(**SMALL, skip=True)),
    "cross": (stages.TrainStage(hook=FIRST, beside=(POST,), source="cross"), Crosscoder.Config(**SMALL)),
    "pooled": (stages.TrainStage(hook=POST, beside=(FIRST,), pooled=True, source="pooled"), BatchTopK.Config(**SMALL)),
}
"""Name -> training and architecture."""


def trained_on(run: Run, stage: stages.TrainStage, sae) -> None:
    stages.train(run, replace(stage, train=replace(small().train.train, steps=150, lr=3e-3, checkpoint_every=60.0)), sae)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A small run with four hooks and a dictionary of each kind, collected; not to be changed."""
    path = tmp_path_factory.mktemp("hooks") / "run"
    run, recipe = Run(path), small()
    stages.read(run, recipe.read, recipe.texts)
    stages.capture(run, replace(recipe.capture, hooks=(POST, MID, OUT, FIRST)))
    for source, (stage, sae) in STAGES.items():
        trained_on(run, stage, sae)
        stages.collect(run, recipe.collect, source)
    return run


@pytest.mark.parametrize("source", STAGES)
def test_the_dictionary_knows_its_hooks_and_its_quality_is_measured(run, source):
    lab, stage = Lab(run, source), STAGES[source][0]
    assert (lab.hook, lab.origin.target_hook, lab.origin.beside, lab.origin.pooled) == (
        stage.hook,
        stage.target_hook,
        stage.beside,
        stage.pooled,
    )
    assert lab.store.d_in == getattr(lab.dictionary, "width", 0)
    assert len(lab.origin.limits()) == len(lab.origin.hooks) == 2
    quality = evaluate(lab, EvaluateConfig(windows=16))
    assert 0 < quality.fvu.value < 1
    assert all(quality.fvu.value < fvu for fvu in quality.controls.values() if source != "skip")
    assert quality.ce_increase.value < quality.ce_mean_ablated.value - quality.ce_clean.value
    assert tuple(quality.hook_fvu) == {"skip": (), "cross": (FIRST, POST), "pooled": (POST, FIRST)}[source]
    assert all(0 < fvu < 1 for fvu in quality.hook_fvu.values())


def test_the_fvu_of_a_transcoder_is_about_its_target(run):
    lab = Lab(run, "skip")
    rows = torch.cat([chunk.x for chunk in lab.store.chunks(held_out=True)]).float()
    x, y = rows[:, :64], rows[:, 64:]
    assert lab.dictionary.directions.shape == (96, 64)
    mean = torch.cat([chunk.x for chunk in lab.store.chunks(held_out=False)]).float()[:, 64:].mean(0)
    expected = (y - lab.dictionary.written(x, lab.dictionary.encode(x))).square().sum() / (y - mean).square().sum()
    assert evaluate(lab, EvaluateConfig(windows=16)).fvu.value == pytest.approx(float(expected), rel=1e-3)


def test_the_fvu_of_a_crosscoder_is_the_mean_of_its_hooks(run, tmp_path):
    copy = copied(run, tmp_path / "run")
    stages.evaluate(copy, EvaluateConfig(windows=16), "cross")
    quality = read_saved(Quality, copy.source("cross").path / "quality.json")
    assert quality.fvu.value == pytest.approx(sum(quality.hook_fvu.values()) / 2, rel=1e-6)


@pytest.mark.parametrize("source", ["skip", "cross"])
def test_what_is_written_stands_at_the_hooks_where_it_is_written_and_nowhere_else(run, source):
    lab = Lab(run, source)
    tokens = torch.tensor([lab.subject.encode(TEXT)])
    mask = torch.arange(tokens.shape[1])[None] > 0
    rows = lab.rows(tokens)
    expected = own(lab.dictionary)(rows)[0].split(lab.dictionary.widths, dim=-1)
    edits = splice(lab.subject, lab.dictionary, lambda rows: own(lab.dictionary)(rows)[0])(tokens)
    assert tuple(edits) == lab.origin.written_hooks
    for hook, part in zip(edits, expected, strict=True):
        x = lab.subject.activations(tokens, [hook])[hook]
        edited = edits[hook](x, mask)
        assert torch.equal(edited[:, 0], x[:, 0])
        assert torch.allclose(edited[:, 1:], part[:, 1:], atol=1e-5)


def test_an_exact_copy_of_the_target_loses_nothing(run):
    lab = Lab(run, "skip")
    tokens = torch.tensor([lab.subject.encode(TEXT)])
    edits = splice(lab.subject, lab.dictionary, lambda rows: rows[..., -64:])(tokens)
    assert torch.allclose(lab.subject.logits(tokens, edits), lab.subject.logits(tokens), atol=1e-4)


@pytest.mark.parametrize("source", STAGES)
def test_features_of_a_text_are_those_of_the_activations_that_are_read(run, source):
    lab = Lab(run, source)
    found = activations_on(lab, TEXT, top=3)
    x = lab.rows(torch.tensor([lab.subject.encode(TEXT)]))[0, :, : lab.dictionary.d_in]
    z = lab.dictionary.encode(x).dense()
    for feature in found.features:
        assert feature.values[1:] == pytest.approx(tuple(z[1:, feature.index].tolist()), abs=1e-4)


def strongest(lab: Lab) -> int:
    return activations_on(lab, TEXT, top=1).features[0].index


OPS = [
    ("skip", "add"),
    ("skip", "ablate"),
    ("skip", "clamp"),
    ("cross", "add"),
    ("cross", "clamp"),
    ("cross", "ablate"),
    ("pooled", "clamp"),
]


@pytest.mark.parametrize(("source", "op"), OPS)
def test_features_steer_where_they_are_written(run, source, op):
    lab = Lab(run, source)
    change = Intervention(feature=strongest(lab), op=op, strength=20.0)
    found = steer(lab, SteerRequest(prompt=TEXT, interventions=(change,), max_tokens=8))
    assert found.hook == lab.origin.written_hooks[-1]
    assert found.dose > 0
    assert found.kl > 0
    nothing = Intervention(feature=change.feature, op="scale", strength=1.0)
    same = steer(lab, SteerRequest(prompt=TEXT, interventions=(nothing,), max_tokens=8))
    assert (same.base, same.dose) == (same.steered, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_a_crosscoders_feature_is_set_at_its_last_hook_to_what_was_asked(run, tmp_path, turned):
    copy = copied(run, tmp_path / "run")
    if turned:  # the last in the forward pass need not be the last of the dictionary
        trained_on(copy, stages.TrainStage(hook=POST, beside=(FIRST,), source="turned"), Crosscoder.Config(**SMALL))
    lab = Lab(copy, "turned" if turned else "cross")
    tokens, feature = torch.tensor([lab.subject.encode(TEXT)]), 0 if turned else strongest(lab)
    plain = lab.rows(tokens)
    z = lab.dictionary.encode(plain).dense()[..., feature]
    edits = feature_edits(lab.dictionary, [Intervention(feature=feature, op="clamp", strength=3.0, unit="raw")], {})
    seen: dict[str, torch.Tensor] = {}

    def watched(hook, edit):
        def keep(x, mask):
            seen[hook] = edit(x, mask)
            return seen[hook]

        return keep

    lab.subject.logits(tokens, {hook: watched(hook, edit) for hook, edit in edits.items()})
    before = dict(zip(lab.origin.row_hooks, plain.split(lab.dictionary.widths, dim=-1), strict=True))
    part = dict(zip(lab.origin.row_hooks, lab.dictionary.directions[feature].split(lab.dictionary.widths), strict=True))[POST]
    assert torch.equal(seen[FIRST], before[FIRST])
    ordinary = lab.dictionary.ordinary(plain)
    expected = before[POST] + ((3.0 - z) * ordinary)[..., None] * part
    assert torch.allclose(seen[POST], expected, atol=1e-4)


def test_a_crosscoder_cannot_add_and_read_at_once(run):
    lab = Lab(run, "cross")
    both = tuple(Intervention(feature=strongest(lab), op=op, strength=2.0) for op in ("add", "clamp"))
    with pytest.raises(Invalid, match="adds at all of them, and clamp would then read changed activations"):
        steer(lab, SteerRequest(prompt=TEXT, interventions=both, max_tokens=2))


def test_a_pooled_dictionary_is_collected_and_steered_at_the_hook_that_is_named(run, tmp_path):
    copy, config = copied(run, tmp_path / "run"), small().collect
    with pytest.raises(Conflict, match=f"hook: '{POST}', now '{FIRST}'"):
        stages.collect(copy, config, "pooled", hook=FIRST)
    (copy.source("pooled").path / "collect.json").unlink()
    stages.collect(copy, config, "pooled", hook=FIRST)
    stages.collect(copy, config, "pooled")  # done, at that hook
    lab, other = Lab(copy, "pooled"), Lab(copy, "pooled", POST)
    assert (lab.hook, lab.origin.beside, lab.store.hook) == (FIRST, (POST,), FIRST)
    assert lab.origin.limits() == other.origin.limits()
    assert lab.dictionary.provenance.max_norm == DiskStore(run.activations(FIRST)).max_norm
    rows = torch.cat([chunk.x for chunk in lab.store.chunks()]).float()
    largest = lab.dictionary.encode(rows).dense().amax(0)
    assert list(lab.max_acts([0, 1, 2]).values()) == pytest.approx(largest[:3].tolist(), rel=1e-2, abs=1e-3)
    change = Intervention(feature=int(largest.argmax()), op="add", strength=2.0)
    for opened, hook in ((lab, FIRST), (other, POST)):
        found = steer(opened, SteerRequest(prompt=TEXT, interventions=(change,), max_tokens=4))
        assert (found.hook, found.dose > 0) == (hook, True)
    stages.evaluate(copy, EvaluateConfig(windows=4), "pooled")
    assert tuple(read_saved(Quality, copy.source("pooled").path / "quality.json").hook_fvu) == (POST, FIRST)


def test_a_hook_that_a_dictionary_does_not_know_is_refused(run):
    with pytest.raises(NotFound, match=f"Unknown hook of the dictionary 'blocks.0.hook_resid_pots'. Did you mean {FIRST}"):
        _ = Lab(run, "pooled", "blocks.0.hook_resid_pots").dictionary
    with pytest.raises(Invalid, match=r"only a pooled one can be looked at elsewhere"):
        _ = Lab(run, "cross", POST).dictionary


def test_a_pooled_dictionary_has_seen_the_rows_of_both_hooks(run):
    first, post = (DiskStore(run.activations(hook)).need_rows(False) for hook in (FIRST, POST))
    stage = replace(STAGES["pooled"][0], epochs=1.0, source="once", train=replace(small().train.train, batch_size=512))
    copy = copied(run, run.path.parent / "once")
    stages.train(copy, stage, STAGES["pooled"][1])
    assert copy.source("once").need("train").facts["tokens"] == (first + post) // 512 * 512


WRONG = {
    "name one place twice": (stages.TrainStage(hook=POST, beside=(POST,), source="x"), Crosscoder.Config(**SMALL)),
    "transcoder writes at another hook: give target_hook": (stages.TrainStage(hook=POST, source="x"), Transcoder.Config(**SMALL)),
    "topk writes where it reads: leave target_hook out": (stages.TrainStage(hook=MID, target_hook=OUT, source="x"), TopK.Config(**SMALL)),
    "crosscoder reads several hooks: name the others": (stages.TrainStage(hook=POST, source="x"), Crosscoder.Config(**SMALL)),
    "topk reads one hook: leave beside out, or pool": (stages.TrainStage(hook=POST, beside=(FIRST,), source="x"), TopK.Config(**SMALL)),
    "Pooled rows need two hooks": (stages.TrainStage(hook=POST, pooled=True, source="x"), TopK.Config(**SMALL)),
    "reads one at a time; crosscoder on .* is not so": (
        stages.TrainStage(hook=POST, beside=(FIRST,), pooled=True, source="x"),
        Crosscoder.Config(**SMALL),
    ),
    "scar is taught a concept: name the domains": (stages.TrainStage(hook=POST, source="x"), Scar.Config(**SMALL)),
}
"""What is said -> a training whose hooks do not suit the architecture."""


@pytest.mark.parametrize("said", WRONG)
def test_hooks_that_do_not_suit_the_architecture_are_refused(run, said):
    with pytest.raises(Invalid, match=said):
        stages.train(run, *WRONG[said])
    assert not run.source("x").path.exists()
