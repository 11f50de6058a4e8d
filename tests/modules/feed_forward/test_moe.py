"""Mixture of experts: the papers' formulas token by token, and what must hold whatever the routers do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nmt.modules.feed_forward import experts as experts_module
from nmt.modules.feed_forward.experts import FeedForwardExperts, grouped_linear
from nmt.modules.feed_forward.moe import MixtureOfExperts
from nmt.modules.feed_forward.routing import Routing, balance, chosen_probability, squared_variation
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.models.packed import prepare_inference
from nmt.registry import build

EXACT = {"rtol": 0.0, "atol": 1e-12}
ROUTERS = ("switch", "noisy_topk", "gshard")
every_router = pytest.mark.parametrize("router", ROUTERS)


def make(make_context, **options: Any) -> MixtureOfExperts:
    """Four experts 8 wide and 12 inside, in float64; the router's weights are random."""
    context = make_context(**options.pop("context", {}))
    torch.manual_seed(3)
    node = {"name": "moe", "experts": 4, **options}
    part: MixtureOfExperts = build("feed_forward", node, key="model.decoder.feed_forward", context=context).double()
    if part.dense is None:
        with torch.no_grad():
            for weight in part.router.parameters():
                weight.copy_(torch.randn(weight.shape))
            for bias in (part.experts.inner_bias, part.experts.outer_bias):
                if bias is not None:
                    bias.copy_(torch.randn(bias.shape))
    return part


def inputs(*size: int) -> Tensor:
    return torch.randn(*size, 8, dtype=torch.float64)


def one_expert(part: MixtureOfExperts, number: int, x: Tensor) -> Tensor:
    """The feed-forward network of one expert (relu), written plainly."""
    e = part.experts
    hidden = F.relu(e.inner_weight[number] @ x + e.inner_bias[number])
    return e.outer_weight[number] @ hidden + e.outer_bias[number]


def plainly(part: MixtureOfExperts, router: str, x: Tensor) -> Tensor:
    """y = sum of G_i(x) E_i(x) over the chosen experts of a token; no noise."""
    logits = part.router.weight @ x
    chosen = logits.argsort(descending=True)[: part.router.k].tolist()
    probs = logits.exp() / logits.exp().sum()
    if router == "switch":
        gates = {i: probs[i] for i in chosen}
    else:  # softmax over the chosen logits and renormalised probabilities are the same
        gates = {i: probs[i] / sum(probs[j] for j in chosen) for i in chosen}
    return sum(gates[i] * one_expert(part, i, x) for i in chosen)  # type: ignore[return-value]


# --- the formula ------------------------------------------------------------------------------------------------------


@every_router
@pytest.mark.parametrize("k", [1, 2, 4])
def test_output_is_the_formula(router: str, k: int, make_context) -> None:
    part = make(make_context, router=router, k=k).eval()
    x = inputs(2, 5)
    expected = torch.stack([plainly(part, router, token) for token in x.flatten(0, 1)]).view_as(x)
    assert_close(part(x, ForwardPass()), expected, **EXACT)


def test_defaults(make_context) -> None:
    """One expert a token for switch, two for the others, never more than there are."""
    got = {router: make(make_context, router=router).router.k for router in ROUTERS}
    assert got == {"switch": 1, "noisy_topk": 2, "gshard": 2}
    assert make(make_context, router="gshard", experts=1).router.k == 1
    part = make(make_context)
    assert type(part.router).__name__ == "Switch"
    assert part.experts.inner_weight.shape == (4, 12, 8)
    assert part.capacity_factors == (1.25, None)


@every_router
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "glu", "reglu", "geglu", "swiglu"])
def test_one_expert_is_the_dense_network(router: str, activation: str, make_context) -> None:
    part = make(make_context, router=router, experts=1, activation=activation)
    dense = build("feed_forward", {"name": "dense", "activation": activation}, key="k", context=make_context()).double()
    with torch.no_grad():
        dense.inner.weight.copy_(part.experts.inner_weight[0])
        dense.outer.weight.copy_(part.experts.outer_weight[0])
        dense.inner.bias.copy_(part.experts.inner_bias[0])
        dense.outer.bias.copy_(part.experts.outer_bias[0])
    x = inputs(2, 5)
    for mode in (True, False):
        assert_close(part.train(mode)(x, ForwardPass()), dense(x, ForwardPass()), **EXACT)


@every_router
@pytest.mark.parametrize("k", [1, 3])
def test_identical_experts_are_one_network(router: str, k: int, make_context) -> None:
    """Gates sum to one, but for switch, whose gates are probabilities."""
    part = make(make_context, router=router, k=k, capacity_factor_train=None)
    with torch.no_grad():
        for weight in part.experts.parameters():
            weight.copy_(weight[:1].expand_as(weight))
    x = inputs(10)
    one = torch.stack([one_expert(part, 0, token) for token in x])
    if router == "switch":
        one = one * F.linear(x, part.router.weight).softmax(-1).topk(k).values.sum(1, keepdim=True)
    assert_close(part.eval()(x[None], ForwardPass())[0], one, **EXACT)
    if router != "switch":
        assert_close(part.train()(x[None], ForwardPass())[0], one, **EXACT)


@every_router
def test_tokens_do_not_see_each_other(router: str, make_context) -> None:
    part = make(make_context, router=router).eval()
    x, order = inputs(1, 9), torch.randperm(9)
    whole = part(x, ForwardPass())
    assert_close(part(x[:, order], ForwardPass()), whole[:, order], **EXACT)
    assert_close(torch.cat([part(piece, ForwardPass()) for piece in x.split([1, 5, 3], 1)], 1), whole, **EXACT)
    random = torch.get_rng_state()
    part(x, ForwardPass())
    assert torch.equal(torch.get_rng_state(), random), "no noise at inference"


# --- capacity ---------------------------------------------------------------------------------------------------------


def identity(part: MixtureOfExperts) -> MixtureOfExperts:
    """Experts that change nothing, so that the output shows the gates."""
    part.experts.forward = lambda x, counts: x  # type: ignore[method-assign]
    return part


@pytest.mark.parametrize("router", ["noisy_topk", "gshard"])
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.25, None])
def test_what_is_kept_and_dropped(router: str, factor: float | None, make_context) -> None:
    """kept + dropped = k N; no expert has more than its capacity; and it keeps the first in order."""
    part = make(make_context, router=router, capacity_factor_train=factor)
    x, k, num_experts = inputs(40), 2, 4
    routing = part.router(x)
    order, counts, demand = part._assign(routing)
    capacity = 2 * 40 if factor is None else math.ceil(factor * k * 40 / num_experts)
    assert int(demand.sum()) == k * 40
    assert counts.tolist() == demand.clamp(max=capacity).tolist()
    wanted: list[list[tuple[int, int]]] = [[] for _ in range(num_experts)]
    for choice in range(k):  # all first choices are placed before any second one
        for token in range(40):
            wanted[routing.experts[token, choice]].append((choice, token))
    kept = [places[:capacity] for places in wanted]
    assert [divmod(n, 40) for n in order.tolist()] == [place for places in kept for place in places]
    assert counts.tolist() == [len(places) for places in kept]


def test_capacity_is_that_of_the_number_as_written(make_context) -> None:
    """1.1 times an even share of 10 tokens is 11; in floating point it is more, and was rounded up to 12."""
    part = make(make_context, experts=5, capacity_factor_train=1.1, jitter=0.0)
    x = torch.ones(50, 8, dtype=torch.float64)
    with torch.no_grad():
        part.router.weight.copy_(torch.eye(5, 8))
        part.router.weight[0] += 1.0  # all want the first expert
    _, counts, demand = part._assign(part.router(x))
    assert demand.tolist() == [50, 0, 0, 0, 0]
    assert counts.tolist() == [11, 0, 0, 0, 0]


@pytest.mark.parametrize("router", ["switch", "gshard"])
def test_a_token_that_is_dropped_is_left_to_the_residual(router: str, make_context) -> None:
    part = identity(make(make_context, router=router, capacity_factor_train=0.25, jitter=0.0))
    x = inputs(1, 40)
    memo = ForwardPass()
    got = part(x, memo)[0]
    torch.manual_seed(0)
    routing = part.router(x[0])
    order, *_ = part._assign(routing)
    gates = torch.zeros(40, dtype=torch.float64)
    for number in order.tolist():
        gates[number % 40] += routing.gates[number % 40, number // 40]
    assert_close(got, gates[:, None] * x[0], **EXACT)
    assert (gates == 0).any()
    assert (got[gates == 0] == 0).all()
    dropped = memo.figures["decoder.0.dropped"].item()
    assert dropped == pytest.approx(1 - len(order) / routing.experts.numel(), abs=1e-6)
    assert part.eval()(x, memo)[0].abs().sum(1).gt(0).all(), "nothing is dropped at inference"


def test_a_dropped_token_leaves_its_layer_as_it_came(make_model) -> None:
    layer = make_model(
        "model.decoder.feed_forward={name: moe, layers: all, capacity_factor_train: 1e-6}", "model.dropout=0"
    ).decoder.stack.layers[0]
    x = torch.randn(1, 30, 16)
    got = layer._transform(x, ForwardPass())
    kept = (got != x).any(-1).sum()
    assert 1 <= kept <= 8, "one token an expert"
    layer.eval()
    assert (layer._transform(x, ForwardPass()) != x).any(-1).all()


def test_capacity_at_inference(make_context) -> None:
    part = make(make_context, capacity_factor_eval=1.0).eval()
    *_, counts, demand = part._assign(part.router(inputs(40)))
    assert demand.max() > 10
    assert counts.max() == 10


# --- routers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_probability_of_being_chosen(k: int) -> None:
    """P(x, i) is how often i is among the k largest when its noise alone is drawn anew."""
    clean, deviation = torch.randn(2, 1, 5, dtype=torch.float64)
    deviation = deviation.abs() + 0.3
    noisy = clean + torch.randn(1, 5, dtype=torch.float64) * deviation
    top, order = noisy.topk(k + 1)
    got = chosen_probability(clean, deviation, top, order[:, :k])[0]
    draws = 200_000
    for i in range(5):
        again = noisy.repeat(draws, 1)
        again[:, i] = clean[0, i] + deviation[0, i] * torch.randn(draws, dtype=torch.float64)
        frequency = (again.topk(k).indices == i).any(1).double().mean()
        assert_close(got[i], frequency, rtol=0.0, atol=5e-3)


def test_noisy_top_k_by_the_paper(make_context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eq. 3 to 5 and the losses of appendix A, number by number, with known noise."""
    part = make(make_context, router="noisy_topk", w_importance=0.3, w_load=0.7, noise_floor=0.05)
    x, noise = inputs(6), torch.randn(6, 4, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    routing = part.router(x)
    importance, load = [0.0] * 4, [0.0] * 4
    for t in range(6):
        clean = [float(w @ x[t]) for w in part.router.weight.detach()]
        deviation = [math.log1p(math.exp(float(w @ x[t]))) + 0.05 for w in part.router.noise_weight.detach()]
        h = [c + float(noise[t, i]) * s for i, (c, s) in enumerate(zip(clean, deviation))]
        first, second = sorted(range(4), key=lambda i: -h[i])[:2]
        total = math.exp(h[first]) + math.exp(h[second])
        assert routing.experts[t].tolist() == [first, second]
        for place, i in enumerate((first, second)):
            assert routing.gates[t, place].item() == pytest.approx(math.exp(h[i]) / total, rel=1e-12)
            importance[i] += math.exp(h[i]) / total
        for i in range(4):
            rival = sorted((h[j] for j in range(4) if j != i), reverse=True)[1]
            load[i] += 0.5 * (1 + math.erf((clean[i] - rival) / deviation[i] / math.sqrt(2)))

    def cv2(values: list[float]) -> float:
        mean = sum(values) / 4
        return sum((v - mean) ** 2 for v in values) / 4 / mean**2

    assert sum(importance) == pytest.approx(6, rel=1e-12)
    assert float(routing.losses["moe_importance"]) == pytest.approx(0.3 * cv2(importance), rel=1e-8)
    assert float(routing.losses["moe_load"]) == pytest.approx(0.7 * cv2(load), rel=1e-8)


def test_all_experts_chosen_is_a_load_without_a_loss(make_context) -> None:
    assert set(make(make_context, router="noisy_topk", k=4).router(inputs(6)).losses) == {"moe_importance"}


def test_balance_loss() -> None:
    """E sum f P: 1 where all is uniform, E where one expert has everything; gradient through P alone."""
    probs = torch.full((8, 4), 0.25, dtype=torch.float64)
    assert balance(probs, torch.arange(8) % 4).item() == 1
    assert balance(torch.eye(4, dtype=torch.float64)[[2] * 8], torch.tensor([2] * 8)).item() == 4
    probs = torch.randn(8, 4, dtype=torch.float64).softmax(-1)
    first = probs.argmax(1)
    shares = [(first == e).double().mean() * probs[:, e].mean() for e in range(4)]
    assert balance(probs, first).item() == pytest.approx(4 * float(sum(shares)), rel=1e-12)
    assert balance(probs, first) >= 1
    assert squared_variation(torch.full((4,), 3.0)).item() == 0
    assert squared_variation(torch.tensor([1.0, 3.0])).item() == pytest.approx(0.25)


def test_random_policy(make_context) -> None:
    """A second expert is used with probability min(1, gate / 0.2), in training; the first one always."""
    part = make(make_context, router="gshard", second_policy="random", capacity_factor_train=None)
    with torch.no_grad():  # gates 0.9 and 0.1 for every token
        part.router.weight.zero_()
        part.router.weight[0, 0], part.router.weight[1, 0], part.router.weight[2:, 0] = math.log(9), 0.0, -9.0
    x = torch.eye(1, 8, dtype=torch.float64).repeat(20_000, 1)
    routing = part.router(x)
    assert routing.used is not None
    assert_close(routing.gates.mean(0), torch.tensor([0.9, 0.1], dtype=torch.float64), rtol=0, atol=1e-12)
    assert routing.used[:, 0].all()
    assert routing.used[:, 1].double().mean().item() == pytest.approx(0.5, abs=0.02)
    order, counts, demand = part._assign(routing)
    assert counts.tolist() == demand.tolist() == [20_000, int(routing.used[:, 1].sum()), 0, 0]
    assert len(order) == counts.sum()
    assert routing.used.t().reshape(-1)[order].all()
    assert part.eval().router(x).used is None


def test_jitter_is_for_training(make_context) -> None:
    part = identity(make(make_context, router="switch", experts=1, jitter=0.01))
    seen: list[Tensor] = []
    part.router.choose = lambda x: seen.append(x) or Routing(x.argmax(1)[:, None] * 0, x[:, :1])  # type: ignore
    x = torch.ones(1, 500, 8, dtype=torch.float64)
    part(x, ForwardPass())
    assert 0.99 <= seen[0].min() < 0.9905
    assert 1.0095 < seen[0].max() <= 1.01
    part.eval()(x, ForwardPass())
    assert torch.equal(seen[1], x[0])


@every_router
def test_equal_scores_are_no_reason_for_the_first_expert(router: str, make_context) -> None:
    part = make(make_context, router=router)
    with torch.no_grad():
        part.router.weight.zero_()
    first = part.router(inputs(400)).experts[:, 0]
    assert F.one_hot(first, 4).sum(0).min() > 50


def test_noise_starts_at_zero_weights(make_context) -> None:
    part = build("feed_forward", {"name": "moe", "router": "noisy_topk"}, key="k", context=make_context())
    assert all((weight == 0).all() for weight in part.router.parameters())


@every_router
@pytest.mark.parametrize("k", [1, 2])
def test_gradient_of_the_router(router: str, k: int, make_context) -> None:
    """A single gate of a softmax over the chosen ones is constant: only the losses then teach the router."""
    part = make(make_context, router=router, k=k)
    memo = ForwardPass()
    (part(inputs(1, 20), memo) * inputs(1, 20)).sum().backward(retain_graph=True)
    learns = k == 2 or router == "switch"
    assert (part.router.weight.grad.abs().sum() > 1e-6) == learns
    assert router != "noisy_topk" or learns or (part.router.weight.grad == 0).all()
    sum(memo.losses.values()).backward()
    assert part.router.weight.grad.abs().sum() > 1e-6


@every_router
def test_router_stays_in_float32(router: str, make_context) -> None:
    part = make(make_context, router=router).float().eval()
    x = torch.randn(1, 50, 8)
    wide = part.router(x.bfloat16().flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        under = part.router(x.bfloat16().flatten(0, 1))
        assert part(x, ForwardPass()).dtype == torch.float32, "the residual stream's"
    part = prepare_inference(part, torch.device("cpu"), torch.bfloat16)
    assert all(weight.dtype == torch.float32 for weight in part.router.parameters())
    narrow = part.router(x.bfloat16().flatten(0, 1))
    for got in (under, narrow):
        assert got.gates.dtype == torch.float32
        assert_close(got.gates, wide.gates, rtol=0, atol=0)
        assert torch.equal(got.experts, wide.experts)
    assert part(x.bfloat16(), ForwardPass()).dtype == torch.bfloat16
    assert part.double().router.weight.dtype == torch.float64


# --- padding, losses and figures --------------------------------------------------------------------------------------


@every_router
def test_padding_changes_nothing(router: str, make_context) -> None:
    part = make(make_context, router=router)
    x, padding = inputs(3, 6), torch.arange(6) >= torch.tensor([6, 4, 1])[:, None]
    outputs = []
    for fill in (0.0, 100.0):
        torch.manual_seed(5)
        memo = ForwardPass(padding_mask=padding)
        filled = x.masked_fill(padding[:, :, None], fill).requires_grad_()
        y = part(filled, memo)
        (gradient,) = torch.autograd.grad(y.square().sum() + sum(memo.losses.values()), filled)
        assert (gradient[padding] == 0).all()
        outputs.append((y, memo.losses, memo.figures))
    assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    torch.manual_seed(5)
    memo = ForwardPass()
    alone = part(x[~padding][None], memo)  # as if there were none
    assert_close((outputs[0][0][~padding], outputs[0][1], outputs[0][2]), (alone[0], memo.losses, memo.figures))
    assert (outputs[0][0][padding] == 0).all()


def test_losses_are_means_over_layers_and_figures_name_their_place(make_model) -> None:
    node = "{name: moe, layers: all, router: gshard, aux: 0.5}"
    model = make_model(f"model.encoder.feed_forward={node}", f"model.decoder.feed_forward={node}")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "router" in name:
                weight.zero_()  # uniform probabilities: each layer's term is exactly its weight
    output = model(torch.tensor([[4, 5, 6, 2]]), torch.tensor([[1, 8, 9]]))
    assert output.losses["moe_balance"].item() == pytest.approx(2 * 0.5, rel=1e-6)  # one of each stack
    names = {f"{side}.{layer}" for side in ("encoder", "decoder") for layer in (0, 1)}
    expected = {f"{place}.{name}" for place in names for name in ("max_load", "load_cv2", "dropped")}
    assert set(output.figures) == expected
    model.eval()
    output = model(torch.tensor([[4, 5, 6, 2]]), torch.tensor([[1, 8, 9]]))
    assert (output.losses, output.figures) == ({}, {})


def test_figures(make_context) -> None:
    part = identity(make(make_context, jitter=0.0, capacity_factor_train=1.0))
    with torch.no_grad():
        part.router.weight.copy_(8 * torch.eye(4, 8))
    x = torch.eye(4, 8, dtype=torch.float64)[[0, 0, 0, 0, 1, 1, 2, 3]]
    memo = ForwardPass()
    part(x[None], memo)
    assert memo.figures["decoder.0.max_load"].item() == 0.5
    assert memo.figures["decoder.0.load_cv2"].item() == pytest.approx((2**2 + 0 + 1 + 1) / 4 / 2**2)
    assert memo.figures["decoder.0.dropped"].item() == 0.25


# --- grouped products -------------------------------------------------------------------------------------------------

SIZES = [[3, 0, 5, 1], [0, 0, 9, 0], [9, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products(sizes: list[int], bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """All groups in one call, and one by one: the same values and gradients."""
    x = torch.randn(sum(sizes), 16).to(dtype)
    weight, offset = torch.randn(4, 8, 16).to(dtype), torch.randn(4, 8).to(dtype) if bias else None
    upstream = torch.randn(sum(sizes), 8).to(dtype)

    def run() -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, weight, offset) if t is not None]
        y = grouped_linear(leaves[0], torch.tensor(sizes), leaves[1], leaves[2] if bias else None)
        return [y, *torch.autograd.grad(y, leaves, upstream, allow_unused=True)]

    together = run()
    monkeypatch.setattr(experts_module, "_has_grouped_product", lambda weight: False)
    for got, expected in zip(together, run()):
        if got is not None and expected is not None:
            tolerance = 0.02 if dtype is torch.bfloat16 else 1e-5
            assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_whole_blocks_of_rows_change_nothing(make_context, monkeypatch: pytest.MonkeyPatch) -> None:
    part = make(make_context)
    counts = torch.tensor([40, 0, 64, 30])
    runs = []
    for compiles in (False, True):
        monkeypatch.setattr(experts_module, "_compiles_shapes", lambda x, compiles=compiles: compiles)
        torch.manual_seed(0)
        x = inputs(134).requires_grad_()
        y = part.experts(x, counts)
        runs.append([y, *torch.autograd.grad((y * inputs(134)).sum(), [x, *part.experts.parameters()])])
    assert_close(runs[0], runs[1], **EXACT)


def test_widths_that_grouped_products_refuse(make_context) -> None:
    part = make(make_context, context={"embed_dim": 7, "ffn_dim": 5}).float()
    x = torch.randn(2, 6, 7, requires_grad=True)
    part(x, ForwardPass()).sum().backward()
    assert all(weight.grad is not None for weight in part.experts.parameters())


def test_float32_equals_float64(make_context) -> None:
    part, x = make(make_context).eval(), inputs(2, 30)
    expected = part(x, ForwardPass())
    assert_close(part.float()(x.float(), ForwardPass()).double(), expected, rtol=1e-4, atol=1e-5)


def test_training_in_bfloat16(make_context) -> None:
    part, x = make(make_context, jitter=0.0).float(), torch.randn(2, 30, 8)
    expected = part(x, ForwardPass())
    with torch.autocast("cpu", torch.bfloat16):
        memo = ForwardPass()
        got = part(x, memo)
    assert memo.losses["moe_balance"].dtype == torch.float32
    assert_close(got, expected, rtol=0.05, atol=0.2)
    got.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in part.parameters())


def test_dropout_in_the_experts(make_context) -> None:
    assert make(make_context, context={"activation_dropout": 0.25}).experts.dropout.p == 0.25
    assert make(make_context, expert_dropout=0.5, context={"activation_dropout": 0.25}).experts.dropout.p == 0.5


def test_experts_start_like_dense_networks() -> None:
    from nmt.modules.feed_forward.dense import Activation

    torch.manual_seed(0)
    experts = FeedForwardExperts(3, 64, 256, Activation.swiglu, bias=True, dropout=0.0)
    for weight, fans in ((experts.inner_weight, 64 + 256), (experts.outer_weight, 256 + 64)):
        for one in weight:
            assert one.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.03)
    assert not torch.equal(experts.outer_weight[0], experts.outer_weight[1])
    assert (experts.inner_bias == 0).all()


# --- which layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [("every_other", 6, [1, 3, 5]), ("every_other", 1, [0]), ("all", 3, [0, 1, 2]), ([2, 0], 3, [0, 2]), ([], 2, [])],
)
def test_layers(layers: Any, depth: int, expected: list[int], make_context) -> None:
    parts = [make(make_context, layers=layers, context={"layer": i, "num_layers": depth}) for i in range(depth)]
    assert [i for i, part in enumerate(parts) if part.dense is None] == expected


@pytest.mark.parametrize(
    ("layers", "kept", "expected"),
    [
        ("every_other", [0, 1, 4, 5], [1, 3]),
        ("every_other", [1, 3], [0, 1]),
        ("every_other", [0, 2], []),
        ("all", [0, 2], "all"),
        ([0, 3], [1, 3], [1]),
    ],
)
def test_layers_after_pruning(layers: Any, kept: list[int], expected: Any) -> None:
    node = {"name": "moe", "experts": 3, "layers": layers}
    assert MixtureOfExperts.select_layers(node, kept) == {**node, "layers": expected}
    if layers == "every_other":
        del node["layers"]
        assert MixtureOfExperts.select_layers(node, kept)["layers"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 5}, r"^model\.decoder\.feed_forward\.k=5 is out of range: it must be at most .*\.experts=4$"),
        ({"layers": [0, 7]}, r"^model\.decoder\.feed_forward\.layers=\[0, 7\] names no layers; valid options: every_o"),
        ({"layers": "none"}, r"^model\.decoder\.feed_forward\.layers=none names no layers; valid options: every_other"),
        ({"router": "best"}, r"^model\.decoder\.feed_forward\.router: .*switch"),
        ({"capacity_factor_train": 0}, r"capacity_factor_train=0\.?0? is out of range: it must be greater than 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str, make_context) -> None:
    with pytest.raises(ConfigError, match=message):
        make(make_context, **options)


def test_dense_layers_have_the_options_of_the_experts(make_context) -> None:
    part = make(make_context, layers=[], ffn_dim=5, activation="swiglu", bias=False)
    assert [tuple(p.shape) for p in part.parameters()] == [(10, 8), (8, 5)]


# --- in a model -------------------------------------------------------------------------------------------------------


def test_learns(train, tmp_path) -> None:
    node = "{name: moe, layers: all, experts: 4, router: noisy_topk}"
    trainer = train(
        f"run={tmp_path / 'run'}",
        "train.max_updates=30",
        f"model.encoder.feed_forward={node}",
        f"model.decoder.feed_forward={node}",
        "train.precision=bf16",
    )
    assert trainer.learner.progress.best < 3.2


def test_padded_batch_through_a_layer(make_model) -> None:
    """The stack tells of its padding: a sentence alone is the same as beside a longer one."""
    model = make_model("model.encoder.feed_forward={name: moe, layers: all, capacity_factor_eval: 1.0}")
    encoder = model.double().eval().encoder
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [True] * 5])
    both = encoder(x, SelfMask(causal=False, padding_mask=padding), ForwardPass(padding_mask=padding))
    assert_close(both[:1], encoder(x[:1], SelfMask(causal=False), ForwardPass()), rtol=0, atol=1e-12)
