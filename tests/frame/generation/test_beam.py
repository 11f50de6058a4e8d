"""Beam search against enumeration, against a plain reference, and against itself in other batches."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.generation.hypothesis import Hypothesis
from nmt.generation.options import GenerationBatchOptions, SearchOptions
from nmt.generation.translate import translate_ids

EOS = 2
SOURCES = [[3, 4], [5], [3, 3, 3, 4], [4, 4], [5, 4, 3]]


def search(model: Any, sources: list[list[int]] = SOURCES, **options: Any) -> list[list[Hypothesis]]:
    short = {"max_length_ratio": 0.0, "max_length_offset": 4}
    return translate_ids(model, sources, SearchOptions(**{**short, **options}))


def ids(results: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[h.ids for h in hypotheses] for hypotheses in results]


def reference_beam(
    model: Any, source: list[int], options: SearchOptions, longest: int
) -> list[tuple[float, list[int]]]:
    """The documented search, a hypothesis at a time: (score, ids), best first."""
    key, power = (*source, EOS), options.length_penalty
    live: list[tuple[torch.Tensor, list[int]]] = [(torch.tensor(0.0), [])]
    finished: list[tuple[float, list[int]]] = []
    for step in range(longest + 1):
        candidates = []
        for row, (total, prefix) in enumerate(live):
            lprobs = model.distribution(key, tuple(prefix))
            for token in range(model.vocab_size):
                allowed = (
                    token == EOS if step == longest else token > 2 or (token == EOS and step >= options.min_length)
                )
                if allowed:
                    candidates.append((total + lprobs[token], row, token, prefix))
        candidates.sort(key=lambda c: (-c[0].item(), c[1], c[2]))
        for total, _, token, prefix in candidates[: options.beam]:
            if token == EOS:
                finished.append((float(total / (step + 1) ** power), prefix))
        live = [(total, [*prefix, token]) for total, _, token, prefix in candidates if token != EOS][: options.beam]
        if len(finished) >= options.patience * options.beam or not live:
            break
    return sorted(finished, key=lambda f: -f[0])[: options.nbest]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, -0.5])
def test_wide_beam_finds_the_best_of_all_sequences(table_model: Any, length_penalty: float) -> None:
    model = table_model()
    targets = model.all_targets(3)
    found = search(model, beam=len(targets), nbest=5, length_penalty=length_penalty, max_length_offset=3)
    for source, hypotheses in zip(SOURCES, found):
        scored = [(model.logprob(source, t) / (len(t) + 1) ** length_penalty, t) for t in targets]
        best = sorted(scored, key=lambda s: -s[0])[:5]
        assert [h.ids for h in hypotheses] == [t for _, t in best]
        assert [h.score for h in hypotheses] == pytest.approx([s for s, _ in best], abs=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0, 1.6]), st.integers(0, 3), st.data())
@settings(max_examples=40)
def test_same_as_a_plain_reference(
    table_model: Any, seed: int, beam: int, length_penalty: float, min_length: int, data: st.DataObject
) -> None:
    options = SearchOptions(
        beam=beam,
        nbest=data.draw(st.integers(1, beam)),
        length_penalty=length_penalty,
        min_length=min_length,
        patience=data.draw(st.sampled_from([1.0, 2.0])),
        max_length_ratio=1.0,
        max_length_offset=3,
    )
    model = table_model(vocab_size=7, seed=seed)
    for source, hypotheses in zip(SOURCES, translate_ids(model, SOURCES, options)):
        expected = reference_beam(model, source, options, len(source) + 3)
        assert [h.ids for h in hypotheses] == [target for _, target in expected]
        assert [h.score for h in hypotheses] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_greedy_takes_the_most_probable_token(table_model: Any) -> None:
    model = table_model(vocab_size=9)
    for source, (best,) in zip(SOURCES, search(model, beam=1, max_length_offset=6)):
        expected: list[int] = []
        while len(expected) < 6:
            lprobs = model.distribution((*source, EOS), tuple(expected))
            token = max([EOS, *range(3, 9)], key=lambda t: float(lprobs[t]))
            if token == EOS:
                break
            expected.append(token)
        assert best.ids == expected


def test_scores_are_those_of_the_definition(table_model: Any) -> None:
    model = table_model()
    for source, hypotheses in zip(SOURCES, search(model, beam=4, nbest=4, length_penalty=0.7)):
        for h in hypotheses:
            logprob = model.logprob(source, h.ids)
            assert h.logprob == pytest.approx(logprob, abs=1e-5)
            assert h.score == pytest.approx(logprob / (len(h.ids) + 1) ** 0.7, abs=1e-5)
            key, target = (*source, EOS), [*h.ids, EOS]
            each = [float(model.distribution(key, tuple(target[:i]))[t]) for i, t in enumerate(target)]
            assert h.token_lprobs == pytest.approx(each, abs=1e-5)


def test_nbest_is_sorted_and_distinct(table_model: Any) -> None:
    for hypotheses in search(table_model(), beam=6, nbest=6):
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(h.ids) for h in hypotheses}) == len(hypotheses) == 6


@given(st.integers(0, 10**6), st.sampled_from([-0.5, 0.0, 0.4, 1.0, 2.0]), st.integers(1, 4), st.booleans())
@settings(max_examples=40)
def test_stopping_early_loses_nothing(
    table_model: Any, seed: int, length_penalty: float, nbest: int, patient: bool
) -> None:
    model = table_model(seed=seed)
    same: dict[str, Any] = {"beam": 4, "nbest": nbest, "length_penalty": length_penalty, "max_length_offset": 5}
    same["patience"] = 1e9 if patient else 1.0
    full = search(model, early_stop=False, **same)
    steps = model.num_steps
    assert search(model, early_stop=True, **same) == full
    assert model.num_steps - steps <= steps


def test_stopping_early_saves_steps(table_model: Any) -> None:
    model = table_model()
    same: dict[str, Any] = {"beam": 4, "length_penalty": 0.0, "max_length_offset": 30, "patience": 1e9}
    search(model, early_stop=True, **same)
    assert model.num_steps < 15  # 31 without


@given(st.integers(0, 10**6), st.permutations(range(5)), st.integers(1, 5), st.integers(3, 20))
@settings(max_examples=30)
def test_batch_size_and_order_change_nothing(
    table_model: Any, seed: int, order: list[int], max_sentences: int, max_tokens: int
) -> None:
    model, options = table_model(seed=seed), SearchOptions(beam=3, nbest=2, max_length_offset=2)
    alone = [translate_ids(model, [source], options)[0] for source in SOURCES]
    batch = GenerationBatchOptions(max_tokens=max_tokens, max_sentences=max_sentences)
    mixed = translate_ids(model, [SOURCES[i] for i in order], options, batch=batch)
    assert mixed == [alone[i] for i in order]


def test_lengths_have_limits(table_model: Any) -> None:
    model = table_model()
    for source, hypotheses in zip(
        SOURCES, search(model, beam=4, nbest=4, min_length=2, max_length_ratio=1.0, max_length_offset=1)
    ):
        assert all(min(2, len(source) + 1) <= len(h.ids) <= len(source) + 1 for h in hypotheses)
    assert all(h.ids == [] for (h,) in search(model, max_length_offset=0))
    assert all(len(h.ids) == 3 for (h,) in search(model, min_length=3, max_length_offset=3))


def test_the_models_limit_counts_eos(table_model: Any) -> None:
    model = table_model(max_length=4)
    found = search(model, [[3, 4]], beam=30, nbest=30, min_length=3, max_length_offset=9)
    assert {len(h.ids) for h in found[0]} == {3}


@pytest.mark.parametrize("beam", [1, 4])
def test_forced_length_is_exact_and_never_ends(table_model: Any, beam: int) -> None:
    model = table_model()
    found = search(model, beam=beam, forced_length=7, max_length_offset=0)
    assert model.num_steps == 7
    for source, (best,) in zip(SOURCES, found):
        assert len(best.ids) == len(best.token_lprobs) == 7
        assert EOS not in best.ids
        assert best.logprob == pytest.approx(model.logprob(source, best.ids, eos=False), abs=1e-5)
        assert best.score == pytest.approx(best.logprob / 7, abs=1e-6)


def test_forced_length_finds_the_best_of_that_length(table_model: Any) -> None:
    model = table_model()
    targets = [t for t in model.all_targets(3) if len(t) == 3]
    for source, (best,) in zip(SOURCES, search(model, beam=27, forced_length=3)):
        assert best.ids == max(targets, key=lambda t: model.logprob(source, t, eos=False))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_occurs_twice(table_model: Any, size: int) -> None:
    model = table_model()
    found = search(model, beam=4, nbest=4, no_repeat_ngram=size, min_length=3, max_length_offset=8)
    free = search(model, beam=4, nbest=4, min_length=3, max_length_offset=8)
    repeats = 0
    for hypotheses, without in zip(found, free):
        for h in hypotheses:
            ngrams = [tuple(h.ids[i : i + size]) for i in range(len(h.ids) - size + 1)]
            assert len(set(ngrams)) == len(ngrams)
        repeats += hypotheses != without
    assert repeats, "the option changed nothing: the test shows nothing"


def test_prefixes_are_kept_and_scored(table_model: Any) -> None:
    model = table_model()
    prefixes = [[5], [], [3, 4, 3], [4], [3, 5]]
    found = translate_ids(
        model,
        SOURCES,
        SearchOptions(beam=50, nbest=3, max_length_ratio=0, max_length_offset=2, min_length=3),
        prefixes=prefixes,
    )
    for source, prefix, hypotheses in zip(SOURCES, prefixes, found):
        longest = len(prefix) + 2
        least = min(3, longest)
        targets = [t for t in model.all_targets(longest) if t[: len(prefix)] == prefix and len(t) >= least]
        best = sorted(targets, key=lambda t: -model.logprob(source, t) / (len(t) + 1))[:3]
        assert [h.ids for h in hypotheses] == best
        assert hypotheses[0].logprob == pytest.approx(model.logprob(source, best[0]), abs=1e-5)


def test_a_prefix_may_hold_what_a_search_would_not_choose(table_model: Any) -> None:
    model = table_model()
    found = translate_ids(model, [[3]], SearchOptions(beam=2, no_repeat_ngram=1), prefixes=[[4, 4, 4]])
    assert found[0][0].ids[:3] == [4, 4, 4]
    assert math.isfinite(found[0][0].score)


def test_groups_of_one_by_hand(table_model: Any) -> None:
    """Two groups of one: the first is greedy; the second pays for the first's token of the same step."""
    model, penalty = table_model(vocab_size=8), 0.9
    for source, hypotheses in zip(
        SOURCES, search(model, beam=2, nbest=2, diverse_groups=2, diversity=penalty, max_length_offset=5)
    ):
        key, chosen = (*source, EOS), []
        for paid in ([], None):
            target: list[int] = []
            while True:
                lprobs = model.distribution(key, tuple(target)).clone()
                lprobs[:2] = -torch.inf
                if len(target) == 5:
                    break
                if paid is None and len(target) < len(chosen[0]):
                    lprobs[chosen[0][len(target)]] -= penalty
                token = int(lprobs.argmax())
                if token == EOS:
                    break
                target.append(token)
            chosen.append(target)
        expected = sorted({tuple(c) for c in chosen}, key=lambda t: -model.logprob(source, list(t)) / (len(t) + 1))
        assert [tuple(h.ids) for h in hypotheses] == expected
        assert hypotheses[0].logprob == pytest.approx(model.logprob(source, hypotheses[0].ids), abs=1e-5)


def test_a_large_penalty_keeps_groups_apart(table_model: Any) -> None:
    model = table_model(vocab_size=10)
    found = search(model, beam=3, nbest=3, diverse_groups=3, diversity=100.0, min_length=1)
    assert all(len({h.ids[0] for h in hypotheses}) == 3 for hypotheses in found)


def test_groups_without_penalty_agree_and_appear_once(table_model: Any) -> None:
    model = table_model()
    grouped = search(model, beam=4, nbest=4, diverse_groups=2, diversity=0.0)
    assert ids(grouped) == ids(search(model, beam=2, nbest=2))


@pytest.mark.parametrize("groups", [1, 2])
def test_devices_that_are_not_asked_give_the_same(
    table_model: Any, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"beam": 4, "nbest": 4, "diverse_groups": groups}
    asked = search(table_model(), **options)
    monkeypatch.setattr("nmt.generation.beam.CHEAP_TO_ASK", ())
    assert search(table_model(), **options) == asked


def test_a_model_that_breaks_down_is_reported(table_model: Any) -> None:
    class Broken(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            return super().distribution(source, prefix) * (torch.nan if len(prefix) == 2 else 1.0)

    with pytest.raises(ValueError, match="not numbers"):
        search(Broken(), beam=3, min_length=4)
