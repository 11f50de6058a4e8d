"""Average attention against the paper's matrix of 1 / j, and what the method promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.models.state import DecoderState, num_bytes
from nmt.registry import build

CAUSAL = SelfMask(causal=True)
VARIANTS = [{}, {"gate": False}, {"ffn": False}, {"gate": False, "ffn": False}, {"average_input": "raw"}]


def make(make_context, dtype=torch.float64, **options):
    node = {"name": "average", **options}
    return build("self_attention", node, key="model.decoder.self_attention", context=make_context()).to(dtype).eval()


def by_hand(part, y: Tensor) -> Tensor:
    """Section 3 of arXiv:1805.00631 with the matrix of its figure 2; ``y`` is (length, embed_dim)."""
    ones = torch.ones(len(y), len(y), dtype=y.dtype).tril()
    g = (ones / ones.sum(1, keepdim=True)) @ y
    if part.ffn is not None:
        inner = torch.relu(part.norm(g) @ part.ffn.inner.weight.t() + part.ffn.inner.bias)
        g = inner @ part.ffn.outer.weight.t() + part.ffn.outer.bias
    if part.gate is None:
        return g
    i, f = torch.sigmoid(torch.cat([y, g], 1) @ part.gate.weight.t() + part.gate.bias).chunk(2, dim=1)
    return i * y + f * g


def steps(part, x: Tensor, spans: list[int]) -> Tensor:
    state = DecoderState.start(
        part.init_state(len(x), x.size(1), x), {}, None, bsz=len(x), beam=1, max_len=x.size(1), device=x.device
    )
    chunks = x.split(spans, dim=1)
    return torch.cat([part.step(c, state.cache, state.begin(c.size(1), x), ForwardPass()) for c in chunks], dim=1)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_matrix_sum_and_steps_agree(options: dict, make_context) -> None:
    part, x = make(make_context, **options), torch.randn(2, 7, 8, dtype=torch.float64)
    got = part(x, CAUSAL, ForwardPass())
    assert_close(got, torch.stack([by_hand(part, row) for row in x]), rtol=0, atol=1e-12)
    for spans in ([1] * 7, [3, 1, 1, 2], [7]):
        assert_close(steps(part, x, spans), got, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_order_of_the_past_does_not_matter(options: dict, make_context) -> None:
    part, x = make(make_context, **options), torch.randn(1, 6, 8, dtype=torch.float64)
    shuffled = x[:, [3, 1, 4, 0, 2, 5]]
    got, other = (part(y, CAUSAL, ForwardPass())[:, 5] for y in (x, shuffled))
    assert_close(got, other, rtol=0, atol=1e-12)


def test_without_gate_and_ffn_it_is_the_average(make_context) -> None:
    part, x = make(make_context, gate=False, ffn=False), torch.randn(1, 5, 8, dtype=torch.float64)
    got = part(x, CAUSAL, ForwardPass())
    assert list(part.parameters()) == []
    assert_close(got[:, 0], x[:, 0])
    assert_close(got[:, 4], x.mean(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_sums_do_not_drift(dtype: torch.dtype, make_context) -> None:
    part = make(make_context, dtype, gate=False, ffn=False)
    x = torch.randn(1, 4096, 8).add(1).to(dtype)
    exact = x.double().cumsum(1) / torch.arange(1, 4097)[:, None]
    tolerance = 1e-5 if dtype is torch.float32 else 2**-8
    for got in (part(x, CAUSAL, ForwardPass()), steps(part, x, [4000] + [1] * 96)):
        assert got.dtype == dtype
        assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)


def test_state_does_not_grow(make_context) -> None:
    part = make(make_context)
    for dtype, size in ((torch.bfloat16, 4), (torch.float32, 4), (torch.float64, 8)):
        like = torch.zeros(1, dtype=dtype)
        assert {num_bytes(part.init_state(3, length, like)) for length in (1, 9, 4096)} == {3 * 8 * size}


@pytest.mark.parametrize("name", ["average", "ssru"])
def test_encoder_refuses_it(name: str, make_model) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.encoder\.self_attention\.name={name} sees only .*'multihead'"):
        make_model(f"model.encoder.self_attention.name={name}")
