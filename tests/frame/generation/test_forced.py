"""Scores of given targets."""

import math
from typing import Any

import pytest
import torch

from nmt.config import DataError
from nmt.generation.forced import score_ids
from nmt.generation.options import GenerationBatchOptions, LengthNorm, Sampling, SearchOptions
from nmt.generation.translate import translate_ids

SOURCES = [[3, 4], [5], [], [3, 3, 4]]
TARGETS = [[5, 5, 3], [], [], [4]]


def test_scores_by_definition(table_model: Any) -> None:
    model = table_model()
    found = score_ids(model, SOURCES, TARGETS, SearchOptions(length_penalty=0.5))
    for source, target, h in list(zip(SOURCES, TARGETS, found))[::3]:
        assert h.ids == target
        assert h.logprob == pytest.approx(model.logprob(source, target), abs=1e-5)
        assert h.score == pytest.approx(h.logprob / (len(target) + 1) ** 0.5)
        assert len(h.token_lprobs) == len(target) + 1
    assert found[1].logprob == pytest.approx(float(model.distribution((5, 2), ())[2]))
    assert found[2].score == 0.0


def test_an_unknown_word_costs_and_an_empty_target_has_the_score_of_its_end(table_model: Any) -> None:
    model, gnmt = table_model(), LengthNorm.gnmt
    unknown, empty = score_ids(model, [[4], [4]], [[3, 3, 5], []], SearchOptions(unk_penalty=2.0, length_norm=gnmt))
    assert unknown.logprob == pytest.approx(model.logprob([4], [3, 3, 5]), abs=1e-5)
    assert unknown.score == pytest.approx((unknown.logprob - 4) / 1.5)
    assert empty.score == empty.logprob == pytest.approx(model.logprob([4], []), abs=1e-6)


def test_what_a_model_finds_impossible_has_no_score(table_model: Any) -> None:
    class Certain(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            return torch.tensor([-torch.inf, -torch.inf, 0.0, -torch.inf, -torch.inf, -torch.inf])

    (found,) = score_ids(Certain(), [[4]], [[5]])
    assert found.score == found.logprob == -math.inf
    assert not found.failed, "it was given, not searched"


@pytest.mark.parametrize(
    "rules",
    [
        {"length_penalty": 0.0},
        {},
        {"length_norm": LengthNorm.gnmt, "unk_penalty": 0.3, "length_penalty": 0.7},
        {"sampling": Sampling.random, "unk_penalty": 0.3, "temperature": 2.0},
    ],
)
def test_agrees_with_search(table_model: Any, rules: dict[str, Any]) -> None:
    model = table_model()
    for seed in range(3):
        options = SearchOptions(**rules, max_length_offset=3, seed=seed)
        searched = translate_ids(model, SOURCES, options)
        scored = score_ids(model, SOURCES, [best[0].ids for best in searched], options)
        for (best, *_), h in zip(searched, scored):
            assert h.score == pytest.approx(best.score, abs=1e-6)
            assert h.token_lprobs == pytest.approx(best.token_lprobs, abs=1e-5)


def test_batches_change_nothing_and_report_progress(table_model: Any) -> None:
    model, done = table_model(), []
    found = score_ids(model, SOURCES, TARGETS, batch=GenerationBatchOptions(4, 1), progress=done.append)
    together = score_ids(model, SOURCES, TARGETS)
    assert [h.score for h in found] == pytest.approx([h.score for h in together])
    assert sum(done) == len(SOURCES)


def test_many_positions_are_scored_in_parts(table_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = table_model()
    whole = score_ids(model, SOURCES, TARGETS)
    monkeypatch.setattr("nmt.generation.forced.CHUNK", 2)
    assert [h.token_lprobs for h in score_ids(model, SOURCES, TARGETS)] == [h.token_lprobs for h in whole]


def test_a_target_beyond_the_limit_names_its_line(table_model: Any) -> None:
    model = table_model(max_length=4)
    assert math.isfinite(score_ids(model, [[3]], [[3, 4, 5]])[0].score)
    with pytest.raises(DataError, match="line 8 has 4 tokens; the model allows 3"):
        score_ids(model, [[3]], [[3, 4, 5, 3]], keys=[7])
