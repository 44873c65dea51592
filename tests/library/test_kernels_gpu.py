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

    from saelab.kernels.gpu.gather import centred, dots, residuals, sums
    from saelab.kernels.gpu.segments import term_of
    from saelab.kernels.gpu.select import batch_topk_places, topk_places
    from saelab.kernels.gpu.threshold import listed as gpu_listed
    from saelab.kernels.gpu.update import Gradient
    from saelab.kernels.low import low, row_norms
    from saelab.kernels.segments import Segments
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

    @pytest.mark.parametrize(("rows", "width", "count"), [(3, 100, 1), (4, 700, 128), (2, 130, 260), (5, 1000, 60)])
    def test_the_largest_of_a_whole_batch_and_of_equal_ones_the_first(rows, width, count):
        values = noise(rows, width).bfloat16()
        values[0] = (values[0] * 2).round() / 2
        found, rows, columns = batch_topk_places(values, count)
        places = rows * width + columns
        assert torch.equal(places, first(values.float().flatten(), count))
        assert torch.equal(found, values.float().flatten()[places])

    @pytest.mark.parametrize("room", [(3000, 4000), (40, 30), (700, 30)])
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
        assert torch.allclose(row_norms(low(residual)), residual.norm(dim=1), rtol=1e-4)
        assert torch.allclose(squares, residual.square().sum(), rtol=1e-5)

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
