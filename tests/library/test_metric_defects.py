"""What other tools' formulas say on cases whose answer is known, and what ours say. docs/evaluation.md has the table.

Each formula of another tool is written out here in a few lines from its published source, which is named; none of its code is copied.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from confounded import SPURIOUS, classes, confounded
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from saelab.analyses.core import reconstruction
from saelab.analyses.logistic import area, validated
from saelab.analyses.means import OWN
from saelab.analyses.spurious import Scores
from saelab.analyses.tpp import drops, targeted
from saelab.corpus import document_info
from saelab.dictionary import Codes
from saelab.estimates import ratio
from saelab.texts.base import Document

BATCH, CONTEXT, WIDTH = 8, 64, 32


def activations(scale: float = 1.0) -> Float[Tensor, "batch pos d"]:
    """Activations around a mean that is far from 0 and differs from dimension to dimension, as in a residual stream."""
    draw = torch.Generator().manual_seed(0)
    offset = torch.randn(WIDTH, generator=draw)
    return scale * (offset + torch.randn(BATCH, CONTEXT, WIDTH, generator=draw) * 1.0)


def quarter_left(x: Tensor) -> Tensor:
    """A reconstruction that leaves exactly a quarter of the variance."""
    mean = x.flatten(0, 1).mean(0)
    return mean + (x - mean) / 2


def ours(x: Tensor, written: Tensor) -> float:
    """Explained variance as `saelab analyse RUN core` has it."""
    rows, flat = x.flatten(0, 1), written.flatten(0, 1)
    count = len(rows)
    none = Codes(indices=torch.zeros(count, 1, dtype=torch.long), values=torch.zeros(count, 1), d_sae=1)
    kept = reconstruction(rows, lambda _: (flat, none), rows.mean(0), torch.ones(WIDTH))
    return ratio(kept.spread - kept.error, kept.spread, np.arange(count) // CONTEXT).value


def saebench_explained_variance(x: Tensor, written: Tensor) -> float:
    """SAEBench 0.6.0, evals/core/main.py, lines 586 and 618: the square of the mean is taken as the mean of x² over the width, squared."""
    flat, error = x.flatten(0, 1), (x - written).flatten(0, 1)
    of_squares = flat.square().sum(-1).mean()
    squared = flat.square().mean().square()
    return float(1 - error.square().sum(-1).mean() / (of_squares - squared))


def saebench_mse(x: Tensor, written: Tensor) -> float:
    """SAEBench 0.6.0, evals/core/main.py, line 570: the squared error of a token, divided by the batch's tokens, then averaged."""
    error = (x - written).flatten(0, 1).square().sum(-1)
    return float((error / len(error)).mean())


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_explained_variance_is_that_of_the_definition_at_every_scale_where_saebenchs_moves(scale):
    x = activations(scale)
    mean = x.flatten(0, 1).mean(0).expand_as(x)
    assert ours(x, mean) == pytest.approx(0, abs=1e-5)
    assert ours(x, quarter_left(x)) == pytest.approx(0.75, abs=1e-5)
    assert abs(saebench_explained_variance(x, mean)) > 0.1, "predicting the mean explains nothing"


def test_saebenchs_explained_variance_of_one_reconstruction_is_anything():
    found = [saebench_explained_variance(scale * activations(), scale * quarter_left(activations())) for scale in (0.1, 1.0, 3.0, 10.0)]
    assert max(found) > 1 or max(found) - min(found) > 0.2
    assert [ours(scale * activations(), scale * quarter_left(activations())) for scale in (0.1, 10.0)] == pytest.approx([0.75, 0.75])


def test_saebenchs_mean_squared_error_depends_on_the_batch():
    x = activations()
    written = quarter_left(x)
    whole, half = saebench_mse(x, written), saebench_mse(x[: BATCH // 2], written[: BATCH // 2])
    assert half == pytest.approx(2 * whole, rel=0.05)


def test_a_mean_of_ratios_is_not_the_share_of_variance():
    """SAEBench's `explained_variance_legacy`, as its paper reports: mean over tokens of 1 - |x - x̂|² / |x - mean|²."""
    x = activations()
    mean = x.flatten(0, 1).mean(0)
    near = torch.rand(BATCH, CONTEXT, 1, generator=torch.Generator().manual_seed(1)) < 0.2
    x = torch.where(near, mean + 0.05 * (x - mean), x)  # tokens close to the mean, such as those of a common format
    written = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    spread = (x - x.flatten(0, 1).mean(0)).square().sum(-1)
    legacy = float((1 - (x - written).square().sum(-1) / spread).mean())
    assert ours(x, written) == pytest.approx(0.69, abs=0.02)
    assert legacy < -5


def test_answering_none_scores_most_of_saebenchs_autointerp():
    """SAEBench 0.6.0, evals/autointerp/main.py: 14 examples, of which 4 are active; the score is the share of right answers."""
    active = np.array([True] * 4 + [False] * 10)
    said = np.zeros(14, bool)
    assert (said == active).mean() == pytest.approx(10 / 14, abs=1e-9)
    assert area(said.astype(float), active) == 0.5


def test_windows_taken_for_silent_without_a_look_are_mostly_active_for_a_dense_feature():
    """SAEBench 0.6.0, evals/autointerp/main.py, line 485: random windows of 21 tokens get activations of 0."""
    draw = np.random.default_rng(0)
    fires = draw.random((4000, 21)) < 0.05
    assert fires.any(1).mean() == pytest.approx(1 - 0.95**21, abs=0.03)
    assert 1 - 0.95**21 > 0.65


def delphi_sample(count: int, each: int) -> list[set[int]]:
    """delphi 0.1.3, latents/samplers.py: a random sample from each of ten quantiles, strongest first, with seed 22."""
    draw, size = random.Random(22), count // 10
    return [set(draw.sample(range(part * size, (part + 1) * size), each)) for part in range(10)]


@pytest.mark.parametrize(("count", "share"), [(200, 0.4), (2000, 0.2)])
def test_windows_that_delphi_tests_on_were_shown_to_the_explainer_and_ours_never(count, share):
    shown, tested = delphi_sample(count, 4), delphi_sample(count, 5)
    overlap = [len(a & b) / len(b) for a, b in zip(shown, tested, strict=True)]
    assert overlap[0] == 0.8, "in the strongest decile"
    assert np.mean(overlap) == pytest.approx(share)
    splits = [document_info(Document(key=f"text/{number}", domain="x")).split for number in range(count)]
    sides = [{number for number, split in enumerate(splits) if split == name} for name in ("explain", "score")]
    assert not sides[0] & sides[1]


def test_a_probe_that_is_stopped_on_its_test_rows_tells_noise():
    """SAEBench 0.6.0, probe_training.py, line 285: the epoch of a probe is chosen by its accuracy on the test set."""
    draw = np.random.default_rng(0)
    gained: list[float] = []
    for seed in range(5):
        x, y = torch.from_numpy(draw.standard_normal((120, 200))), torch.from_numpy((draw.random(120) < 0.5).astype(float))
        weights = torch.zeros(200, dtype=torch.float64)
        best = 0.0
        for _ in range(60):
            weights -= 0.1 * x[:80].T @ (torch.sigmoid(x[:80] @ weights) - y[:80]) / 80
            best = max(best, float(((x[80:] @ weights > 0) == (y[80:] > 0)).double().mean()))
        found = validated(x.numpy(), y.numpy() > 0, np.arange(120), None, seed)
        gained.append(best - 0.5)
        assert abs(found.auroc - 0.5) < 0.25
    assert np.mean(gained) > 0.02


def test_a_feature_is_not_its_weakest_tokens():
    """delphi 0.1.3, cache.py, line 545: the token statistic of a feature reads its 50 weakest activations, for they are sorted upwards."""
    values = np.concatenate([np.full(50, 0.1), np.full(150, 5.0)])
    tokens = np.concatenate([np.arange(50) % 17, np.full(150, 7)])
    theirs = tokens[np.argsort(values, kind="stable")[:50]]
    top = tokens[np.argsort(-values, kind="stable")[:50]]
    assert (theirs == 7).mean() < 0.1
    assert (top == 7).mean() == 1


def test_zero_ablation_makes_a_poor_dictionary_look_good():
    """CE recovered against zero, as SAEBench and SAELens report it, and against the mean, on losses such as a residual stream gives."""
    clean, spliced, mean, zero = 3.0, 4.0, 5.0, 13.0
    assert (zero - spliced) / (zero - clean) == pytest.approx(0.9)
    assert (mean - spliced) / (mean - clean) == 0.5


def saebench_scr(base: float, oracle: float, without: float) -> float:
    """SAEBench 0.6.0, evals/scr_and_tpp: the share of the gap between two accuracies that is closed, 0 for a gap below 0.001."""
    return 0.0 if oracle - base < 0.001 else (without - base) / (oracle - base)


@pytest.mark.parametrize(("low", "theirs"), [(-1.0, 1.0), (0.0, 0.0)])
def test_scr_of_the_very_feature_of_the_bias_is_nothing_where_that_feature_is_silent_on_one_side(low, theirs):
    """Set to 0, a feature of one side alone moves all texts past the probe's threshold; set to its mean, none."""
    biased = confounded(low)
    tests, scores, feature = biased.sets[OWN], Scores([biased], seed=0), np.array([SPURIOUS])
    right = {to: biased.right(tests.without(feature, to)) for to in ("zero", "mean")}
    base, oracle = biased.right(tests.answers).mean(), biased.oracle.mean()
    assert saebench_scr(base, oracle, right["zero"].mean()) == pytest.approx(theirs, abs=0.1)
    assert scores.score([right["mean"]]).value == pytest.approx(1.0, abs=0.1)


def test_scr_of_a_probe_without_bias_is_the_noise_of_one_text_in_two_hundred():
    assert saebench_scr(base=0.900, oracle=0.905, without=0.910) == pytest.approx(2.0)
    assert saebench_scr(base=0.900, oracle=0.905, without=0.890) == pytest.approx(-2.0)


def test_tpp_is_at_its_best_for_features_that_say_nothing_of_the_classes():
    """Features that fire on all texts alike, each read by one probe: without it that probe says no to everything."""
    found, accuracies = classes()
    count = found.asked.shape[1]
    codes = sparse.csr_array(np.full((len(found.positive), count), 5.0))
    alike = replace(found.sets[OWN], codes=codes, centre=np.full(count, 5.0), pulls=20 * np.eye(count))
    features = [np.array([number]) for number in range(count)]
    theirs, ours = (targeted(drops(replace(found, sets={OWN: alike}), accuracies, OWN, features, to))[0] for to in ("zero", "mean"))
    assert theirs == pytest.approx(0.5, abs=0.02), "the most that TPP can be"
    assert ours == 0


def test_tpp_of_the_true_features_is_not_at_its_best():
    """A probe tells a class by the absence of the others too, and keeps that when the feature of the class is gone."""
    found, accuracies = classes()
    drop = drops(found, accuracies, OWN, [np.array([number]) for number in range(4)], "zero")
    assert 0.25 < targeted(drop)[0] < 0.45
