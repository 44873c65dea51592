"""Several processes step a part of the weights each, from the terms of all: by Triton's interpreter, against one process with all rows."""

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch

from saelab.distributed.group import Group
from saelab.distributed.ranks import ALONE
from saelab.kernels.low import low
from saelab.kernels.sparse import HAS_TRITON
from saelab.kernels.terms import collect
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.topk import TopK
from saelab.training import TrainConfig, Trainer

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="Triton is for GPUs, and for Linux")
CPU = torch.device("cpu")
WIDTH, D_SAE, K, SIZE, STEPS = 12, 16, 2, 8, 3
KINDS = {"topk": TopK, "batchtopk": BatchTopK}
MODULES = ("saes.base", "kernels.sparse", "kernels.selection")


def trainer(kind, ranks, clip):
    """One whose weights collect terms, as on a GPU; a few features are dead from the beginning."""
    made = KINDS[kind](WIDTH, KINDS[kind].Config(d_sae=D_SAE, k=K, k_aux=1))
    held = ranks.hold(lambda: made, CPU)
    made = Trainer(
        held, TrainConfig(steps=100, batch_size=SIZE, lr=1e-2, clip=clip, dead_after=10**6, warmup=0, precision="bf16"), ranks=ranks
    )
    made.idle[3:5] = 10**7
    optimiser = made.optimiser
    optimiser.param_groups[0]["lr"], optimiser._betas = torch.tensor(1e-2), torch.tensor([0.9, 0.99], dtype=torch.float64)
    for weight in (held.encoder, held.decoder):
        collect(weight, ranks)
    return made


def rows(number):
    return torch.randn(SIZE, WIDTH, generator=torch.Generator().manual_seed(number)) + 0.3


def trained(job, kind, clip, alone):
    """Weights, copies and moments after some steps; first as this process has them, then made whole."""
    ranks = ALONE if alone else Group(job, 1, CPU)
    made = trainer(kind, ranks, clip)
    made.initialise(rows(0))
    with ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(patch(f"saelab.{module}.fast", lambda _: True))
        for step in range(STEPS):
            made.step(rows(step) if alone else rows(step).chunk(2)[job.rank])
        weights = made.dictionary.encoder, made.dictionary.decoder
        before = [weight.detach().clone() for weight in weights]
        made._agree()
        made.optimiser.whole()
        state = [made.optimiser.state[weight][name] for weight in weights for name in ("exp_avg", "exp_avg_sq")]
        copies = [low(weight).float() for weight in weights]
    return before, [*(parameter.detach() for parameter in made.dictionary.parameters()), *state, *copies, made.idle]


@pytest.mark.parametrize(("kind", "clip"), [("topk", 1e3), ("topk", 1e-3), ("batchtopk", 1.0)])
def test_two_processes_that_step_half_of_the_features_each_are_one(crew, kind, clip):
    (_, one), _ = crew.run(trained, kind, clip, True)
    (first, found), (second, same) = crew.run(trained, kind, clip, False)
    for mine, theirs, expected in zip(found, same, one, strict=True):
        assert mine.equal(theirs), "both ranks go on with the same bits"
        torch.testing.assert_close(mine, expected, rtol=2e-2, atol=2e-3)
    for mine, theirs, whole in zip(first, second, found[:2], strict=True):
        half = D_SAE // 2
        assert mine[:half].equal(whole[:half]), "what the first rank has stepped"
        assert theirs[half:].equal(whole[half:]), "what the second rank has stepped"
        assert not mine[half:].equal(whole[half:]), "the rest is old until it is asked for"
