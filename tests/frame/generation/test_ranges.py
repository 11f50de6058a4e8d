"""Every number at both ends of its range: scores are finite, and what is refused is refused in one line."""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import ConfigError, compose, parse_options
from nmt.generation.generate import generate
from nmt.generation.hypothesis import Hypothesis
from nmt.generation.options import GenerateOptions, GenerationBatchOptions, SearchOptions
from nmt.generation.translate import translate_ids
from nmt.generation.translator import Translator


def ends(schema: type) -> Iterator[tuple[str, float]]:
    """Name and value of every number of a schema at either end of its range."""
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if {int, float} & {hints[field.name], *get_args(hints[field.name])}:
            above = field.metadata["above"]
            yield field.name, field.metadata["minimum"] if above is None else above + sys.float_info.min
            yield field.name, field.metadata["maximum"]


SEARCH, BATCH = list(ends(SearchOptions)), list(ends(GenerationBatchOptions))
MODES: dict[str, dict[str, Any]] = {
    "beam": {"nbest": 2},
    "patient": {"nbest": 2, "early_stop": False, "length_norm": "gnmt"},
    "diverse": {"nbest": 2, "beam": 4, "diverse_groups": 2},
    "sampling": {"nbest": 2, "sampling": "random"},
    "narrow sampling": {"nbest": 2, "sampling": "random", "top_p": 0.5, "top_k": 3},
}
LINES = ["1 2 3", "", "9"]


def check(found: list[list[Hypothesis]]) -> None:
    """Scores are numbers, of translations or of stated failures."""
    for hypotheses in found:
        assert hypotheses
        for h in hypotheses:
            assert h.failed or all(map(math.isfinite, [h.score, h.logprob, *h.token_lprobs]))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize(("name", "value"), SEARCH, ids=[f"{name}={value}" for name, value in SEARCH])
def test_a_real_model(translator: Translator, name: str, value: float, mode: dict[str, Any]) -> None:
    most = {"min_length": 63, "forced_length": 64}.get(name)  # the model has 64 positions
    if most is not None and value > most:
        with pytest.raises(ConfigError, match=rf"^search.{name}={value}: the model allows {most} tokens at most$"):
            translator.translate(LINES, **{**mode, name: value})
        value = most
    given = {**mode, name: value}
    if name == "beam":
        given |= {"diverse_groups": min(mode.get("diverse_groups", 1), value), "nbest": min(2, value)}
    if name == "diverse_groups" or (name == "nbest" and "sampling" not in mode):
        given["beam"] = max(value, 2)
    found = translator.hypotheses(LINES, translator.search_options(given))
    check(found)
    assert not any(hypotheses[0].failed for hypotheses in found)
    if name != "max_length_ratio" and name != "max_length_offset":
        assert [bool(hypotheses[0].token_lprobs) for hypotheses in found] == [True, False, True]


VALUES = {name: st.sampled_from([value for other, value in SEARCH if other == name]) for name, _ in SEARCH}
FLAGS = {
    "length_norm": st.sampled_from(["power", "gnmt"]),
    "sampling": st.sampled_from(["none", "random"]),
    "early_stop": st.booleans(),
    "ban_unk": st.booleans(),
}


@given(st.fixed_dictionaries({}, optional={**VALUES, **FLAGS}), st.integers(0, 10**6))
@settings(max_examples=150)
def test_any_ends_together(table_model: Any, given: dict[str, Any], seed: int) -> None:
    """On a model of 12 positions, with prefixes; rows are few, as the table is slow."""
    rows = {name: min(given[name], 20) for name in ("beam", "nbest", "diverse_groups") if name in given}
    model = table_model(seed=seed, max_length=12)
    try:
        options = parse_options(SearchOptions, {**given, **rows}, key="search")
        found = translate_ids(model, [[3, 4], [], [5]], options, prefixes=[[], [], [4]])
    except ConfigError as error:
        found, message = [], str(error)
    else:
        message = "search."
    check(found)
    assert message.startswith("search.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [*((f"batch.{name}", value) for name, value in BATCH), ("buffer", 1), ("buffer", 10**9)],
)
def test_batches_and_buffers(
    run_folder: Path, tmp_path: Path, translator: Translator, key: str, value: float, request: Any
) -> None:
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in LINES))
    given = [f"checkpoint={run_folder}", f"input={tmp_path}/in", f"output={tmp_path}/out", "device=cpu"]
    generate(parse_options(GenerateOptions, compose("generate", [*given, f"{key}={value}"])))
    assert (tmp_path / "out").read_text().split("\n")[:-1] == translator.translate(LINES)
