"""Lists of sources: order, lines without tokens, lines beyond the limit."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import DataError
from nmt.generation.hypothesis import EMPTY, FailedLines
from nmt.generation.options import GenerationBatchOptions, SearchOptions
from nmt.generation.translate import length_batches, translate_ids


@given(st.lists(st.lists(st.integers(3, 5), max_size=5), max_size=12), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=30)
def test_a_translation_for_every_source_in_order(
    table_model: Any, sources: list[list[int]], max_tokens: int, max_sentences: int
) -> None:
    model, options = table_model(), SearchOptions(beam=2, max_length_offset=1)
    found = translate_ids(model, sources, options, batch=GenerationBatchOptions(max_tokens, max_sentences))
    assert len(found) == len(sources)
    for source, hypotheses in zip(sources, found):
        assert hypotheses == (translate_ids(model, [source], options)[0] if source else [EMPTY])


def test_empty_sources_do_not_reach_the_model(table_model: Any) -> None:
    model, done = table_model(), []
    assert translate_ids(model, [[], []], progress=done.append) == [[EMPTY], [EMPTY]]
    assert model.num_steps == 0
    assert done == [2]
    assert translate_ids(model, []) == []


def test_long_sources_are_cut_with_a_warning(table_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = table_model(max_length=4)
    with caplog.at_level(logging.WARNING):
        cut, whole = translate_ids(model, [[3, 4, 5, 3, 3], [3, 4, 5]], SearchOptions(beam=2), keys=[41, 42])
    assert cut == whole
    assert [r.getMessage() for r in caplog.records] == [
        "line 42 has too many tokens; only the first 3, the model's limit, are translated"
    ]


def test_many_long_sources_are_one_warning(table_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    sources = [[3, 4], *[[3, 4, 5, 3, 3]] * 38, [3, 4, 5]]
    with caplog.at_level(logging.WARNING):
        translate_ids(table_model(max_length=4), sources, SearchOptions(beam=1))
    assert [r.getMessage() for r in caplog.records] == [
        "38 lines (line 2 first) have too many tokens; only the first 3, the model's limit, are translated"
    ]


def test_progress_counts_all(table_model: Any) -> None:
    done: list[int] = []
    batch = GenerationBatchOptions(max_sentences=2)
    translate_ids(table_model(), [[3], [], [4], [5]], SearchOptions(beam=1), batch=batch, progress=done.append)
    assert done == [1, 2, 1] or done == [1, 1, 2]


def test_batches_keep_the_budget() -> None:
    lengths = [2, 9, 1, 3, 3, 30]
    found = list(length_batches([10, 11, 12, 13, 14, 15], lengths, GenerationBatchOptions(12, 2)))
    assert sorted(place for batch in found for place in batch) == [10, 11, 12, 13, 14, 15]
    assert found[0] == [15], "the longest comes first, beyond the budget alone"
    sizes = {10: 3, 11: 10, 12: 2, 13: 4, 14: 4, 15: 31}
    assert all(len(b) <= 2 and (len(b) == 1 or len(b) * max(sizes[i] for i in b) <= 12) for b in found)


def test_a_prefix_that_does_not_fit_names_its_line(table_model: Any) -> None:
    model = table_model(max_length=4)
    translate_ids(model, [[3], [4]], prefixes=[[4, 4, 4], []])
    with pytest.raises(DataError, match=r"^the target prefix of line 9 has 4 tokens; 3 are allowed$"):
        translate_ids(model, [[3], [4]], prefixes=[[], [4, 4, 4, 4]], keys=[7, 8])
    with pytest.raises(DataError, match=r"^the target prefix of line 2 has 3 tokens; 2 are allowed$"):
        translate_ids(table_model(), [[3], [4]], SearchOptions(forced_length=2), prefixes=[[], [4, 4, 4]])


def test_lines_without_translation_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        FailedLines.of([False, False]).warn(2)
        FailedLines.of([True, False]).warn(2)
        FailedLines.of([False] * 3 + [True] * 7).warn(10)
    assert [r.getMessage() for r in caplog.records] == [
        "1 of 2 lines have no translation: the rules of the search left nothing (line 1)",
        "7 of 10 lines have no translation: the rules of the search left nothing (line 4, 5, 6, 7, 8, ...)",
    ]
