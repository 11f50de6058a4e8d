"""Ensembles by hand."""

import math
from typing import Any

import pytest
import torch

from nmt.config import ConfigError, DataError
from nmt.generation.ensemble import mean_of_probabilities
from nmt.generation.forced import score_ids
from nmt.generation.options import LengthNorm, Sampling, SearchOptions
from nmt.generation.translate import translate_ids


def test_probabilities_are_averaged() -> None:
    a, b = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.1, 0.8, 0.1]])
    mean = mean_of_probabilities([a.log(), b.log()]).exp()
    assert mean.tolist() == [pytest.approx([0.3, 0.525, 0.175])]
    assert mean_of_probabilities([torch.tensor([[-torch.inf, 0.0]])] * 2).tolist() == [[-math.inf, 0.0]]


def test_search_uses_the_average(table_model: Any) -> None:
    models = [table_model(seed=1), table_model(seed=2), table_model(seed=3)]

    class Mean(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            return torch.stack([m.distribution(source, prefix).exp() for m in models]).mean(0).log()

    sources = [[3, 4], [5], [4, 3, 3, 5]]
    options = SearchOptions(beam=4, nbest=3, max_length_offset=2)
    found, expected = translate_ids(models, sources, options), translate_ids(Mean(), sources, options)
    for ours, theirs in zip(found, expected):
        assert [h.ids for h in ours] == [h.ids for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=1e-5)


def test_one_model_is_its_own_ensemble(table_model: Any) -> None:
    model, sources = table_model(), [[3, 4], [5]]
    assert translate_ids([model], sources) == translate_ids(model, sources)


def test_the_tightest_limit_holds(table_model: Any) -> None:
    models = [table_model(max_length=9), table_model(), table_model(max_length=3)]
    options = SearchOptions(min_length=2, max_length_offset=8)
    assert len(translate_ids(models, [[3]], options)[0][0].ids) == 2
    with pytest.raises(ConfigError, match=r"^search.min_length=3: the model allows 2 tokens at most$"):
        translate_ids(models, [[3]], SearchOptions(min_length=3))


@pytest.mark.parametrize("sampling", list(Sampling))
def test_rules_hold_for_the_average(table_model: Any, sampling: Sampling) -> None:
    """The penalty is taken from the mean of the probabilities, once."""
    models = [table_model(seed=1), table_model(seed=2)]

    class Mean(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            return torch.stack([m.distribution(source, prefix).exp() for m in models]).mean(0).log()

    same: dict[str, Any] = {"beam": 300, "nbest": 20, "sampling": sampling, "max_length_ratio": 0}
    options = SearchOptions(
        unk_penalty=0.7, length_norm=LengthNorm.gnmt, no_repeat_ngram=1, max_length_offset=3, min_length=2, **same
    )
    ranked = Mean().ranked([3, 4], 3, options)
    (found,) = translate_ids(models, [[3, 4]], options)
    scores = {tuple(target): score for score, target in ranked}
    assert all(h.score == pytest.approx(scores[tuple(h.ids)], abs=1e-5) for h in found)
    if sampling is Sampling.none:
        assert [h.ids for h in found] == [target for _, target in ranked]


def broken(table_model: Any) -> Any:
    class Broken(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            return super().distribution(source, prefix).index_fill(0, torch.tensor([5]), torch.nan)

        def __call__(self, src_tokens: torch.Tensor, prev_output_tokens: torch.Tensor) -> Any:
            output = super().__call__(src_tokens, prev_output_tokens)
            output.hidden[:] = torch.nan
            return output

    return Broken(seed=1)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("sampling", list(Sampling))
def test_the_model_that_breaks_down_is_named(table_model: Any, place: int, sampling: Sampling) -> None:
    models = [table_model(seed=seed) for seed in range(3)]
    models[place] = broken(table_model)
    options, names = SearchOptions(sampling=sampling), ["runs/a", "runs/b", "runs/c"]
    what = r"gives log-probabilities that are not numbers \(nan\)$"
    with pytest.raises(DataError, match=rf"^model {place + 1} of 3 {what}"):
        translate_ids(models, [[3, 4], [5]], options)
    with pytest.raises(DataError, match=rf"^{names[place]} {what}"):
        translate_ids(models, [[3, 4], [5]], options, names=names)
    with pytest.raises(DataError, match=rf"^{names[place]} {what}"):
        score_ids(models, [[3, 4], [5]], [[4], []], names=names)
    with pytest.raises(DataError, match=rf"^the model {what}"):
        translate_ids(models[place], [[3, 4], [5]], options)


def test_forced_scores_are_averaged(table_model: Any) -> None:
    models = [table_model(seed=1), table_model(seed=2)]
    (scored,) = score_ids(models, [[3, 4]], [[5]], SearchOptions(length_penalty=0.0))
    expected = sum(
        math.log(sum(math.exp(float(m.distribution((3, 4, 2), prefix)[token])) for m in models) / 2)
        for prefix, token in [((), 5), ((5,), 2)]
    )
    assert scored.score == pytest.approx(expected, abs=1e-6)
