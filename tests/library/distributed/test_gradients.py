"""The gradients of all ranks' rows, from terms and from dense ones."""

import importlib

import pytest
import torch
import torch.distributed as dist

from saelab.distributed.gradients import Exchange
from saelab.kernels.adam import Adam
from saelab.kernels.segments import Segments
from saelab.kernels.sparse import HAS_TRITON
from saelab.kernels.terms import Term, collect, collected

D_SAE, WIDTH, ROWS, K = 12, 40, 6, 3


def codes(noise, flat, k=K):
    """The entries of some codes; flat ones have as many as chance will have."""
    entries = int(torch.randint(1, ROWS * k, (), generator=noise)) if flat else ROWS * k
    rows = torch.randint(0, ROWS, (entries,), generator=noise).sort().values if flat else None
    return Segments(torch.randint(0, D_SAE, (entries,), generator=noise), rows, D_SAE, k)


def term(noise, x, flat, segments):
    """A term as a backward pass leaves it."""
    values, features = torch.randn(len(segments.order), generator=noise), segments.features.long()
    ordered = values[segments.order]
    sums = torch.zeros(D_SAE).index_add_(0, features, ordered)
    reach = torch.zeros(D_SAE).index_add_(0, features, ordered.abs() * x[segments.rows].norm(dim=1))
    return Term(ordered, x, segments, sums, reach)


def summed(term):
    """The gradient that a term stands for; entries that fill it up are of a feature behind the last."""
    segments = term.segments
    rows = term.values[:, None] * term.x[segments.rows]
    return torch.zeros(D_SAE + 1, WIDTH).index_add_(0, segments.features.long(), rows)[:D_SAE]


def weights(job, flat):
    """An encoder, a decoder and a bias with a rank's gradients, as terms where they can be; and the same gradients."""
    noise = torch.Generator().manual_seed(7 + job.rank)
    x, error = torch.randn(2, ROWS, WIDTH, generator=noise)
    both, more = codes(noise, flat), codes(noise, flat, k=2)
    made = [torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0))) for shape in [(D_SAE, WIDTH)] * 2 + [(5,)]]
    made[2].grad = torch.randn(5, generator=noise)
    for weight, terms in zip(made, [[(x, both)], [(error, both), (x, more)]], strict=False):
        collect(weight)
        collected(weight).extend(term(noise, rows, flat, segments) for rows, segments in terms)
    return made, [*([summed(found) for found in collected(weight)] for weight in made[:2]), [made[2].grad.clone()]]


def both(job, flat, early):
    """The mean of the ranks' gradients: from terms, and by a sum."""
    made, gradients = weights(job, flat)
    expected = torch.cat([sum(parts).flatten() for parts in gradients])
    dist.all_reduce(expected)
    exchange = Exchange(dist.group.WORLD)
    if early:
        for found in collected(made[1]):
            exchange.tell_rows(found.x)
            exchange.tell_entries(found.segments, ROWS)
    exchange.reduce(made)
    encoder, decoder = (collected(weight) for weight in made[:2])
    assert encoder[0].segments is decoder[0].segments, "what both share is sorted once"
    assert encoder[0].x.equal(decoder[1].x), "rows are those of all ranks"
    for found in (*encoder, *decoder):
        norms = summed(found).norm(dim=1)
        assert bool((norms <= found.reach * (1 + 1e-5)).all()), "reach is a bound"
        assert found.sums.sum().item() == pytest.approx(found.values.sum().item(), abs=1e-4)
    return torch.cat([*(sum(summed(found) for found in some).flatten() for some in (encoder, decoder)), made[2].grad]), expected / 2


@pytest.mark.parametrize(("flat", "early"), [(False, False), (False, True), (True, True)])
def test_exchanged_terms_are_the_mean_of_the_gradients(crew, flat, early):
    for found, expected in crew.run(both, flat, early):
        torch.testing.assert_close(found, expected)


def stepped(job, flat):
    """The norm of the decoder's gradient, and the decoder after a step: from all ranks' terms by the kernels, and in plain PyTorch."""
    kernels = importlib.import_module("saelab.kernels.gpu.update")  # by Triton's interpreter, which only the crew has switched on
    (_, weight, _), (_, parts, _) = weights(job, flat)
    weight.data = torch.nn.functional.normalize(weight.detach(), dim=1)
    dense = torch.nn.Parameter(weight.detach().clone())
    dense.grad = sum(parts)
    along = [(summed(found) * weight.detach()).sum(1) for found in collected(weight)]
    collected(weight)[:] = [found._replace(sums=sums) for found, sums in zip(collected(weight), along, strict=True)]
    for each in (weight, dense):
        Exchange(dist.group.WORLD).reduce([each])
    plain = Adam([dense], lr=0.1, betas=(0.9, 0.99), clip=1e9, unit=[dense])
    plain.step()
    with torch.no_grad():
        gradient = kernels.Gradient(weight, collected(weight), True, None)
        gradient.norms(torch.tensor(1.0), 0.0, norms := torch.zeros(D_SAE))
        moments, corrections = (torch.zeros_like(weight), torch.zeros_like(weight)), torch.tensor([0.1, 0.01])
        gradient.step(weight, weight.bfloat16(), moments, torch.tensor(0.1), corrections, torch.tensor(1.0), 1e9, (0.9, 0.99), 1e-8)
    return (norms.norm(), weight.detach()), (dense.grad.norm(), dense.detach())


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is for GPUs, and for Linux")
@pytest.mark.parametrize("flat", [False, True])
def test_the_kernels_step_from_the_terms_of_all_ranks(crew, flat):
    answers = crew.run(stepped, flat)
    for found, expected in answers:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert answers[0][0][1].equal(answers[1][0][1]), "both ranks go on with the same bits"
