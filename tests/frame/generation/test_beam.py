"""Beam search against enumeration, against a plain reference, and against itself in other batches."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import ConfigError, DataError
from nmt.generation.constraints import forbid_repeats
from nmt.generation.hypothesis import FAILED, Hypothesis
from nmt.generation.options import GenerationBatchOptions, LengthNorm, SearchOptions
from nmt.generation.translate import translate_ids

EOS, UNK = 2, 3
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
    key = (*source, EOS)
    live: list[tuple[torch.Tensor, list[int]]] = [(torch.tensor(0.0), [])]
    finished: list[tuple[float, list[int]]] = []
    for step in range(longest + 1):
        candidates = []
        for row, (total, prefix) in enumerate(live):
            lprobs = model.distribution(key, tuple(prefix)).clone()
            lprobs[UNK] -= options.unk_penalty
            for token in range(EOS, model.vocab_size):
                word = token > UNK or (token == UNK and not options.ban_unk)
                if step == longest:
                    word = False
                if word or (token == EOS and step >= options.min_length):
                    candidates.append((total + lprobs[token], row, token, prefix))
        candidates.sort(key=lambda c: (-c[0].item(), c[1], c[2]))
        for total, _, token, prefix in candidates[: options.beam]:
            if token == EOS:
                length = step + 1 if options.length_norm is LengthNorm.power else (step + 6) / 6
                finished.append((float(total / length**options.length_penalty), prefix))
        live = [(total, [*prefix, token]) for total, _, token, prefix in candidates if token != EOS][: options.beam]
        if len(finished) >= options.patience * options.beam or not live:
            break
    return sorted(finished, key=lambda f: -f[0])[: options.nbest]


RULES: dict[str, dict[str, Any]] = {
    "sum": {"length_penalty": 0.0},
    "mean": {},
    "power": {"length_penalty": 0.6},
    "short": {"length_penalty": -0.5},
    "gnmt": {"length_norm": LengthNorm.gnmt, "length_penalty": 0.6},
    "gnmt, long": {"length_norm": LengthNorm.gnmt, "length_penalty": 3.0},
    "gnmt, short": {"length_norm": LengthNorm.gnmt, "length_penalty": -1.0},
    "empty allowed": {"min_length": 0},
    "two at least": {"min_length": 2},
    "unknown dear": {"unk_penalty": 0.8},
    "unknown dear, gnmt": {"unk_penalty": 0.8, "length_norm": LengthNorm.gnmt},
    "no unknown": {"ban_unk": True},
    "no word twice": {"no_repeat_ngram": 1},
    "no pair twice": {"no_repeat_ngram": 2, "min_length": 3},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_wide_beam_finds_the_best_of_all_sequences(table_model: Any, rules: dict[str, Any]) -> None:
    model, options = table_model(), SearchOptions(**rules)
    for source, hypotheses in zip(SOURCES, search(model, beam=200, nbest=5, max_length_offset=3, **rules)):
        best = model.ranked(source, 3, options)[:5]
        assert [h.ids for h in hypotheses] == [target for _, target in best]
        assert [h.score for h in hypotheses] == pytest.approx([score for score, _ in best], abs=1e-5)
        for h in hypotheses:
            assert h.logprob == pytest.approx(model.logprob(source, h.ids), abs=1e-5), "penalties are no probability"
            assert sum(h.token_lprobs) == pytest.approx(h.logprob, abs=1e-5)


@pytest.mark.parametrize("exempt", [(4,), (UNK, 5), (4, 5)])
@pytest.mark.parametrize("size", [1, 2])
def test_what_may_repeat_repeats_and_nothing_else(table_model: Any, exempt: tuple[int, ...], size: int) -> None:
    model = table_model()
    options = SearchOptions(
        beam=340, nbest=20, no_repeat_ngram=size, no_repeat_except=["x"], max_length_ratio=0, max_length_offset=4
    )
    found = translate_ids(model, SOURCES, options, may_repeat=exempt)
    for source, hypotheses in zip(SOURCES, found):
        best = model.ranked(source, 4, options, exempt)[:20]
        assert [h.ids for h in hypotheses] == [target for _, target in best]
    plain = translate_ids(model, SOURCES, options)
    assert found != plain, "the exceptions changed nothing: the test shows nothing"


def test_ngrams_by_hand() -> None:
    """Hypotheses 4 5 4 and 5 5 6; of 3 to 7 words some would complete a pair for the second time."""
    tokens = torch.tensor([[4, 5, 4], [5, 5, 5]])
    nothing, comma = torch.tensor([], dtype=torch.int64), torch.tensor([5])

    def forbidden(size: int, may_repeat: torch.Tensor) -> list[list[int]]:
        lprobs = torch.zeros(2, 8)
        forbid_repeats(lprobs, tokens, size, may_repeat)
        return [[i for i in range(3, 8) if row[i] == -torch.inf] for row in lprobs.tolist()]

    assert forbidden(1, nothing) == [[4, 5], [5]]
    assert forbidden(2, nothing) == [[5], [5]]  # 4 5 and 5 5
    assert forbidden(3, nothing) == [[], [5]]  # 5 5 5; of the first row only 4 5 4 would repeat, after 4 5
    assert forbidden(1, comma) == [[4], []]
    assert forbidden(2, comma) == [[], []]
    assert forbidden(3, comma) == [[], []]


def test_length_norms_by_hand() -> None:
    """Log-probability -6, 4 tokens with EOS."""
    gnmt = LengthNorm.gnmt
    assert [SearchOptions(length_penalty=p).norm(4.0) for p in (0, 1, 2, -1)] == [1, 4, 16, 0.25]
    assert [SearchOptions(length_penalty=p, length_norm=gnmt).norm(4.0) for p in (0, 1, 2, -1)] == [1, 1.5, 2.25, 2 / 3]
    lengths = torch.tensor([1.0, 7.0, 13.0])
    assert SearchOptions(length_penalty=2, length_norm=gnmt).norm(lengths).tolist() == [1, 4, 9]


@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.5, 1.0, 1.6]),
    st.sampled_from(list(LengthNorm)),
    st.integers(0, 3),
    st.data(),
)
@settings(max_examples=60)
def test_same_as_a_plain_reference(
    table_model: Any,
    seed: int,
    beam: int,
    length_penalty: float,
    length_norm: LengthNorm,
    min_length: int,
    data: st.DataObject,
) -> None:
    unknown = data.draw(st.sampled_from([{}, {"ban_unk": True}, {"unk_penalty": 0.5}]))
    options = SearchOptions(
        beam=beam,
        nbest=data.draw(st.integers(1, beam)),
        length_penalty=length_penalty,
        length_norm=length_norm,
        min_length=min_length,
        patience=data.draw(st.sampled_from([1.0, 2.0])),
        max_length_ratio=1.0,
        max_length_offset=3,
        **unknown,
    )
    model = table_model(vocab_size=7, seed=seed)
    for source, hypotheses in zip(SOURCES, translate_ids(model, SOURCES, options)):
        expected = reference_beam(model, source, options, len(source) + 3)
        assert [h.ids for h in hypotheses] == [target for _, target in expected]
        assert [h.score for h in hypotheses] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_a_forbidden_end_takes_no_place(table_model: Any) -> None:
    """EOS is the most probable token at once: with a beam of two, two words must live on all the same."""

    class Ends(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            if not prefix:
                return torch.tensor([0, 0, 0.6, 0.01, 0.25, 0.14]).log()
            return super().distribution(source, prefix)

    model = Ends()
    for source, hypotheses in zip(SOURCES, search(model, beam=2, nbest=2, early_stop=False, max_length_offset=1)):
        assert {tuple(h.ids) for h in hypotheses} == {(4,), (5,)}
        assert all(h.logprob == pytest.approx(model.logprob(source, h.ids), abs=1e-5) for h in hypotheses)
    assert all(found[0].ids == [] for found in search(model, beam=2, min_length=0, length_penalty=0.0))


def test_greedy_takes_the_most_probable_token(table_model: Any) -> None:
    model = table_model(vocab_size=9)
    for source, (best,) in zip(SOURCES, search(model, beam=1, max_length_offset=6)):
        expected: list[int] = []
        while len(expected) < 6:
            lprobs = model.distribution((*source, EOS), tuple(expected))
            token = max([EOS, *range(3, 9)] if expected else range(3, 9), key=lambda t: float(lprobs[t]))
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


@given(
    st.integers(0, 10**6),
    st.sampled_from([-0.5, 0.0, 0.4, 1.0, 2.0]),
    st.sampled_from(list(LengthNorm)),
    st.sampled_from([0.0, 0.7]),
    st.integers(1, 4),
    st.booleans(),
)
@settings(max_examples=60)
def test_stopping_early_loses_nothing(
    table_model: Any,
    seed: int,
    length_penalty: float,
    length_norm: LengthNorm,
    unk_penalty: float,
    nbest: int,
    patient: bool,
) -> None:
    model = table_model(seed=seed)
    same: dict[str, Any] = {"beam": 4, "nbest": nbest, "length_penalty": length_penalty, "max_length_offset": 5}
    same |= {"length_norm": length_norm, "unk_penalty": unk_penalty, "patience": 1e9 if patient else 1.0}
    full = search(model, early_stop=False, **same)
    steps = model.num_steps
    assert search(model, early_stop=True, **same) == full
    assert model.num_steps - steps <= steps


def test_stopping_early_saves_steps(table_model: Any) -> None:
    model = table_model()
    same: dict[str, Any] = {"beam": 4, "length_penalty": 0.0, "max_length_offset": 30, "patience": 1e9}
    search(model, early_stop=True, **same)
    assert model.num_steps < 15  # 31 without


EVERY_RULE: list[dict[str, Any]] = [
    {},
    {"length_norm": LengthNorm.gnmt, "length_penalty": 0.6, "unk_penalty": 0.4, "min_length": 0},
    {"ban_unk": True, "no_repeat_ngram": 2, "no_repeat_except": ["x"], "min_length": 3},
    {"ban_unk": True, "no_repeat_ngram": 1, "min_length": 4, "max_length_ratio": 1.0},  # some sentences fail
    {"diverse_groups": 3, "unk_penalty": 0.4, "length_norm": LengthNorm.gnmt},
]


@given(
    st.integers(0, 10**6),
    st.permutations(range(5)),
    st.integers(1, 5),
    st.integers(3, 20),
    st.sampled_from(EVERY_RULE),
)
@settings(max_examples=50)
def test_batch_size_and_order_change_nothing(
    table_model: Any, seed: int, order: list[int], max_sentences: int, max_tokens: int, rules: dict[str, Any]
) -> None:
    model, options = table_model(seed=seed), SearchOptions(**{"beam": 3, "nbest": 2, "max_length_offset": 2} | rules)
    prefixes, may_repeat = [[], [3, 4], [], [5, 5, 4, 3], [4]], (4,)
    alone = [
        translate_ids(model, [source], options, prefixes=[prefix], may_repeat=may_repeat)[0]
        for source, prefix in zip(SOURCES, prefixes)
    ]
    batch = GenerationBatchOptions(max_tokens=max_tokens, max_sentences=max_sentences)
    sources, given = [SOURCES[i] for i in order], [prefixes[i] for i in order]
    mixed = translate_ids(model, sources, options, batch=batch, prefixes=given, may_repeat=may_repeat)
    assert mixed == [alone[i] for i in order]


DEAD_ENDS: dict[str, dict[str, Any]] = {
    "no word is left before the least length": {"no_repeat_ngram": 1, "min_length": 4},
    "nor before a forced one": {"no_repeat_ngram": 1, "forced_length": 4},
    "nor with groups": {"no_repeat_ngram": 1, "min_length": 4, "beam": 2, "diverse_groups": 2},
    "a banned word is the last": {"no_repeat_ngram": 1, "min_length": 3, "ban_unk": True},
}


@pytest.mark.parametrize("rules", DEAD_ENDS.values(), ids=DEAD_ENDS.keys())
def test_a_search_in_which_nothing_is_allowed_fails(table_model: Any, rules: dict[str, Any]) -> None:
    """Of 3 words none may occur twice."""
    model = table_model()
    found = search(model, **{"beam": 3, "nbest": 2, **rules})
    assert found == [[FAILED]] * len(SOURCES)
    assert FAILED.failed
    assert FAILED.score == FAILED.logprob == -math.inf
    length = "forced_length" if "forced_length" in rules else "min_length"
    easier = search(model, **{"beam": 3, "nbest": 2, **rules, length: rules[length] - 1})
    assert all(math.isfinite(h.score) and not h.failed for hypotheses in easier for h in hypotheses)


def test_a_hypothesis_ends_where_only_that_is_allowed(table_model: Any) -> None:
    """No word is left after three, and the end is allowed: the least bad continuation, not a failure."""
    for hypotheses in search(table_model(), beam=6, nbest=6, no_repeat_ngram=1, min_length=3, max_length_offset=9):
        assert sorted(tuple(h.ids) for h in hypotheses) == sorted(itertools.permutations((3, 4, 5)))
        assert all(h.score == pytest.approx(h.logprob / 4) and len(h.token_lprobs) == 4 for h in hypotheses)


def test_only_what_the_model_finds_possible_is_found(table_model: Any) -> None:
    class Certain(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            """The word 4 twice and no end: not even where only the end is allowed."""
            return torch.full((6,), -torch.inf).index_fill(0, torch.tensor([4]), 0.0)

    assert search(Certain(), beam=2) == [[FAILED]] * len(SOURCES)
    assert [h.ids for (h,) in search(Certain(), beam=2, forced_length=2)] == [[4, 4]] * len(SOURCES)
    assert translate_ids(Certain(), [[4]], SearchOptions(forced_length=2), prefixes=[[5]]) == [[FAILED]]


def test_failure_is_a_sentences_own(table_model: Any) -> None:
    """Prefixes use up the words of some sentences."""
    options = SearchOptions(beam=3, no_repeat_ngram=1, min_length=4, max_length_ratio=0, max_length_offset=4)
    prefixes = [[3, 3], [], [4, 4, 4], [5], [3, 4]]
    found = translate_ids(table_model(), SOURCES, options, prefixes=prefixes)
    assert [h.failed for (h,) in found] == [False, True, False, True, True]


@pytest.mark.parametrize("rules", [*EVERY_RULE, {"ban_unk": True}, {"unk_penalty": 2.0, "beam": 1, "nbest": 1}])
def test_a_model_that_gives_only_what_is_asked_for_is_enough(table_model: Any, rules: dict[str, Any]) -> None:
    """Of a row the ``top`` best are right, all else may be too low; those that may be forbidden are likely here."""

    class Special(table_model):  # type: ignore[misc]
        sparse = False

        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            lprobs: torch.Tensor = super().distribution(source, prefix)
            lprobs[: UNK + 1] += 3
            return lprobs.log_softmax(0)

        def step(self, tokens: torch.Tensor, state: Any, top: int | None = None) -> torch.Tensor:
            lprobs: torch.Tensor = super().step(tokens, state, top)
            if top is None or not self.sparse:
                return lprobs
            rank = lprobs.sort(dim=1, descending=True, stable=True).indices.argsort(1)
            return lprobs.masked_fill((rank >= top) & (torch.arange(lprobs.size(1)) > UNK), -torch.inf)

    class Sparse(Special):
        sparse = True

    options = {"beam": 3, "nbest": 2, **rules}
    for seed in range(5):
        assert search(Sparse(12, seed), **options) == search(Special(12, seed), **options)


def test_a_penalty_in_groups_by_hand(table_model: Any) -> None:
    """Two groups of one at the first step: 3 is unknown and costs 1; the second group pays 2 for the first's word."""

    class Fixed(table_model):  # type: ignore[misc]
        def distribution(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
            if not prefix:
                return torch.tensor([-torch.inf, -torch.inf, -torch.inf, -0.5, -1.4, -3.0])
            return torch.tensor([-torch.inf, -torch.inf, 0.0, -torch.inf, -torch.inf, -torch.inf])

    same: dict[str, Any] = {"beam": 2, "nbest": 2, "length_penalty": 0.0, "diverse_groups": 2, "diversity": 2.0}
    for penalty, first, second in ((0.0, (3, -0.5, -0.5), (4, -1.4, -1.4)), (1.0, (4, -1.4, -1.4), (3, -0.5, -1.5))):
        for hypotheses in search(Fixed(), unk_penalty=penalty, **same):
            found = [(h.ids[0], h.logprob, h.score) for h in hypotheses]
            assert found == [pytest.approx(first), pytest.approx(second)]
            assert hypotheses[0].token_lprobs == pytest.approx([first[1], 0.0])
    (banned,) = search(Fixed(), [[3]], ban_unk=True, **same)
    assert [h.ids for h in banned] == [[4], [5]]  # 5 at -3 before 4 at -1.4 - 2


def test_a_prefix_is_free_of_bans_and_pays_penalties(table_model: Any) -> None:
    model = table_model()
    for rules, paid in (({"ban_unk": True}, 0.0), ({"unk_penalty": 50.0}, 50.0)):
        (best,) = translate_ids(model, [[5]], SearchOptions(**rules, length_penalty=0.0), prefixes=[[UNK, 4]])[0]
        assert best.ids[:2] == [UNK, 4]
        assert UNK not in best.ids[2:]
        assert best.logprob == pytest.approx(model.logprob([5], best.ids), abs=1e-4)
        assert best.score == pytest.approx(best.logprob - paid, abs=1e-4)


def test_a_beam_beyond_the_vocabulary_is_refused(table_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmt.generation.beam.MAX_CANDIDATES", 20)
    assert search(table_model(), beam=3)
    with pytest.raises(ConfigError, match=r"^search.beam=4: at most 3 with 6 words$"):
        search(table_model(), beam=4)


def test_lengths_have_limits(table_model: Any) -> None:
    model = table_model()
    for source, hypotheses in zip(
        SOURCES, search(model, beam=4, nbest=4, min_length=2, max_length_ratio=1.0, max_length_offset=1)
    ):
        assert all(min(2, len(source) + 1) <= len(h.ids) <= len(source) + 1 for h in hypotheses)
    assert all(h.ids == [] for (h,) in search(model, min_length=0, max_length_offset=0))
    assert all(len(h.ids) == 1 for (h,) in search(model, max_length_offset=0)), "the fewest counts more than the most"
    assert all(len(h.ids) == 3 for (h,) in search(model, min_length=3, max_length_offset=2))


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
        longest = max(len(prefix) + 2, 3)
        targets = [t for t in model.all_targets(longest) if t[: len(prefix)] == prefix and len(t) >= 3]
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
                if not target:
                    lprobs[EOS] = -torch.inf
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

    with pytest.raises(DataError, match=r"^the model gives log-probabilities that are not numbers \(nan\)$"):
        search(Broken(), beam=3, min_length=4)
