"""The Triton kernels, run by Triton's interpreter on small shapes, against plain PyTorch; on a GPU the same tests run compiled."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":

    def test_kernels_by_the_interpreter():
        """Triton reads the variable when it is imported, so these tests have a process of their own."""
        found = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-3000:]
        assert " passed" in found.stdout

else:
    from torch.nn import functional

    from saelab.dictionary import DICTIONARIES
    from saelab.kernels.gpu import threshold as gpu_threshold
    from saelab.kernels.gpu.gather import centred, dots, residuals, sums
    from saelab.kernels.gpu.nested import group_starts, rests
    from saelab.kernels.gpu.segments import term_of
    from saelab.kernels.gpu.select import batch_topk_places, topk_places
    from saelab.kernels.gpu.threshold import listed as gpu_listed
    from saelab.kernels.gpu.update import Gradient
    from saelab.kernels.low import low, row_norms
    from saelab.kernels.nested import _Nested, cuts, nested
    from saelab.kernels.segments import Segments
    from saelab.kernels.sparse import gather_sum, segment_sum
    from saelab.kernels.terms import collect, taken
    from saelab.kernels.threshold import listed

    DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    ROWS, WIDTH, D_SAE, K = 150, 70, 43, 4

    def noise(*shape, seed=0):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)

    def first(values, k):
        """Places of the k largest of each row; of equal values the first."""
        return values.sort(dim=-1, descending=True, stable=True).indices[..., :k].sort(-1).values

    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize(("rows", "width", "k"), [(3, 100, 5), (4, 700, 32), (2, 64, 64), (2, 130, 100)])
    def test_the_largest_of_each_row_and_of_equal_ones_the_first(rows, width, k, signed):
        values = noise(rows, width).bfloat16()
        values[0] = (values[0] * 2).round() / 2
        found, places = topk_places(values, k, signed)
        assert torch.equal(places, first(values.float().abs() if signed else values.float(), k))
        assert torch.equal(found, values.float().gather(1, places))

    @pytest.mark.parametrize(("rows", "width", "count"), [(3, 100, 1), (4, 700, 128), (2, 130, 260), (2, 130, 200), (5, 1000, 60)])
    def test_the_largest_of_a_whole_batch_and_of_equal_ones_the_first(rows, width, count):
        values = noise(rows, width).bfloat16()
        values[0] = (values[0] * 2).round() / 2
        found, rows, columns = batch_topk_places(values, count)
        places = rows * width + columns
        assert torch.equal(places, first(values.float().flatten(), count))
        assert torch.equal(found, values.float().flatten()[places])

    @pytest.mark.parametrize("room", [(3000, 4000), (40, 30), (700, None)])
    @pytest.mark.parametrize(("rows", "width"), [(7, 700), (1, 40), (9, 512)])
    def test_lists_of_thresholds_are_those_of_plain_pytorch_also_where_there_is_no_room(rows, width, room):
        pre = (noise(rows, width) * 4).round().bfloat16() / 4
        pre[rows // 2] = -9.0  # a row without entries
        threshold, reach = (noise(width, seed=1).abs() * 4).round() / 4, noise(width, seed=2).abs()  # many are just at their thresholds
        reach[::3] = 0.0
        for found, wanted in zip(gpu_listed(pre, threshold, reach, room), listed(pre, threshold, reach, room), strict=True):
            for one, other in zip(found, wanted, strict=True):
                assert torch.equal(one, other)
        over = pre.float() > threshold
        found = gpu_listed(pre, threshold, reach, room)[0]
        assert found.total == over.sum()
        assert torch.equal(found.values[: found.starts[-1]], pre.float()[over][: room[0]])

    def test_a_word_with_all_bits_set_is_read_in_order():
        pre = torch.ones(3, 70, device=DEVICE).bfloat16()
        pre[1] = -1.0
        over, near = gpu_listed(pre, torch.zeros(70, device=DEVICE), torch.full((70,), 2.0, device=DEVICE), (150, 300))
        assert over.indices[:140].tolist() == [*range(70), *range(70)]
        assert over.rows[:140].tolist() == [0] * 70 + [2] * 70
        assert near.indices[:210].tolist() == [*range(70)] * 3
        assert (over.total, near.total) == (140, 210)

    @pytest.mark.parametrize("rows", [5, 150])
    def test_what_pulls_at_thresholds_is_summed_from_products_also_in_parts(rows, monkeypatch):
        residual, decoder = noise(rows, 40).bfloat16(), noise(600, 40, seed=1).bfloat16()
        near = listed(noise(rows, 600, seed=2), noise(600, seed=3).abs(), noise(600, seed=4).abs(), (1, None))[1]
        wanted = near.pull(residual.double(), decoder.double(), residual)
        for part in (2**28, 256 * rows):
            monkeypatch.setattr(gpu_threshold, "_PART", part)
            along, count = gpu_threshold.pulled(near.bits, residual, decoder)
            assert torch.equal(count.double(), wanted[1])
            assert torch.allclose(along.double(), wanted[0], atol=0.02 * float(wanted[0].abs().max()))

    def test_unused_entries_of_lists_belong_to_no_feature():
        pre = noise(20, 300).bfloat16()
        found = gpu_listed(pre, torch.full((300,), 1.5, device=DEVICE), torch.full((300,), 0.2, device=DEVICE), (2000, 600))[0]
        found.prepare(300)
        assert torch.equal(found.counts(300), (pre.float() > 1.5).sum(0))
        sums = found.sums(
            torch.where(torch.arange(2000, device=DEVICE) < found.starts[-1], found.values, torch.nan), low(noise(20, 8)), 300
        )
        assert torch.allclose(sums, torch.where(pre.float() > 1.5, pre.float(), 0.0).sum(0), atol=1e-5)

    @pytest.fixture(scope="module")
    def world():
        """Rows, unit weight rows, codes with one feature that is active on every row, and the dense gradient of their outer products."""
        weight = functional.normalize(noise(D_SAE, WIDTH, seed=1), dim=1)
        draw = torch.Generator().manual_seed(2)
        indices = torch.stack([torch.randperm(D_SAE, generator=draw)[:K] for _ in range(ROWS)]).to(DEVICE)
        indices[:, 1:][indices[:, 1:] == 3] = 4
        indices[:, 0] = 3
        values = noise(ROWS, K, seed=3)
        dense = torch.zeros(ROWS, D_SAE, device=DEVICE).scatter_add(1, indices, values)
        return noise(ROWS, WIDTH, seed=4), weight, indices, values, dense

    def test_rows_are_centred_and_their_norms_known(world):
        rows, offset = world[0], noise(WIDTH, seed=5)
        found = centred(rows, offset)
        assert torch.allclose(found.float(), rows - offset, rtol=2**-7)
        assert torch.allclose(row_norms(found), (rows - offset).norm(dim=1))

    @pytest.mark.parametrize("flat", [False, True])
    def test_dots_sums_and_residuals_are_dense_products(world, flat):
        rows, weight, indices, values, dense = world
        starts = torch.arange(0, ROWS * K + 1, K, device=DEVICE) if flat else None
        read, bias, shift = indices.flatten() if flat else indices, noise(D_SAE, seed=6), noise(WIDTH, seed=7)
        wanted = (low(rows).float() @ low(weight).float().T + bias).gather(1, indices)
        assert torch.allclose(dots(low(rows), low(weight), bias, read, starts).view(ROWS, K), wanted, atol=1e-4)
        written = dense @ low(weight).float()
        flat_values = values.flatten() if flat else values
        assert torch.allclose(sums(flat_values, read, low(weight), starts), written, atol=1e-4)
        residual, squares = residuals(flat_values, read, low(weight), starts, rows, shift)
        assert torch.allclose(residual, rows - shift - written, atol=1e-4)
        assert torch.allclose(low(residual).float(), residual, rtol=2**-7)
        assert torch.allclose(squares.sum(1), residual.square().sum(1), rtol=1e-4)

    def term(rows, indices, values, weight):
        """A term, and the gradient that it stands for."""
        segments, x = Segments(indices.flatten(), None, D_SAE, indices.shape[1]), low(rows)
        dense = torch.zeros(len(rows), D_SAE, device=DEVICE).scatter_add(1, indices, values).T @ x.float()
        along = (x.float() @ weight.T).gather(1, indices)
        half = torch.tensor(0.5, device=DEVICE)
        return term_of(2 * values, x, segments, half, half * along), dense

    def test_sums_over_features_are_right_and_the_bound_holds(world):
        rows, weight, indices, values, _ = world
        found, gradient = term(rows, indices, values, weight)
        assert torch.allclose(found.sums, (gradient * weight).sum(1), atol=1e-3)
        assert (found.reach * (1 + 1e-5) >= gradient.norm(dim=1)).all()

    @pytest.mark.parametrize("extra", [False, True])
    @pytest.mark.parametrize("unit", [False, True])
    @pytest.mark.parametrize("number", [1, 2])
    def test_a_step_is_that_of_pytorchs_adam_on_the_dense_gradient(world, number, unit, extra):
        rows, weight, indices, values, _ = world
        others = torch.arange(40, device=DEVICE).view(20, 2) % D_SAE
        made = [term(rows, indices, values, weight), term(noise(20, WIDTH, seed=8), others, noise(20, 2, seed=9), weight)][:number]
        gradient = sum(dense for _, dense in made)
        dense = noise(D_SAE, WIDTH, seed=10) if extra else None
        gradient = gradient if dense is None else gradient + dense
        if unit:
            gradient = gradient - (gradient * weight).sum(1, keepdim=True) * weight
        found, norms = Gradient(weight, [one for one, _ in made], unit, dense), torch.zeros(D_SAE, device=DEVICE)
        found.norms(torch.tensor(1.0, device=DEVICE), 1.0, norms)
        assert not norms.any()
        found.norms(torch.tensor(1.1, device=DEVICE), 1.0, norms)
        assert torch.allclose(norms, gradient.norm(dim=1), rtol=1e-4, atol=1e-5)
        stepped, reference = weight.clone(), torch.nn.Parameter(weight.clone())
        reference.grad = 0.5 * gradient
        optimiser = torch.optim.Adam([reference], lr=1e-2, betas=(0.9, 0.99))
        optimiser.step()
        moments, copy = (torch.zeros_like(weight), torch.zeros_like(weight)), weight.bfloat16()
        numbers = [torch.tensor(number, device=DEVICE) for number in (1e-2, [0.1, 0.01], 6.0)]
        found.step(stepped, copy, moments, *numbers, 3.0, (0.9, 0.99), 1e-8)
        wanted = functional.normalize(reference.detach(), dim=1) if unit else reference.detach()
        assert torch.allclose(stepped, wanted, atol=1e-5)
        assert torch.allclose(copy.float(), stepped, rtol=2**-7)
        assert torch.allclose(moments[1], optimiser.state[reference]["exp_avg_sq"], rtol=1e-3, atol=1e-9)

    FEW = 13
    GROUPS = {"five": (0, 2, 5, 9, 30), "one": (0,), "a lone feature": (0, 42), "one that is never active": (0, 7, 8, 25)}

    @pytest.fixture(scope="module")
    def flat_codes():
        """Flat codes, features rising within a row: every fourth row is empty, as is the last, and feature 7 is never active."""
        held = torch.rand(FEW, D_SAE, generator=torch.Generator().manual_seed(0)) < 0.2
        held[::4], held[-1], held[:, 7] = False, False, False
        row, indices = held.nonzero(as_tuple=True)
        starts = torch.searchsorted(row, torch.arange(FEW + 1))
        return noise(len(row), seed=1), indices.to(DEVICE), starts.to(DEVICE)

    @pytest.mark.parametrize("firsts", GROUPS.values(), ids=GROUPS)
    def test_groups_begin_where_plain_pytorch_finds_them(flat_codes, firsts):
        _, indices, starts = flat_codes
        found = group_starts(indices, starts, torch.tensor(firsts, device=DEVICE))
        assert torch.equal(found, cuts(indices, starts, firsts))

    @pytest.mark.parametrize(("width", "shifted", "collects"), [(WIDTH, True, True), (256, False, False)])
    @pytest.mark.parametrize("firsts", GROUPS.values(), ids=GROUPS)
    def test_nested_sums_are_those_of_plain_pytorch(flat_codes, firsts, width, shifted, collects):
        values, indices, starts = flat_codes
        rounded = low(functional.normalize(noise(D_SAE, width, seed=2), dim=1)).float()
        given = values, rounded, noise(FEW, width, seed=3), noise(width, seed=4) if shifted else None
        ours, theirs = ([None if part is None else part.clone().requires_grad_() for part in given] for _ in range(2))
        if collects:
            collect(ours[1])
        found = _Nested.apply(ours[0], indices, ours[1], starts, firsts, *ours[2:])
        wanted = nested(theirs[0], indices.clone(), theirs[1], starts, firsts, *theirs[2:])
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
        again = _Nested.apply(values, indices, rounded, starts, firsts, *given[2:])
        assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
        (3 * found[0]).backward()
        (3 * wanted[0]).backward()
        for one, other in zip(ours, theirs, strict=True):
            if one is not None and (one is not ours[1] or not collects):
                assert close(one.grad, other.grad)
        if collects:
            (term,) = taken(ours[1])
            gradient = theirs[1].grad
            assert ours[1].grad is None
            assert close(term_sum(term), gradient)
            assert torch.allclose(term.sums, (gradient * rounded).sum(1), atol=2**-6 * float(gradient.norm(dim=1).max()))
            assert (term.reach * (1 + 2**-6) >= gradient.norm(dim=1)).all()

    def term_sum(term):
        """The gradient that a term stands for."""
        values = torch.empty_like(term.values).index_copy_(0, term.segments.order, term.values)
        return segment_sum(values, term.x.float(), term.segments)

    def close(one, other):
        """But for rows in bfloat16: what a GPU rounds, the interpreter cuts off."""
        return torch.allclose(one, other, rtol=2**-6, atol=2**-6 * float(other.abs().max()))

    def test_rests_are_what_a_group_and_those_after_it_leave(flat_codes):
        values, indices, starts = flat_codes
        weight, wanted, firsts = low(noise(D_SAE, WIDTH, seed=2)), noise(FEW, WIDTH, seed=3), GROUPS["five"]
        bounds = cuts(indices, starts, firsts)
        left = wanted[:, None] - gather_sum(values, indices, weight.float(), bounds).view(FEW, len(firsts), WIDTH).cumsum(1)
        rest = left.flip(1).cumsum(1).flip(1).flatten(0, 1)
        found, residual, squares, error = rests(values, indices, weight, bounds, len(firsts), wanted, None)
        assert close(found.float(), rest)
        assert torch.allclose(row_norms(found), rest.norm(dim=1), rtol=2**-6)
        assert torch.allclose(residual, left[:, -1], atol=1e-4)
        assert torch.allclose(squares, left.square().sum(), rtol=1e-4)
        assert torch.allclose(error, left[:, -1].square().sum(), rtol=1e-4)

    def losses(sae, rows, dead):
        """The terms of a loss, and the gradients of all weights, those that are left as terms summed up."""
        found = sae.losses(rows, dead, 1.0)
        sum(found.terms.values()).backward()
        gradients = {name: weight.grad for name, weight in sae.named_parameters()}
        for name in ("encoder", "decoder"):
            terms = taken(getattr(sae, name))
            assert bool(terms) == (gradients[name] is None)
            if terms:
                gradients[name] = sum(term_sum(term) for term in terms)
        return {name: term.detach() for name, term in found.terms.items()}, gradients

    @pytest.mark.parametrize(("kind", "more"), [("topk", {"multi": 0.5}), ("abstopk", {}), ("batchtopk", {}), ("matryoshka", {})])
    def test_a_loss_by_kernels_is_that_of_plain_pytorch(monkeypatch, kind, more):
        """As far as bfloat16 goes."""
        made = DICTIONARIES[kind]
        sae = made(WIDTH, made.Config(d_sae=D_SAE, k=K, **more)).to(DEVICE)
        rows, dead = 3 * noise(FEW, WIDTH, seed=1) + 1, torch.tensor([3, 9, 11, -1], device=DEVICE)
        sae.initialise(rows, torch.Generator().manual_seed(0))
        with torch.no_grad():
            sae.b_enc.add_(0.1 * noise(D_SAE, seed=2))
        monkeypatch.setattr("saelab.kernels.selection.fast", lambda _: True)  # the same features are chosen
        wanted = losses(sae, rows, dead)
        sae.zero_grad(set_to_none=True)
        for module in ("saes.base", "kernels.sparse", "kernels.nested"):
            monkeypatch.setattr(f"saelab.{module}.fast", lambda _: True)
        collect(sae.encoder)
        collect(sae.decoder)
        with torch.autocast(DEVICE, torch.bfloat16):
            found = losses(sae, rows, dead)
        assert found[0].keys() == wanted[0].keys()
        for name, term in wanted[0].items():
            assert torch.allclose(found[0][name], term, rtol=2e-2), name
        for name, gradient in wanted[1].items():
            assert functional.cosine_similarity(found[1][name].flatten(), gradient.flatten(), dim=0) > 0.999, name
            assert torch.allclose(found[1][name].norm(), gradient.norm(), rtol=2e-2), name
