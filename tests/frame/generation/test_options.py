"""Options of the command and of Python are the same, and wrong ones are named."""

import dataclasses
from typing import Any

import pytest
from omegaconf import OmegaConf

from nmt.config import ConfigError, compose, parse_options
from nmt.generation.options import GenerateOptions, GenerationBatchOptions, Sampling, SearchOptions

REQUIRED = ["checkpoint=x", "input=y"]


def test_yaml_and_python_have_the_same_defaults() -> None:
    node = compose("generate", REQUIRED)
    parsed = parse_options(GenerateOptions, node)
    assert parsed.search == SearchOptions()
    assert parsed.batch == GenerationBatchOptions()
    assert set(node.search) == {f.name for f in dataclasses.fields(SearchOptions)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.beam=0"], r"search.beam=0 is out of range: it must be at least 1"),
        (["search.nbest=6"], r"search.nbest=6 is out of range: it must be at most search.beam=5"),
        (["search.diverse_groups=2"], r"search.diverse_groups=2 does not divide search.beam=5"),
        (["search.temperature=0"], r"search.temperature=0.0 is out of range: it must be greater than 0"),
        (["search.top_p=1.5"], r"search.top_p=1.5 is out of range: it must be at most 1"),
        (["search.sampling=on"], r"search.sampling.*'on'.*none, random"),
        (["search.bean=4"], r"unknown key search.bean; .*\(did you mean 'beam'\?\)"),
        (["precision=fp8"], r"precision.*fp32, bf16"),
        (["corpus=z"], r"give either input=FILE \(or input=-\) or corpus=FOLDER"),
        (["input=null"], r"give either input=FILE"),
        (["score_target=a", "prefix=b"], r"score_target and prefix exclude each other"),
        (["token_scores=true"], r"token_scores=true needs format=jsonl"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(GenerateOptions, compose("generate", [*REQUIRED, *overrides]))


def test_samples_are_not_limited_by_the_beam() -> None:
    options = parse_options(SearchOptions, OmegaConf.create({"sampling": "random", "nbest": 9}), key="search")
    assert (options.sampling, options.rows) == (Sampling.random, 9)
    assert SearchOptions(beam=4).rows == 4


@pytest.mark.parametrize(
    ("options", "source", "prefix", "model", "expected"),
    [
        ({}, 5, 0, None, 20),
        ({}, 5, 0, 15, 14),  # the model's limit counts EOS
        ({"max_length_ratio": 0.5, "max_length_offset": 0}, 5, 0, None, 2),
        ({"max_length_ratio": 0.5, "max_length_offset": 1}, 5, 6, None, 7),  # a prefix leaves room for the offset
        ({"forced_length": 12}, 5, 0, 12, 12),
    ],
)
def test_longest(options: dict[str, Any], source: int, prefix: int, model: int | None, expected: int) -> None:
    assert SearchOptions(**options).longest(source, prefix, model) == expected


def test_what_does_not_fit_the_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"search.forced_length=13: the model allows 12"):
        SearchOptions(forced_length=13).longest(5, 0, 12)
    with pytest.raises(ConfigError, match="prefix has 12 tokens: the model allows 11"):
        SearchOptions().longest(5, 12, 12)
