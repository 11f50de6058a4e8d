"""Compressed attention against the formula of the paper, and in the limits where it is another layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from nmt.config import ConfigError
from nmt.models.encoder_decoder import full_log_probs, num_parameters
from nmt.models.interfaces import EncoderOut, ForwardPass, Layer
from nmt.models.masks import SelfMask, memory_mask
from nmt.models.packed import can_pack, prepare_inference
from nmt.models.state import DecoderState, num_bytes
from nmt.registry import build, discover, slots

discover()
EXACT = {"rtol": 0.0, "atol": 1e-12}
CAUSAL = SelfMask(causal=True)
KEY = "model.decoder.layer"


def make(make_context, *, context: dict | None = None, **options) -> Layer:
    """A layer in float64, 8 wide with values 12 wide in 2 heads over an encoder 6 wide; nothing in it is zero."""

    def refuse(slot: str):
        raise AssertionError(f"the layer has no {slot}")

    node = {"name": "compressed", **options}
    layer = build("layer", node, key=KEY, context=make_context(**context or {}), make_part=refuse).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def memory(bsz: int = 2, src_len: int = 5, dim: int = 6, padded: bool = True) -> EncoderOut:
    padding = torch.zeros(bsz, src_len, dtype=torch.bool)
    padding[-1, src_len - 2 :] = padded
    return EncoderOut(torch.randn(bsz, src_len, dim, dtype=torch.float64), padding if padded else None)


def states(bsz: int = 2, tgt_len: int = 4, dim: int = 8) -> Tensor:
    return torch.randn(bsz, tgt_len, dim, dtype=torch.float64)


def weights(layer) -> dict[str, tuple[Tensor, Tensor]]:
    """The matrices of the paper, each (in, out), and their biases."""
    d, f = layer.norm.normalized_shape[0], layer.num_heads * layer.value_dim
    parts = {
        **dict(zip(("q", "kx", "vx"), zip(layer.target.weight.split([d, d, f]), layer.target.bias.split([d, d, f])))),
        **dict(zip(("kh", "vh"), zip(layer.source.weight.split([d, f]), layer.source.bias.split([d, f])))),
        "w1": (layer.inner.weight, layer.inner.bias),
        "w2": (layer.outer.weight, layer.outer.bias),
    }
    return {name: (weight.t(), bias) for name, (weight, bias) in parts.items()}


def by_hand(layer, x: Tensor, source: Tensor) -> Tensor:
    """Eq. 7 to 9 of arXiv:2101.00542 for one sentence without padding, a query and a head at a time."""
    w = weights(layer)
    u = layer.norm(x)

    def product(name: str, states: Tensor) -> Tensor:
        return states @ w[name][0] + w[name][1]

    inner = product("w1", u)
    for head in range(layer.num_heads):
        wide = slice(head * layer.key_dim, (head + 1) * layer.key_dim)
        out = slice(head * layer.value_dim, (head + 1) * layer.value_dim)
        for t in range(len(x)):
            keys = torch.cat([product("kh", source)[:, wide], product("kx", u[: t + 1])[:, wide]])
            values = torch.cat([product("vh", source)[:, out], product("vx", u[: t + 1])[:, out]])
            attention = torch.softmax(product("q", u)[t, wide] @ keys.t() / math.sqrt(layer.key_dim), dim=0)
            assert attention.sum().item() == pytest.approx(1)  # over source and target together
            inner[t, out] = inner[t, out] + attention @ values
    return x + product("w2", inner.clamp(min=0))


@pytest.mark.parametrize(("num_heads", "value_dim"), [(1, 12), (2, 12), (4, 20), (2, 2)])
def test_formula(num_heads: int, value_dim: int, make_context) -> None:
    layer = make(make_context, num_heads=num_heads, value_dim=value_dim)
    x, encoder_out = states(), memory()
    got = layer(x, CAUSAL, ForwardPass(), encoder_out)
    assert_close(got[0], by_hand(layer, x[0], encoder_out.states[0]), **EXACT)
    assert_close(got[1], by_hand(layer, x[1], encoder_out.states[1, :3]), **EXACT)  # two of five are padding


def test_steps_equal_the_formula(make_context) -> None:
    layer = make(make_context)
    x, encoder_out = states(), memory()
    expected = layer(x, CAUSAL, ForwardPass(), encoder_out)
    cache, kept = layer.init_state(2, 4, x), layer.init_memory(encoder_out)
    state = DecoderState.start(
        cache, kept, memory_mask(encoder_out.padding_mask), bsz=2, beam=1, max_len=4, device=x.device
    )
    for start, end in ((0, 1), (1, 3), (3, 4)):
        step = state.begin(end - start, x)
        got = layer.step(x[:, start:end], cache, kept, step, ForwardPass())
        assert_close(got, expected[:, start:end], **EXACT)


# --- limits -----------------------------------------------------------------------------------------------------------


def zero(*blocks: Tensor) -> None:
    with torch.no_grad():
        for block in blocks:
            block.zero_()


def test_without_values_it_is_a_feed_forward_layer(make_context) -> None:
    layer = make(make_context)
    w = weights(layer)
    zero(*w["vx"], *w["vh"])
    x = states()
    u = layer.norm(x)
    expected = x + F.relu(u @ w["w1"][0] + w["w1"][1]) @ w["w2"][0] + w["w2"][1]
    assert_close(layer(x, CAUSAL, ForwardPass(), memory()), expected, **EXACT)


def test_with_the_source_masked_it_reads_the_target_alone(make_context) -> None:
    layer = make(make_context)
    x, first, second = states(), memory(), memory()
    for encoder_out in (first, second):
        encoder_out.padding_mask = torch.ones(2, 5, dtype=torch.bool)
    got = layer(x, CAUSAL, ForwardPass(), first)
    assert torch.equal(got, layer(x, CAUSAL, ForwardPass(), second))
    assert_close(got[0], by_hand(layer, x[0], first.states[0, :0]), **EXACT)
    changed = x.clone()
    changed[:, 3] += 1
    assert torch.equal(layer(changed, CAUSAL, ForwardPass(), first)[:, :3], got[:, :3])


def test_without_feed_forward_it_is_attention_with_the_memory_before_the_prefix(make_context) -> None:
    """W_1 = 0, values as wide as the stream and so far positive that the activation passes all: torch's own module."""
    layer = make(make_context, context={"memory_dim": 8}, value_dim=8)
    w = weights(layer)
    shift = 100.0
    with torch.no_grad():
        for k in ("weight", "bias"):
            getattr(layer.inner, k).zero_()
        for name in ("k", "v"):  # the same projections for both sides
            w[f"{name}h"][0].copy_(w[f"{name}x"][0])
            w[f"{name}h"][1].copy_(w[f"{name}x"][1])
    reference = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.target.weight)
        reference.in_proj_bias.copy_(layer.target.bias)
        reference.out_proj.weight.copy_(layer.outer.weight)
        reference.out_proj.bias.copy_(layer.outer.bias)
        layer.inner.bias.fill_(shift)
        layer.outer.bias -= layer.outer.weight.sum(1) * shift
    x, encoder_out = states(), memory(dim=8, padded=False)
    u = layer.norm(x)
    together = torch.cat([encoder_out.states, u], dim=1)
    mask = torch.cat([torch.zeros(4, 5), torch.full((4, 4), -torch.inf).triu(1)], dim=1).double()
    expected = x + reference(u, together, together, attn_mask=mask, need_weights=False)[0]
    assert_close(layer(x, CAUSAL, ForwardPass(), encoder_out), expected, rtol=0, atol=1e-10)


def test_a_source_that_is_the_normed_prefix_equals_that_prefix_in_the_target(make_context) -> None:
    """With one projection for both sides; the layer norms the target alone."""
    layer = make(make_context, context={"memory_dim": 8})
    w = weights(layer)
    with torch.no_grad():
        for name in ("k", "v"):
            w[f"{name}h"][0].copy_(w[f"{name}x"][0])
            w[f"{name}h"][1].copy_(w[f"{name}x"][1])
    whole, nothing = states(tgt_len=7), EncoderOut(torch.zeros(2, 0, 8, dtype=torch.float64), None)
    expected = layer(whole, CAUSAL, ForwardPass(), nothing)[:, 3:]
    source = EncoderOut(layer.norm(whole[:, :3]), None)
    assert_close(layer(whole[:, 3:], CAUSAL, ForwardPass(), source), expected, **EXACT)


def test_no_position_sees_a_later_one(make_context) -> None:
    layer, x = make(make_context), states().requires_grad_()
    y = layer(x, CAUSAL, ForwardPass(), memory())
    for t in range(4):
        (grad,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        assert grad[:, t + 1 :].abs().sum() == 0
        assert (grad[:, : t + 1].abs().amax(-1) > 0).all()


def test_without_a_causal_mask_all_positions_are_seen_but_padding(make_context) -> None:
    """Decoders that predict all positions at once."""
    layer, x = make(make_context), states().requires_grad_()
    mask = SelfMask(causal=False, padding_mask=torch.tensor([[False] * 4, [False, False, False, True]]))
    y = layer(x, mask, ForwardPass(), memory())
    (grad,) = torch.autograd.grad(y[:, 0].square().sum(), x)
    assert (grad.abs().amax(-1) > 0).tolist() == [[True] * 4, [True, True, True, False]]


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_number_of_parameters(bias: bool, make_context) -> None:
    d, f = 8, 12
    layer = make(make_context, context={"memory_dim": d}, bias=bias)
    biases = 3 * d + 3 * f + d if bias else 0
    assert num_parameters(layer) == 3 * d * d + 4 * d * f + biases + 2 * d


def test_number_of_products_of_a_step(make_context) -> None:
    """2 d^2 + 3 d f of projections and (S + t) (d + f) of attention a token: the source is projected once."""
    d, f, src_len, t = 8, 12, 5, 3
    layer = make(make_context)
    encoder_out, x = memory(1, src_len, padded=False), states(1, t)
    cache, kept = layer.init_state(1, t, x), layer.init_memory(encoder_out)
    state = DecoderState.start(cache, kept, None, bsz=1, beam=1, max_len=t, device=x.device)
    layer.step(x[:, : t - 1], cache, kept, state.begin(t - 1, x), ForwardPass())
    with FlopCounterMode(display=False) as counter:
        layer.step(x[:, t - 1 :], cache, kept, state.begin(1, x), ForwardPass())
    assert counter.get_total_flops() == 2 * (2 * d * d + 3 * d * f + (src_len + t) * (d + f))


def test_size_of_the_state(make_context) -> None:
    """d + f values a position; the source's once a sentence, however many hypotheses."""
    layer = make(make_context)
    x = states(6)
    assert num_bytes(layer.init_state(6, 9, x)) == 6 * 9 * (8 + 12) * x.element_size()
    assert num_bytes(layer.init_memory(memory(2, 5))) == 2 * 5 * (8 + 12) * x.element_size()


# --- dropout, number formats, options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "activation_dropout"])
def test_dropout_only_while_training(rate: str, make_context) -> None:
    layer = make(make_context, context={rate: 0.5})
    x, encoder_out = states(), memory()
    assert torch.equal(layer(x, CAUSAL, ForwardPass(), encoder_out), layer(x, CAUSAL, ForwardPass(), encoder_out))
    layer.train()
    first, second = (layer(x, CAUSAL, ForwardPass(), encoder_out) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("input_dropout", "expected"), [(True, True), (False, False)])
def test_input_dropout_falls_on_the_feed_forward_part_alone(input_dropout: bool, expected: bool, make_context) -> None:
    layer = make(make_context, context={"dropout": 0.5}, input_dropout=input_dropout).train()
    layer.dropout.p = 0.0  # of the residual
    x, encoder_out = states(tgt_len=50), memory()
    first, second = (layer(x, CAUSAL, ForwardPass(), encoder_out) for _ in range(2))
    assert torch.equal(first, second) is not expected
    zero(*weights(layer)["w1"])
    first, second = (layer(x, CAUSAL, ForwardPass(), encoder_out) for _ in range(2))
    assert torch.equal(first, second), "queries, keys or values were dropped"


MODEL = ["model.decoder.layer.name=compressed"]
SRC = torch.tensor([[5, 9, 12, 7, 2], [6, 6, 2, 0, 0]])
PREV = torch.tensor([[1, 8, 4, 11], [1, 9, 9, 0]])


def test_bfloat16_autocast_is_close(make_model) -> None:
    model = make_model(*MODEL)
    expected = full_log_probs(model.eval(), SRC, PREV)
    with torch.autocast("cpu", torch.bfloat16):
        got = full_log_probs(model, SRC, PREV)
    assert_close(got, expected, rtol=0, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(SRC, PREV).hidden.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(not can_pack(torch.float32), reason="this build of PyTorch cannot pack weights")
def test_packed_weights_predict_the_same(make_model) -> None:
    plain, ready = (make_model(*MODEL).eval() for _ in range(2))
    prepare_inference(ready, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        assert_close(full_log_probs(ready, SRC, PREV), full_log_probs(plain, SRC, PREV), rtol=1e-4, atol=1e-5)
        state = ready.init_state(ready.encode(SRC), 1, 4)
        for t in range(4):
            assert_close(
                ready.step(PREV[:, t : t + 1], state), full_log_probs(plain, SRC, PREV)[:, t], rtol=1e-4, atol=1e-5
            )


def test_values_are_as_wide_as_the_feed_forward_network(make_context) -> None:
    layer = make(make_context)
    assert (layer.num_heads, layer.key_dim, layer.value_dim) == (2, 4, 6)


@pytest.mark.parametrize(
    ("options", "context", "message"),
    [
        ({"num_heads": 3}, {}, "model.decoder.layer.num_heads=3 does not divide model.decoder.embed_dim=8"),
        (
            {"value_dim": 13},
            {},
            "model.decoder.layer.value_dim=13 does not divide into the 2 heads of model.decoder.layer.name=compressed",
        ),
        (
            {},
            {"ffn_dim": 13},
            "model.decoder.ffn_dim=13 does not divide into the 2 heads of model.decoder.layer.name=compressed",
        ),
        (
            {},
            {"key": "model.encoder", "memory_dim": None},
            "model.encoder.layer.name=compressed attends to an encoder's output, which only model.decoder reads; "
            "choose another layer",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, context: dict, message: str, make_context) -> None:
    with pytest.raises(ConfigError) as caught:
        make(make_context, context=context, **options)
    assert str(caught.value) == message


UNUSED = slots()["layer"].components["compressed"].factory.unused
OTHERS = [(slot, name) for slot, usual in UNUSED.items() for name in slots()[slot].components if name != usual]


def test_no_part_is_used() -> None:
    assert UNUSED == {"self_attention": "multihead", "cross_attention": "multihead", "feed_forward": "dense"}


@pytest.mark.parametrize(("slot", "name"), OTHERS)
def test_other_parts_are_refused(slot: str, name: str, make_model) -> None:
    """The preset's own stay without effect; another was chosen for an effect that it would not have."""
    with pytest.raises(ConfigError) as caught:
        make_model(*MODEL, f"model.decoder.{slot}.name={name}")
    assert str(caught.value) == (
        f"model.decoder.{slot}.name={name} would do nothing: model.decoder.layer.name=compressed has no such part; "
        f"leave model.decoder.{slot} out, or choose another layer"
    )


def test_options_of_other_parts_are_refused(make_model) -> None:
    with pytest.raises(ConfigError) as caught:
        make_model(*MODEL, "model.decoder.feed_forward.activation=swiglu")
    assert str(caught.value) == (
        "model.decoder.feed_forward.activation=swiglu would do nothing: model.decoder.layer.name=compressed has no "
        "such part; leave model.decoder.feed_forward out, or choose another layer"
    )
