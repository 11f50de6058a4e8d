"""Shared cross-attention against a recomputation, in each of its forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.encoder_decoder import num_parameters
from nmt.models.interfaces import EncoderOut, ForwardPass
from nmt.models.masks import SelfMask, memory_mask
from nmt.models.state import Step
from nmt.registry import build, find

STATES = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
PADDING = torch.tensor([[False] * 4, [False, False, True, True]])
OUT = EncoderOut(STATES, PADDING)
FORMS = {
    "post_out": {},
    "pre_out": {"context_point": "pre_out"},
    "weights": {"share": "weights"},
}


def make(make_context, layers: int = 2, name: str = "shared", **options):
    parts = []
    for layer in range(layers):
        context = make_context(layer=layer, num_layers=layers)
        node = {"name": name, **options}
        part = build("cross_attention", node, key="model.decoder.cross_attention", context=context).double()
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.5)
        parts.append(part)
    return parts


def run(parts, x: Tensor) -> list[Tensor]:
    memo = ForwardPass()
    return [part(x + layer, OUT, memo) for layer, part in enumerate(parts)]


def weights_by_hand(leader, x: Tensor, row: int) -> list[Tensor]:
    """softmax(Q K^T / sqrt(d_k)) of every head, without the padded positions of the source."""
    source = STATES[row, : int((~PADDING[row]).sum())]
    q = x @ leader.q.weight.t() + leader.q.bias
    k = source @ leader.kv.weight[:8].t() + leader.kv.bias[:8]
    return [torch.softmax(a @ b.t() / math.sqrt(4), dim=1) for a, b in zip(q.chunk(2, 1), k.chunk(2, 1))]


def by_hand(leader, follower, form: str, x: Tensor, row: int) -> Tensor:
    """What a follower says: the leader's weights over the leader's values or its own, through an output projection."""
    source = STATES[row, : int((~PADDING[row]).sum())]
    weight, bias = leader.kv.weight[8:], leader.kv.bias[8:]
    if form == "weights":
        weight, bias = follower.v.weight, follower.v.bias
    values = (source @ weight.t() + bias).chunk(2, dim=1)
    context = torch.cat([w @ v for w, v in zip(weights_by_hand(leader, x, row), values)], dim=1)
    out = leader.out if form == "post_out" else follower.out
    return context @ out.weight.t() + out.bias


@pytest.mark.parametrize("form", FORMS)
def test_follower_equals_a_recomputation(form: str, make_context) -> None:
    parts = make(make_context, 3, **FORMS[form])
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    got = run(parts, x)
    for row in range(2):
        for layer in (1, 2):
            expected = by_hand(parts[0], parts[layer], form, x[row], row)
            assert_close(got[layer][row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_leader_and_blocks_of_one_equal_multi_head_attention(form: str, make_context) -> None:
    plain = make(make_context, name="multihead")
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    blocks = make(make_context, policy=[1, 1], **FORMS[form])
    leader = make(make_context, **FORMS[form])[0]
    for part, twin in zip([*blocks, leader], [*plain, plain[0]]):
        assert list(part.state_dict()) == list(twin.state_dict())
        part.load_state_dict(twin.state_dict())
        memo = ForwardPass()
        assert_close(part(x, OUT, memo), twin(x, OUT, ForwardPass()), rtol=0, atol=1e-13)
        assert bool(memo.shared) == (part is leader)
    for part, twin in zip(blocks, plain):
        assert torch.equal(part(x, OUT, ForwardPass()), twin(x, OUT, ForwardPass()))


def test_a_context_is_bitwise_the_same_in_a_block(make_context) -> None:
    first, *others = run(make(make_context, 3), torch.randn(2, 3, 8, dtype=torch.float64))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("form", "left", "memory"), [("post_out", set(), []), ("pre_out", {"out"}, []), ("weights", {"v", "out"}, ["v"])]
)
def test_what_a_follower_has(form: str, left: set[str], memory: list[str], make_context) -> None:
    leader, follower = make(make_context, **FORMS[form])
    assert {name.split(".")[0] for name in follower.state_dict()} == left
    state = follower.init_memory(OUT)
    assert list(state) == memory
    assert list(leader.init_memory(OUT)) == ["k", "v"]
    assert [tuple(t.shape) for t in state.values()] == [(2, 2, 4, 4)] * len(memory)
    assert (leader.takes_raw, leader.follows) == (False, False)
    assert (follower.takes_raw, follower.follows) == (True, True)


@pytest.mark.parametrize(("form", "projections"), [("post_out", 4), ("pre_out", 3), ("weights", 2)])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_fewer_parameters(form: str, projections: int, norm_position: str, make_model) -> None:
    """In a pre-norm stack a follower has no query, so no norm either."""
    slot = ["model.decoder.layers=3", f"model.decoder.layer.norm_position={norm_position}"]
    slot += [f"model.decoder.cross_attention.{key}={value}" for key, value in FORMS[form].items()]
    plain = make_model(*slot[:2])
    shared = make_model(*slot, "model.decoder.cross_attention.name=shared")
    norm = 2 * 16 if norm_position == "pre" else 0
    fewer = projections * (16**2 + 16) + norm
    assert num_parameters(plain) - num_parameters(shared) == 2 * fewer


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_a_follower_reaches_its_leader(form: str, make_context) -> None:
    leader, follower = make(make_context, **FORMS[form])
    run((leader, follower), torch.randn(2, 3, 8, dtype=torch.float64))[1].square().sum().backward()
    keys, values = leader.kv.weight.grad.chunk(2)
    assert leader.q.weight.grad.abs().max() > 1e-6
    assert keys.abs().max() > 1e-6
    assert values.any() == (form != "weights")


@pytest.mark.parametrize("form", FORMS)
def test_hypotheses_of_a_sentence_share_its_memory(form: str, make_context) -> None:
    """Three hypotheses a sentence, two tokens each, against each of them alone."""
    parts = make(make_context, **FORMS[form])
    memories = [part.init_memory(OUT) for part in parts]
    x, memo = torch.randn(6, 2, 8, dtype=torch.float64), ForwardPass()
    step = Step(torch.arange(2), 2, 3, None, memory_mask(PADDING))
    _, got = (part.step(x, memory, step, memo) for part, memory in zip(parts, memories))
    for row in range(6):
        expected = by_hand(parts[0], parts[1], form, x[row], row // 3)
        assert_close(got[row], expected, rtol=0, atol=1e-12)


def test_slots_do_not_read_each_other(make_context) -> None:
    """Self- and cross-attention of a layer both leave something: each under a name of its own."""
    memo, x = ForwardPass(), torch.randn(2, 3, 8, dtype=torch.float64)
    parts = make(make_context, share="weights")
    before = parts[0](x, OUT, memo)
    left = dict(memo.shared)
    other = build("self_attention", {"name": "shared"}, key="k", context=make_context(num_layers=2)).double()
    other(x, SelfMask(causal=True), memo)
    assert len(memo.shared) == 2
    assert all(memo.shared[key] is value for key, value in left.items())
    assert before.shape == x.shape


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_a_block_are_those_of_its_leader(form: str, make_context) -> None:
    parts, memo, seen = make(make_context, **FORMS[form]), ForwardPass(), []
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    for part in parts:
        part(x, OUT, memo)
        seen.append(part.weights(x, OUT, memo))
    assert torch.equal(seen[0], seen[1])
    for row, length in enumerate([4, 2]):
        expected = torch.stack(weights_by_hand(parts[0], x[row], row))
        assert_close(seen[0][row, :, :, :length], expected)
        assert not seen[0][row, :, :, length:].any()


def test_a_follower_adopts_the_values_of_multi_head_attention(make_context) -> None:
    follower, plain = make(make_context, share="weights")[1], make(make_context, name="multihead")[1]
    adopted = follower.adopt(plain.state_dict())
    assert torch.equal(adopted["v.weight"], plain.kv.weight[8:])
    assert torch.equal(adopted["v.bias"], plain.kv.bias[8:])
    assert make(make_context)[1].adopt(plain.state_dict()) == {}


def test_policy_must_fit_the_stack(make_context) -> None:
    with pytest.raises(ConfigError) as caught:
        make(make_context, 3, policy=[1])
    assert str(caught.value) == (
        "model.decoder.cross_attention.policy=[1] adds up to 1 layers, but model.decoder.layers=3; "
        "give block sizes that add up to it, or null for one block"
    )


def test_a_point_of_no_context_is_refused(make_context) -> None:
    with pytest.raises(ConfigError, match="context_point=pre_out would do nothing with share=weights"):
        make(make_context, share="weights", context_point="pre_out")


def test_selected_layers() -> None:
    part = find("cross_attention", "shared", "k").factory
    node = {"name": "shared", "share": "weights", "policy": [2, 2]}
    assert part.select_layers(node, [0, 2, 3]) == {**node, "policy": [1, 2]}
    with pytest.raises(ConfigError, match=r"^cross_attention\.policy=\[2, 2\]: layer 3 uses the attention of layer 2"):
        part.select_layers(node, [0, 3])
