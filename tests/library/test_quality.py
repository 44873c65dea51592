"""Quality: what is known beforehand of the best dictionary and of the worst, and what must pass through a splice untouched."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from saelab.activations.base import Chunk
from saelab.activations.shuffle import first_rows
from saelab.analyses.quality import EvaluateConfig, evaluate
from saelab.dictionary import Codes, Dictionary
from saelab.errors import Invalid
from saelab.lab import Lab
from saelab.records import Estimate, Quality

CONFIG = EvaluateConfig(windows=12, batch_windows=4, fit_rows=2000)


class Scaled:
    """Activations in other units, and a dictionary of the first units that reads them."""

    def __init__(self, inner, scale: float) -> None:
        self.inner, self.scale = inner, scale

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def chunks(self, *args, **kwargs):
        for chunk in self.inner.chunks(*args, **kwargs):
            yield Chunk(x=chunk.x.float() * self.scale, window=chunk.window, position=chunk.position)

    def chunk(self, *args):
        chunk = self.inner.chunk(*args)
        return Chunk(x=chunk.x.float() * self.scale, window=chunk.window, position=chunk.position)

    def part(self, *args):
        return self.chunk(*args).x, None

    def encode(self, x: Tensor) -> Codes:
        return self.inner.encode(x / self.scale)

    def written(self, x: Tensor, codes: Codes) -> Tensor:
        return self.inner.written(x / self.scale, codes) * self.scale


def perfect(lab: Lab) -> Dictionary:
    """A feature for each coordinate."""
    width = lab.dictionary.d_in
    every = torch.arange(width)
    return fake(
        lab,
        encode=lambda x: Codes(indices=every.expand(x.shape), values=x, d_sae=width),
        decode=lambda codes: codes.values,
        d_sae=width,
    )


def constant(lab: Lab, vector: Tensor) -> Dictionary:
    """No feature at all: it always says the same."""
    return fake(
        lab,
        encode=lambda x: Codes(indices=torch.zeros(*x.shape[:-1], 1, dtype=torch.long), values=torch.zeros(*x.shape[:-1], 1), d_sae=8),
        decode=lambda codes: vector.expand(*codes.values.shape[:-1], -1),
        d_sae=8,
    )


def fake(lab: Lab, **parts):
    """What the analysis needs of a dictionary, reading where the lab's own one reads."""
    own = lab.dictionary
    return SimpleNamespace(
        written=lambda _x, codes: parts["decode"](codes),
        **{
            "d_in": own.d_in,
            "d_out": own.d_out,
            "widths": own.widths,
            "directions": own.directions,
            "ordinary": own.ordinary,
            "provenance": own.provenance,
            **parts,
        },
    )


def measured(run, **changed) -> Quality:
    """The quality in a lab some of whose parts are others, each made from the lab."""
    lab = Lab(run)
    for name, make in changed.items():
        lab.__dict__[name] = make(lab)
    return evaluate(lab, CONFIG)


def mean_of(lab: Lab) -> Tensor:
    return first_rows(lab.store, CONFIG.fit_rows, CONFIG.seed).mean(0)


@pytest.fixture(scope="module")
def quality(toy_run) -> Quality:
    return measured(toy_run)


def test_predicting_the_mean_explains_nothing(toy_run):
    found = measured(toy_run, dictionary=lambda lab: constant(lab, mean_of(lab)))
    assert found.fvu.value == pytest.approx(1, abs=1e-9)
    assert found.ce_spliced.value == pytest.approx(found.ce_mean_ablated.value, abs=1e-6)
    assert found.ce_recovered.value == pytest.approx(0, abs=1e-6)
    assert found.kl_recovered.value == pytest.approx(0, abs=1e-6)
    assert found.l0.value == 0
    assert (found.dead.value, found.dead.n) == (1, 8)
    assert found.controls["pca"] < 1, "controls have one feature at least"


def test_predicting_zero_is_zero_ablation(toy_run):
    found = measured(toy_run, dictionary=lambda lab: constant(lab, torch.zeros(lab.dictionary.d_in)))
    assert found.ce_spliced.value == pytest.approx(found.ce_zero_ablated.value, abs=1e-6)
    assert found.fvu.value > 1


def test_a_perfect_dictionary_loses_nothing(toy_run):
    found = measured(toy_run, dictionary=perfect)
    assert found.fvu.value == 0
    assert found.ce_increase.value == 0
    assert found.ce_spliced == found.ce_clean
    assert found.ce_recovered.value == found.kl_recovered.value == 1
    assert found.kl.value == 0
    assert found.dense.value == 1
    assert found.controls["pca"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**12])
def test_the_unexplained_variance_does_not_depend_on_the_units(toy_run, quality, scale):
    found = measured(toy_run, dictionary=lambda lab: Scaled(lab.dictionary, scale), store=lambda lab: Scaled(lab.store, scale))
    assert found.fvu.value == pytest.approx(quality.fvu.value, rel=1e-6)
    assert found.l0 == quality.l0
    for name, fvu in quality.controls.items():
        assert found.controls[name] == pytest.approx(fvu, rel=1e-4)


def test_the_sums_are_those_of_the_definition(toy_run, quality):
    lab = Lab(toy_run)
    x = torch.cat([chunk.x for chunk in lab.store.chunks(held_out=True)]).double()
    codes = lab.dictionary.encode(x.float())
    error = (x - lab.dictionary.decode(codes)).square().sum()
    spread = (x - mean_of(lab)).square().sum()
    assert quality.fvu.value == pytest.approx(float(error / spread), rel=1e-6)
    assert quality.l0.value == pytest.approx(float((codes.values != 0).sum() / len(x)))


def test_every_interval_contains_its_value_and_counts_documents(quality):
    held_out = quality.fvu.n
    for name, found in vars(quality).items():
        if isinstance(found, Estimate) and name not in {"dead", "dense"}:
            assert found.low is not None, name
            assert found.high is not None, name
            assert found.low <= found.value <= found.high, name
            assert 2 <= found.n <= held_out, name
    assert quality.fvu.low < quality.fvu.high


def test_a_trained_dictionary_beats_its_controls(quality):
    assert quality.controls.keys() == quality.control_ce_increase.keys() == {"random", "pca"}
    assert all(quality.fvu.value < fvu for fvu in quality.controls.values())
    assert all(quality.ce_increase.value < increase for increase in quality.control_ce_increase.values())
    assert abs(quality.ce_increase.value) < 0.1 * (quality.ce_mean_ablated.value - quality.ce_clean.value)
    assert quality.ce_spliced.value - quality.ce_clean.value == pytest.approx(quality.ce_increase.value)


def test_the_same_seed_measures_the_same(toy_run, quality):
    assert measured(toy_run) == quality


def test_first_positions_and_massive_activations_pass_through_untouched(toy_run):
    lab = Lab(toy_run)
    own = lab.dictionary.provenance
    norms = torch.cat([chunk.x for chunk in lab.store.chunks(held_out=True)]).float().norm(dim=-1)
    limit = float(norms.median())
    lab.dictionary.provenance = replace(own, max_norm=limit)
    before: list[Tensor] = []
    after: list[Tensor] = []
    watched = [lab.subject.site(lab.hook), lab.subject.site("blocks.2.hook_resid_pre")]
    with watched[0].watched(lambda x: before.append(x.clone())), watched[1].watched(lambda x: after.append(x.clone())):
        evaluate(lab, CONFIG)
    assert len(before) == len(after) == 6 * 3
    massive = changed = 0
    for x, y in zip(before, after, strict=True):
        left = x.norm(dim=-1) > limit
        left[:, 0] = True
        assert torch.equal(x[left], y[left])
        massive += int(left[:, 1:].sum())
        changed += int((x[~left] != y[~left]).any(-1).sum())
    assert massive > 100
    assert changed > 100


def test_a_corpus_without_held_out_documents_is_refused_in_words(toy_run):
    lab = Lab(toy_run)
    empty = SimpleNamespace(**{name: getattr(lab.store, name) for name in ("need_rows", "chunk", "part", "chunk_rows", "d_in", "exact")})
    empty.chunks = lambda held_out=None: iter(()) if held_out else lab.store.chunks(held_out)
    lab.__dict__["store"] = empty
    with pytest.raises(Invalid, match="held-out.*larger corpus"):
        evaluate(lab, CONFIG)


@pytest.mark.parametrize("field", ["windows", "fit_rows", "batch_windows", "seed"])
def test_a_config_that_cannot_be_is_refused_by_the_name_of_its_field(toy_run, field):
    with pytest.raises(Invalid, match=field):
        evaluate(Lab(toy_run), replace(CONFIG, **{field: -1}))
