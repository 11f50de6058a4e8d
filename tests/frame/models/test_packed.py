"""Packed weights give what plain ones give."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nmt.generation.options import SearchOptions
from nmt.generation.translate import translate_ids
from nmt.models import packed
from nmt.models.encoder_decoder import full_log_probs
from nmt.models.linear import LinearMap
from nmt.models.packed import PackedLinear, can_pack, prepare_inference

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of PyTorch cannot pack weights")
SRC = torch.tensor([[5, 9, 12, 7, 3], [6, 6, 3, 0, 0]])
PREV = torch.tensor([[2, 8, 4, 11], [2, 9, 9, 0]])


@pytest.mark.parametrize("rows", [(1,), (2,), (3,), (4,), (7,), (1, 1), (2, 3), (64, 5), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_product_by_the_formula(rows: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias)
    x = torch.randn(*rows, 24)
    expected = x.double() @ linear.weight.double().t() + (linear.bias.double() if bias else 0)
    with torch.inference_mode():
        got = PackedLinear(linear)(x)
    assert got.shape == (*rows, 40)
    assert_close(got.double(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_input_need_not_be_contiguous() -> None:
    linear, x = nn.Linear(24, 40), torch.randn(24, 6).t()
    with torch.inference_mode():
        assert_close(PackedLinear(linear)(x), linear(x))


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor has no bfloat16 products")
def test_bfloat16() -> None:
    linear, x = nn.Linear(24, 40).bfloat16(), torch.randn(5, 24).bfloat16()
    expected = x.double() @ linear.weight.double().t() + linear.bias.double()
    with torch.inference_mode():
        got = PackedLinear(linear)(x)
    assert got.dtype == torch.bfloat16
    assert_close(got.double(), expected.detach(), rtol=2**-7, atol=2**-7)


def test_a_packed_model_predicts_the_same(make_model) -> None:
    plain, ready = make_model().eval(), prepare_inference(make_model(), CPU, torch.float32)
    assert not any(type(m) is nn.Linear for m in ready.modules())
    with torch.inference_mode():
        assert_close(full_log_probs(ready, SRC, PREV), full_log_probs(plain, SRC, PREV), rtol=1e-4, atol=1e-5)


def test_a_packed_model_translates_the_same(make_model) -> None:
    plain, ready = make_model().eval(), prepare_inference(make_model(), CPU, torch.float32)
    sources = [[5, 9, 12, 7], [6], [8, 8, 20, 21, 4, 10, 11]]
    options = SearchOptions(beam=3, nbest=3)
    found, expected = (translate_ids(m, sources, options) for m in (ready, plain))
    for ours, theirs in zip(found, expected):
        assert [h.ids for h in ours] == [h.ids for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=1e-4)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor has no bfloat16 products")
@pytest.mark.parametrize("elements", [0, 1 << 40])
def test_bfloat16_is_close_whichever_way_attention_runs(make_model, monkeypatch, elements: int) -> None:
    monkeypatch.setattr("nmt.models.attention.BATCHED_ELEMENTS", elements)
    plain, ready = make_model().eval(), prepare_inference(make_model(), CPU, torch.bfloat16)
    beam, steps = 2, 3
    with torch.inference_mode():
        states = [m.init_state(m.encode(SRC), beam, steps) for m in (plain, ready)]
        for column in PREV[:, :steps].repeat_interleave(beam, 0).t():
            expected, got = (m.step(column[:, None], s) for m, s in zip((plain, ready), states))
            assert got.dtype == torch.float32
            assert (got - expected).abs().max() < 0.1
            for state in states:
                state.reorder(torch.tensor([1, 1, 2, 3]))


def test_a_shared_linear_stays_shared() -> None:
    shared = nn.Linear(4, 4)
    model = prepare_inference(nn.ModuleList([shared, nn.Sequential(shared), nn.Linear(4, 4)]), CPU, torch.float32)
    assert model[0] is model[1][0]
    assert model[0] is not model[2]


def test_where_nothing_can_be_packed_the_model_is_cast(make_model, monkeypatch) -> None:
    monkeypatch.setattr(packed, "can_pack", lambda dtype: False)
    model = prepare_inference(make_model(), CPU, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert any(isinstance(m, LinearMap) for m in model.modules())
