"""Shared self-attention against a recomputation, and what follows from sharing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.models.state import Columns, num_bytes
from nmt.registry import build, find

MASKS = {
    "causal": SelfMask(causal=True),
    "padding": SelfMask(causal=False, padding_mask=torch.tensor([[False] * 5, [False, False, False, True, True]])),
}


def make(make_context, layers: int = 2, name: str = "shared", context: dict[str, object] | None = None, **options):
    """The parts of a stack's layers, with biases that are not zero."""
    parts = []
    for layer in range(layers):
        place = make_context(layer=layer, num_layers=layers, **(context or {}))
        node = {"name": name, **options}
        part = build("self_attention", node, key="model.decoder.self_attention", context=place).double()
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.5)
        parts.append(part)
    return parts


def run(parts, xs: list[Tensor], mask: SelfMask) -> list[Tensor]:
    memo = ForwardPass()
    return [part(x, mask, memo) for part, x in zip(parts, xs)]


def inputs(number: int, *, grad: bool = False) -> list[Tensor]:
    return [torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=grad) for _ in range(number)]


def by_hand(leader, follower, below: Tensor, x: Tensor, allowed: Tensor) -> Tensor:
    """A^{m+i} = softmax(Q^m K^m^T / sqrt(d_k)) V^{m+i} for one sentence, a head and a query at a time."""
    width = 8 // leader.num_heads
    q, k, _ = (below @ w.t() + b for w, b in zip(leader.qkv.weight.chunk(3), leader.qkv.bias.chunk(3)))
    v = x @ follower.v.weight.t() + follower.v.bias
    out = torch.zeros_like(x)
    for head in range(leader.num_heads):
        columns = slice(head * width, (head + 1) * width)
        for t in range(len(x)):
            keys = allowed[t].nonzero().squeeze(1)
            weights = torch.softmax(q[t, columns] @ k[keys, columns].t() / math.sqrt(width), dim=0)
            out[t, columns] = weights @ v[keys, columns]
    return out @ follower.out.weight.t() + follower.out.bias


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("mask", MASKS)
def test_follower_applies_the_weights_of_its_leader(num_heads: int, mask: str, make_context) -> None:
    parts = make(make_context, 3, num_heads=num_heads)
    xs = inputs(3)
    got = run(parts, xs, MASKS[mask])
    for row in range(2):
        padding = MASKS[mask].padding_mask
        allowed = torch.ones(5, 5).tril() if padding is None else (~padding[row]).expand(5, 5)
        for layer in (1, 2):
            expected = by_hand(parts[0], parts[layer], xs[0][row], xs[layer][row], allowed)
            assert_close(got[layer][row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_leader_equals_multi_head_attention(mask: str, make_context) -> None:
    shared, plain = make(make_context), make(make_context, name="multihead")
    plain[0].load_state_dict(shared[0].state_dict())
    [x] = inputs(1)
    assert_close(run(shared, [x], MASKS[mask])[0], run(plain, [x], MASKS[mask])[0], rtol=0, atol=1e-13)


def test_blocks_of_one_are_multi_head_attention(make_context) -> None:
    shared, plain = make(make_context, policy=[1, 1]), make(make_context, name="multihead")
    xs, memo = inputs(2), ForwardPass()
    for a, b, x in zip(shared, plain, xs):
        assert list(a.state_dict()) == list(b.state_dict())
        b.load_state_dict(a.state_dict())
        assert torch.equal(a(x, MASKS["causal"], memo), b(x, MASKS["causal"], ForwardPass()))
        assert not a.follows
    assert not memo.shared, "they leave nothing behind"


def test_same_initial_values_as_multi_head_attention(make_context) -> None:
    def first(name: str) -> dict[str, Tensor]:
        torch.manual_seed(3)
        return build("self_attention", {"name": name}, key="k", context=make_context(num_layers=2)).state_dict()

    shared, plain = first("shared"), first("multihead")
    assert list(shared) == list(plain)
    assert all(torch.equal(shared[name], plain[name]) for name in plain)


@pytest.mark.parametrize("bias", [True, False])
def test_a_follower_has_two_projections_less(bias: bool, make_context) -> None:
    leader, *followers = make(make_context, 3, bias=bias)
    width = 8
    for follower in followers:
        fewer = sum(p.numel() for p in leader.parameters()) - sum(p.numel() for p in follower.parameters())
        assert fewer == 2 * (width**2 + width * bias)
        assert {name.split(".")[0] for name in follower.state_dict()} == {"v", "out"}


def test_gradient_of_a_follower_reaches_its_leader(make_context) -> None:
    parts = make(make_context)
    run(parts, inputs(2), MASKS["causal"])[1].square().sum().backward()
    q, k, v = parts[0].qkv.weight.grad.chunk(3)
    assert q.abs().max() > 1e-6
    assert k.abs().max() > 1e-6
    assert not v.any(), "its values are not shared"


def test_a_follower_caches_values_only(make_context) -> None:
    leader, follower = make(make_context)
    states = [part.init_state(6, 5, torch.zeros(1)) for part in (leader, follower)]
    assert [list(state) for state in states] == [["k", "v"], ["v"]]
    assert isinstance(states[1]["v"], Columns)
    assert num_bytes(states[0]) == 2 * num_bytes(states[1]) == 2 * (6 * 5 * 8 * 4)


def test_each_layer_drops_weights_of_its_own(make_context) -> None:
    """Zero scores: every weight of the last row is 1/5; dropout zeroes some of them and doubles the others."""
    leader, follower = make(make_context, context={"attention_dropout": 0.5, "num_heads": 1})
    with torch.no_grad():
        for projection in (leader.qkv, follower.v):
            projection.weight.zero_()
            projection.bias.zero_()
        follower.v.weight.copy_(torch.eye(8))
        leader.qkv.weight[16:].copy_(torch.eye(8))
        for part in (leader, follower):
            part.out.weight.copy_(torch.eye(8))
            part.out.bias.zero_()
    x = torch.eye(8, dtype=torch.float64)[:5].repeat(40, 1, 1)
    first, second = (y[:, -1, :5] for y in run((leader, follower), [x, x], MASKS["causal"]))
    for seen in (first, second):
        assert set(seen.unique().tolist()) == {0.0, 0.4}
    assert not torch.equal(first, second)
    leader.eval(), follower.eval()
    again = [y[:, -1, :5] for y in run((leader, follower), [x, x], MASKS["causal"])]
    assert_close(again, [torch.full_like(first, 0.2)] * 2)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            [2, 2],
            "model.decoder.self_attention.policy=[2, 2] adds up to 4 layers, but model.decoder.layers=3; "
            "give block sizes that add up to it, or null for one block",
        ),
        ([3, 0], "model.decoder.self_attention.policy=0 is out of range: it must be at least 1"),
        ([], "model.decoder.self_attention.policy=[] adds up to 0 layers, but model.decoder.layers=3; "
         "give block sizes that add up to it, or null for one block"),
    ],
)  # fmt: skip
def test_policy_must_fit_the_stack(policy: list[int], message: str, make_context) -> None:
    with pytest.raises(ConfigError) as caught:
        make(make_context, 3, policy=policy)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("policy", "kept", "expected"),
    [
        ([2, 1, 3], [0, 1, 2, 3, 5], [2, 1, 2]),
        ([2, 1, 3], [0, 3, 4, 5], [1, 3]),
        ([1, 1, 1], [1], [1]),
        (None, [0, 2], None),
        ([3, 3], [], None),
    ],
)
def test_selected_layers(policy: list[int] | None, kept: list[int], expected: list[int] | None) -> None:
    part = find("self_attention", "shared", "k").factory
    node = {"name": "shared", "num_heads": 2, "policy": policy}
    assert part.select_layers(node, kept) == {**node, "policy": expected}


@pytest.mark.parametrize(
    ("policy", "kept", "message"),
    [
        (
            [1, 3],
            [0, 2],
            "self_attention.policy=[1, 3]: layer 2 uses the attention of layer 1 (layers 1 to 3 are one block); "
            "keep layer 1, or leave layer 2 out too",
        ),
        (
            None,
            [1],
            "self_attention.policy=null: layer 1 uses the attention of layer 0 (all layers are one block); "
            "keep layer 0, or leave layer 1 out too",
        ),
    ],
)
def test_a_follower_is_not_selected_alone(policy: list[int] | None, kept: list[int], message: str) -> None:
    part = find("self_attention", "shared", "k").factory
    with pytest.raises(ConfigError) as caught:
        part.select_layers({"name": "shared", "policy": policy}, kept)
    assert str(caught.value) == message


def test_layer_drop_takes_whole_blocks(make_model) -> None:
    model = make_model(
        *("model.decoder.layers=5", "model.decoder.self_attention={name: shared, policy: [2, 3]}"),
        *("model.decoder.cross_attention={name: shared, policy: [1, 2, 1, 1]}", "model.decoder.stack.layer_drop=0.5"),
    )
    stack, seen = model.decoder.stack, set()
    assert stack.groups == [1, 1, 1, 1, 1], "blocks that overlap hang together"
    model = make_model(
        *("model.decoder.layers=5", "model.decoder.self_attention={name: shared, policy: [2, 3]}"),
        *("model.decoder.cross_attention={name: shared, policy: [1, 1, 2, 1]}", "model.decoder.stack.layer_drop=0.5"),
    )
    stack = model.decoder.stack
    assert stack.groups == [1, 1, 2, 2, 2]
    for _ in range(50):
        seen.add(tuple(stack._kept()))
        model(torch.tensor([[4, 5, 2]]), torch.tensor([[1, 6]]))  # no layer misses what it needs
    assert len(seen) == 4


def test_bfloat16_training_stays_close(make_context) -> None:
    parts = make(make_context)
    xs = inputs(2)
    expected = run(parts, xs, MASKS["padding"])
    rough = [part.float() for part in parts]
    with torch.autocast("cpu", torch.bfloat16):
        got = run(rough, [x.float() for x in xs], MASKS["padding"])
    assert [y.dtype for y in got] == [torch.bfloat16] * 2
    assert_close([y.double() for y in got], expected, rtol=0.05, atol=0.1)
    got[1].float().sum().backward()
    assert all(p.grad.isfinite().all() for part in parts for p in part.parameters() if p.grad is not None)


def test_weights_of_a_block_are_those_of_its_leader(make_context) -> None:
    parts, xs, memo = make(make_context), inputs(2), ForwardPass()
    seen = []
    for part, x in zip(parts, xs):
        part(x, MASKS["padding"], memo)
        seen.append(part.weights(x, MASKS["padding"], memo))
    assert torch.equal(seen[0], seen[1])
    assert_close(seen[0].sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert not seen[0][1, :, :, 3:].any(), "padding"


def test_a_follower_adopts_the_values_of_multi_head_attention(make_context) -> None:
    follower, plain = make(make_context)[1], make(make_context, name="multihead")[1]
    adopted = follower.adopt(plain.state_dict())
    assert list(adopted) == ["v.weight", "v.bias"]
    [x] = inputs(1)
    follower.load_state_dict({**plain.out.state_dict(prefix="out."), **adopted})
    v = plain._project(x)[2].transpose(1, 2).flatten(2)
    assert_close(follower.v(x), v)
    assert make(make_context)[0].adopt(plain.state_dict()) == {}
