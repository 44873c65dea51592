import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.kernels.adam import Adam
from saelab.kernels.low import low
from saelab.kernels.segments import segments_of
from saelab.kernels.selection import topk_codes
from saelab.kernels.sparse import _pieces, gather_dot, gather_sum, segment_sum


def drawn(rows, d_in, d_sae, k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows + d_in + d_sae + k)
    x = torch.randn(rows, d_in, generator=generator, dtype=dtype)
    weight = torch.randn(d_sae, d_in, generator=generator, dtype=dtype)
    bias = torch.randn(d_sae, generator=generator, dtype=dtype)
    return x, weight, bias, topk_codes(x, weight, bias, k)[1]


def dense_sum(values, indices, weight):
    return torch.zeros(len(values), len(weight), dtype=values.dtype).scatter_add(1, indices, values) @ weight


def agrees(sparse, dense, inputs):
    """Values and all gradients of two functions, to the last digits of float64."""
    outputs = sparse(*inputs), dense(*inputs)
    probe = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad((output * probe).sum(), inputs) for output in outputs]
    pairs = [outputs, *zip(*gradients, strict=True)]
    return all(torch.allclose(one, other, rtol=1e-10, atol=1e-10) for one, other in pairs)


@pytest.mark.parametrize(("rows", "d_in", "d_sae", "k"), [(7, 5, 11, 3), (1, 4, 4, 4), (64, 16, 40, 1)])
def test_gather_dot_is_the_dense_product_at_the_indices(rows, d_in, d_sae, k):
    x, weight, _, indices = drawn(rows, d_in, d_sae, k)
    inputs = (x.requires_grad_(), weight.requires_grad_())
    assert agrees(lambda x, w: gather_dot(x, w, indices), lambda x, w: (x @ w.T).gather(1, indices), inputs)


@pytest.mark.parametrize(("rows", "d_in", "d_sae", "k"), [(7, 5, 11, 3), (1, 4, 4, 4), (64, 16, 40, 1)])
def test_gather_sum_is_the_dense_product_of_scattered_values(rows, d_in, d_sae, k):
    _, weight, _, indices = drawn(rows, d_in, d_sae, k)
    inputs = (torch.randn(rows, k, dtype=torch.float64, requires_grad=True), weight.requires_grad_())
    assert agrees(lambda v, w: gather_sum(v, indices, w), lambda v, w: dense_sum(v, indices, w), inputs)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 20), d_in=st.integers(1, 9), d_sae=st.integers(1, 30), data=st.data())
def test_segments_are_the_transposed_product_also_with_repeated_and_absent_features(rows, d_in, d_sae, data):
    k = data.draw(st.integers(1, 5))
    indices = torch.tensor(data.draw(st.lists(st.integers(0, d_sae - 1), min_size=rows * k, max_size=rows * k)), dtype=torch.int64)
    x, values = torch.randn(rows, d_in, dtype=torch.float64), torch.randn(rows, k, dtype=torch.float64)
    dense = torch.zeros(rows, d_sae, dtype=torch.float64).scatter_add(1, indices.view(rows, k), values)
    assert torch.allclose(segment_sum(values, x, segments_of(indices.view(rows, k), None, d_sae)), dense.T @ x)


def test_a_whole_encoder_and_decoder_have_the_gradients_of_dense_autograd():
    x, encoder, bias, indices = drawn(50, 12, 60, 6)
    decoder = torch.randn(60, 12, dtype=torch.float64)
    inputs = tuple(item.requires_grad_() for item in (x, encoder, bias, decoder))

    def sparse(x, encoder, bias, decoder):
        return gather_sum((gather_dot(x, encoder, indices) + bias[indices]).relu(), indices, decoder)

    def dense(x, encoder, bias, decoder):
        mask = torch.zeros(50, 60, dtype=torch.float64).scatter(1, indices, 1.0)
        return ((x @ encoder.T + bias).relu() * mask) @ decoder

    assert agrees(sparse, dense, inputs)


@pytest.mark.parametrize("signed", [False, True])
def test_the_largest_of_a_batch_that_is_ranked_in_parts_are_those_of_the_whole(signed):
    x, weight, bias, _ = drawn(600, 4, 20_000, 1)  # three parts
    pre = x @ weight.T + bias
    size = pre.abs() if signed else pre
    indices = topk_codes(x, weight, bias, 5, signed=signed)[1]
    assert torch.allclose(size.gather(1, indices).sort(descending=True).values, size.topk(5).values)


def test_indices_name_the_largest_of_the_dense_product():
    x, weight, bias, indices = drawn(40, 12, 60, 6)
    largest = (x @ weight.T + bias).topk(6).indices
    assert torch.equal(indices.sort().values, largest.sort().values)


def test_bfloat16_ranking_keeps_the_exact_set_and_exact_values():
    x, weight, bias, exact = drawn(256, 64, 512, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        indices = topk_codes(x, weight, bias, 16)[1]
        values = gather_dot(x, weight, indices)
    kept = (indices[:, :, None] == exact[:, None, :]).any(-1).double().mean()
    assert kept > 0.999
    assert values.dtype == torch.float32
    assert torch.equal(values, gather_dot(x, weight, indices))


def test_no_rows_give_no_rows():
    _, weight, bias, _ = drawn(3, 5, 11, 3)
    x = torch.zeros(0, 5, dtype=torch.float64)
    indices = topk_codes(x, weight, bias, 3)[1]
    values = gather_dot(x, weight, indices)
    assert values.shape == (0, 3)
    assert gather_sum(values, indices, weight).shape == (0, 5)


@pytest.mark.parametrize(("entries", "d_sae"), [(0, 7), (1, 7), (2000, 7), (2000, 300)])
def test_pieces_cover_every_segment_in_order_and_are_short(entries, d_sae):
    noise = torch.Generator().manual_seed(entries + d_sae)
    features = (torch.rand(entries, generator=noise) ** 4 * d_sae).long().clamp(max=d_sae - 1).sort().values
    bounds = torch.searchsorted(features, torch.arange(d_sae + 1))
    pieces, ends = _pieces(bounds, entries)
    assert pieces[-1] == entries
    assert all(0 <= size <= 128 for size in pieces.diff().tolist())
    assert torch.equal(pieces[ends], bounds)


def test_the_bfloat16_copy_of_a_weight_follows_the_steps_of_pytorchs_adam():
    weight = torch.nn.Parameter(torch.randn(6, 4))
    copy = low(weight)
    optimiser = Adam([weight], lr=0.1, betas=(0.9, 0.99), clip=1.0)
    weight.grad = torch.ones(6, 4)
    optimiser.step()
    assert low(weight) is copy
    assert torch.equal(copy, weight.detach().bfloat16())
