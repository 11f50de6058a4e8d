"""What is drawn, and that a line's samples are its own."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from nmt.generation.hypothesis import FAILED
from nmt.generation.options import GenerationBatchOptions, Sampling, SearchOptions
from nmt.generation.sampling import draw
from nmt.generation.translate import translate_ids

PROBS = [0.0, 0.2, 0.5, 0.0, 0.3]
GRID = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def shares(**options: Any) -> list[float]:
    """How often each of the five tokens is drawn when the deciding number runs evenly over [0, 1)."""
    lprobs = torch.tensor(PROBS).log().expand(1000, 5).clone()
    counts = Counter(draw(lprobs, GRID, SearchOptions(**options)).tolist())
    return [counts[i] / 1000 for i in range(5)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, [0, 0.04 / 0.38, 0.25 / 0.38, 0, 0.09 / 0.38]),
        ({"top_k": 1}, [0, 0, 1, 0, 0]),
        ({"top_k": 2}, [0, 0, 0.625, 0, 0.375]),
        ({"top_k": 100}, PROBS),
        ({"top_p": 0.5}, [0, 0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 0, 0.625, 0, 0.375]),
        ({"top_p": 0.81}, PROBS),
        ({"top_k": 2, "top_p": 0.6}, [0, 0, 1, 0, 0]),  # 0.625 of what the two hold
    ],
)
def test_distribution_by_hand(options: dict[str, Any], expected: list[float]) -> None:
    assert shares(**options) == pytest.approx(expected, abs=0.002)


def test_no_impossible_token_is_drawn_at_the_edges() -> None:
    lprobs = torch.tensor([PROBS, PROBS]).log()
    edges = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert draw(lprobs, edges, SearchOptions()).tolist() == [1, 4]
    assert draw(lprobs, edges, SearchOptions(top_p=0.6)).tolist() == [2, 4]


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}, {"temperature": 0.001}])
def test_nothing_is_drawn_where_nothing_can_be(options: dict[str, Any]) -> None:
    rows = torch.tensor([[-torch.inf] * 5, [-torch.inf] * 4 + [-9.0], [-1.0, torch.nan, -1.0, -2.0, -1.0]])
    half = torch.full((3,), 0.5, dtype=torch.float64)
    assert draw(rows, half, SearchOptions(**options)).tolist() == [-1, 4, -1]


@pytest.mark.parametrize(
    ("rules", "cost"),
    [({"min_length": 0}, 0.0), ({}, 0.0), ({"unk_penalty": 1.0}, 1.0), ({"ban_unk": True}, torch.inf)],
)
def test_samples_follow_the_model(table_model: Any, rules: dict[str, Any], cost: float) -> None:
    """EOS or one of two words, of which 3 is the unknown one."""
    model = table_model(vocab_size=5, seed=11)  # all three are about as probable
    options = SearchOptions(sampling=Sampling.random, nbest=1, max_length_ratio=0, max_length_offset=1, **rules)
    drawn = Counter(tuple(found[0].ids) for found in translate_ids(model, [[3]] * 2000, options))
    lprobs = model.distribution((3, 2), ()).clone()
    lprobs[: 2 if rules == {"min_length": 0} else 3] = -torch.inf
    lprobs[3] -= cost
    probs = lprobs.softmax(0).tolist()
    for target, token in (((), 2), ((3,), 3), ((4,), 4)):
        assert drawn[target] / 2000 == pytest.approx(probs[token], abs=0.035)  # three standard deviations


def test_a_lines_samples_depend_on_its_place_alone(table_model: Any) -> None:
    model, sources = table_model(), [[3, 4], [5], [3, 3, 3], [5]]
    options = SearchOptions(sampling=Sampling.random, nbest=3, max_length_offset=3)
    together = translate_ids(model, sources, options)
    assert translate_ids(model, sources, options, batch=GenerationBatchOptions(4096, 1)) == together
    assert translate_ids(model, sources[2:], options, keys=[2, 3]) == together[2:]
    assert together[1] != together[3]  # the same source at another place
    assert translate_ids(model, sources, SearchOptions(**{**vars(options), "seed": 2})) != together


def test_scores_are_the_models(table_model: Any) -> None:
    model = table_model()
    options = SearchOptions(
        sampling=Sampling.random, nbest=4, temperature=0.5, top_k=3, top_p=0.9, max_length_offset=3, length_penalty=0.5
    )
    for found in translate_ids(model, [[3, 4]], options):
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for h in found:
            assert h.logprob == pytest.approx(model.logprob([3, 4], h.ids), abs=1e-5)
            assert h.score == pytest.approx(h.logprob / (len(h.ids) + 1) ** 0.5)
            assert len(h.token_lprobs) == len(h.ids) + 1


def test_rules_are_obeyed_to_the_end_or_nothing_is_drawn(table_model: Any) -> None:
    """Of 3 words none may occur twice; some draws come to their end before the least length, all before a greater."""
    model, rules = table_model(), {"no_repeat_ngram": 1, "sampling": Sampling.random, "nbest": 50, "top_k": 2}
    (found,) = translate_ids(model, [[3]], SearchOptions(**rules, min_length=2))
    assert len(found) == 50
    assert all(len(set(h.ids)) == len(h.ids) >= 2 for h in found)
    assert translate_ids(model, [[3]], SearchOptions(**rules, min_length=4)) == [[FAILED]]
    assert translate_ids(model, [[3]], SearchOptions(**rules, forced_length=4)) == [[FAILED]]


def test_lost_draws_are_left_out(table_model: Any) -> None:
    class Half(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            """4 or 5 at first; after 5 only 5 again, after 4 anything."""
            words = {(): [4, 5], (5,): [5]}.get(prefix, [2, 3, 4, 5])
            return torch.full((6,), -torch.inf).index_fill(0, torch.tensor(words), -math.log(len(words)))

    options = SearchOptions(sampling=Sampling.random, nbest=50, no_repeat_ngram=1, min_length=2)
    (some,) = translate_ids(Half(), [[3]], options)
    assert 10 < len(some) < 40
    assert all(h.ids[0] == 4 and len(set(h.ids)) == len(h.ids) >= 2 and math.isfinite(h.score) for h in some)


def test_constraints_hold(table_model: Any) -> None:
    options: dict[str, Any] = {"sampling": Sampling.random, "nbest": 8}
    model = table_model()
    found = translate_ids(
        model, [[3]], SearchOptions(**options, min_length=2, max_length_ratio=0, max_length_offset=3), prefixes=[[5]]
    )
    assert all(2 <= len(h.ids) <= 4 and h.ids[0] == 5 for h in found[0])
    forced = translate_ids(model, [[3], [4, 4]], SearchOptions(**options, forced_length=6))
    assert all(len(h.ids) == len(h.token_lprobs) == 6 for hypotheses in forced for h in hypotheses)
    distinct = translate_ids(model, [[3]], SearchOptions(**options, no_repeat_ngram=1))
    assert all(len(set(h.ids)) == len(h.ids) for h in distinct[0])
