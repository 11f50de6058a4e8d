"""The adaptive softmax against its formula, torch's own, the full softmax, and the pruned search against the full."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.models.bands import default_cutoffs
from nmt.models.interfaces import VocabularySizes
from nmt.models.linear import LinearMaker
from nmt.registry import build

WORDS, WIDTH, TOKENS = 30, 16, 40
EXACT = {"rtol": 0.0, "atol": 1e-10}

DENSE = LinearMaker({"name": "dense"})


def make(words: int = WORDS, embedding: dict[str, Any] | None = None, shuffled: bool = True, **options: Any) -> Any:
    """An output in float64, its words in an order that is not that of their ids."""
    sizes = VocabularySizes(words, words, True, WIDTH, WIDTH, 0.0)
    shared = build("embedding", {"name": "learned"} | (embedding or {}), key="model.embedding", sizes=sizes)
    node = {"name": "adaptive", "cutoffs": [6, 14], **options}
    output = build(
        "output", node, key="model.output", embed_dim=WIDTH, vocab_size=words, embedding=shared, make_linear=DENSE
    ).double()
    if shuffled:
        output.order.use(torch.randint(100, (words,)))
    return output


def tokens() -> tuple[Tensor, Tensor]:
    return torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True), torch.randint(WORDS, (TOKENS,))


def smoothed(output: Any, hidden: Tensor, target: Tensor, eps: float) -> Tensor:
    """The loss as documented, from all log-probabilities: without the inner terms of tails of other words."""
    bounds, ranks = output.bands.bounds, output.order.ranks
    lprobs = output.log_probs(hidden)[:, ranks.argsort()]  # by rank
    loss = -(1 - eps) * lprobs.gather(1, ranks[target].unsqueeze(1)).sum()
    loss = loss - eps / len(ranks) * lprobs[:, : bounds[1]].sum()
    for start, end in pairwise(bounds[1:]):
        band = lprobs[:, start:end]
        own = (ranks[target] >= start) & (ranks[target] < end)
        loss = loss - eps / len(ranks) * (band[own].sum() + (end - start) * band[~own].logsumexp(1).sum())
    return loss


@pytest.mark.parametrize("cutoffs", [[], [6], [6, 14], [4, 5, 6, 29], None])
def test_probabilities_sum_to_one_and_the_loss_reads_them(cutoffs: list[int] | None) -> None:
    output, (hidden, target) = make(cutoffs=cutoffs), tokens()
    lprobs = output.log_probs(hidden)
    assert_close(lprobs.exp().sum(1), torch.ones(TOKENS, dtype=torch.float64), **EXACT)
    loss, nll = output.loss(hidden, target, 0.0)
    assert_close(nll, -lprobs.gather(1, target[:, None]).sum().detach(), **EXACT)
    assert_close(loss.detach(), nll, **EXACT)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_loss_and_gradients_equal_the_formula(eps: float, bias: bool, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr("nmt.models.cross_entropy.CHUNK_ELEMENTS", chunk)
    output, (hidden, target) = make(head_bias=bias), tokens()
    expected, (loss, _) = smoothed(output, hidden, target, eps), output.loss(hidden, target, eps)
    assert_close(loss, expected, **EXACT)
    inputs = (hidden, *output.parameters())
    for got, wanted in zip(torch.autograd.grad(loss * 0.3, inputs), torch.autograd.grad(expected * 0.3, inputs)):
        assert_close(got, wanted, **EXACT)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_without_tails_it_is_the_linear_output(eps: float) -> None:
    output, (hidden, target) = make(cutoffs=[], shuffled=False), tokens()
    logits = hidden @ output.words.weight.t()
    assert_close(output.log_probs(hidden), logits.log_softmax(1), **EXACT)
    expected = F.cross_entropy(logits, target, label_smoothing=eps, reduction="sum")
    assert_close(output.loss(hidden, target, eps)[0], expected, **EXACT)


def test_equals_torch() -> None:
    output, (hidden, target) = make(head_bias=True), tokens()
    theirs = nn.AdaptiveLogSoftmaxWithLoss(WIDTH, WORDS, [6, 14], div_value=4.0, head_bias=True).double()
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat([output.words.weight, output.clusters.weight]))
        theirs.head.bias.copy_(torch.cat([output.words.bias, output.clusters.bias]).normal_())
        output.words.bias.copy_(theirs.head.bias[:6])
        output.clusters.bias.copy_(theirs.head.bias[6:])
        for tail, (down, words) in zip(output.tails, theirs.tail):
            down.weight.copy_(tail.down.weight)
            words.weight.copy_(tail.words.weight)
    ranks = output.order.ranks
    assert_close(output.log_probs(hidden), theirs.log_prob(hidden)[:, ranks], **EXACT)
    assert_close(output.loss(hidden, target, 0.0)[0], theirs(hidden, ranks[target]).loss * TOKENS, **EXACT)


def test_clusters_as_logsumexp_of_full_tails_make_the_full_softmax() -> None:
    """One hidden state at a time: a cluster's logit is linear in it, so one vector can give any value."""
    output = make(div_value=1.0)
    for hidden in torch.randn(3, 1, WIDTH, dtype=torch.float64):
        logits = [hidden @ output.words.weight.t()]
        logits += [hidden @ (tail.words.weight @ tail.down.weight).t() for tail in output.tails]
        with torch.no_grad():
            for cluster, tail in zip(output.clusters.weight, logits[1:]):
                cluster.copy_((tail.logsumexp(1) / hidden.square().sum() * hidden)[0])
        expected = torch.cat(logits, 1).log_softmax(1)[:, output.order.ranks]
        assert_close(output.log_probs(hidden), expected, **EXACT)


def test_a_clusters_probability_is_that_of_its_words() -> None:
    output, (hidden, _) = make(), tokens()
    head = torch.cat([output.words(hidden), output.clusters(hidden)], 1).softmax(1)
    ranked = output.log_probs(hidden).exp()[:, output.order.ranks.argsort()]
    for cluster, (start, end) in enumerate([(6, 14), (14, 30)], start=6):
        assert_close(ranked[:, start:end].sum(1), head[:, cluster], **EXACT)


@pytest.mark.parametrize("k", [1, 3, 6, 11, 40])
@pytest.mark.parametrize("sharp", [0.1, 5.0])
def test_the_best_words_are_exact_without_all_tails(k: int, sharp: float) -> None:
    output, (hidden, _) = make(), tokens()
    ran = []
    for tail in output.tails:
        tail.register_forward_hook(lambda _, given, __: ran.append(len(given[0])))
    hidden = hidden.detach() * sharp
    full = output.log_probs(hidden)
    del ran[:]
    got = output.top_log_probs(hidden, k)
    best = min(k, WORDS)
    for wanted, found in zip(full.topk(best), got.topk(best)):
        assert_close(found, wanted, **EXACT)
    assert_close(got[:, :4], full[:, :4], **EXACT)
    seen = got.isfinite()
    assert_close(got[seen], full[seen], **EXACT)
    if k == 1 and sharp > 1:
        assert sum(ran) < TOKENS, "tails ran for rows that cannot need them"
    if k > 6:
        assert ran[0] == TOKENS


def test_batch_without_words_of_a_tail() -> None:
    output, (hidden, _) = make(), tokens()
    target = output.order.ranks.argsort()[torch.randint(6, (TOKENS,))]
    loss, _ = output.loss(hidden, target, 0.1)
    loss.backward()
    assert not any(tail.words.weight.grad.any() for tail in output.tails)
    output.loss(hidden[:0], target[:0], 0.1)[0].backward()


def test_bf16_autocast_is_close() -> None:
    output, (hidden, target) = make().float(), tokens()
    hidden = hidden.detach().float().requires_grad_()
    expected = output.loss(hidden, target, 0.1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = output.loss(hidden, target, 0.1)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, rtol=0.02, atol=0.0)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in output.parameters())


@pytest.mark.parametrize("cutoffs", [[3], [6, 6], [8, 5], [30], [6, 31]])
def test_cutoffs_that_do_not_fit(cutoffs: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^model\.output\.cutoffs=\[.* do not fit a vocabulary of 30 words; valid"):
        make(cutoffs=cutoffs)


@pytest.mark.parametrize("words", [4, 8, 9, 24, 25, 100, 8000, 267_735])
def test_default_cutoffs_fit(words: int) -> None:
    bounds = [0, *default_cutoffs(words), words]
    assert bounds == sorted(set(bounds))
    assert min(bounds[1:]) >= min(words, 8)


def test_sharing_with_the_embedding() -> None:
    banded = {"name": "adaptive", "share": "all", "cutoffs": [6, 14]}
    output = make(embedding=banded)
    assert output.order.sides == {"source", "target"}
    sizes = VocabularySizes(WORDS, WORDS, True, WIDTH, WIDTH, 0.0)
    vectors = build("embedding", banded, key="model.embedding", sizes=sizes).double()
    node = {"name": "adaptive", "cutoffs": [6, 14]}
    output = build(
        "output", node, key="k", embed_dim=WIDTH, vocab_size=WORDS, embedding=vectors, make_linear=DENSE
    ).double()
    ids = torch.arange(WORDS)
    vectors.target.words.order.use(torch.randint(100, (WORDS,)))
    hidden, ranks = torch.randn(3, WIDTH, dtype=torch.float64), output.order.ranks
    dots = hidden @ vectors.target.words(ids).t()  # the full logits, were there no clusters
    lprobs = output.log_probs(hidden)
    for start, end in ((0, 6), (6, 14), (14, 30)):
        inside = (ranks >= start) & (ranks < end)
        assert_close(lprobs[:, inside].log_softmax(1), dots[:, inside].log_softmax(1), **EXACT)
    for wrong in ({"cutoffs": [6, 15]}, {"div_value": 2.0}):
        with pytest.raises(ConfigError, match=r"^model\.output: its bands begin at \[6, 1[45]\] with widths"):
            make(embedding=banded, **wrong)
    with pytest.raises(ConfigError, match=r"^model\.embedding\.name=adaptive shares its vectors with"):
        build(
            "output",
            {"name": "linear"},
            key="k",
            embed_dim=WIDTH,
            vocab_size=WORDS,
            embedding=vectors,
            make_linear=DENSE,
        )
