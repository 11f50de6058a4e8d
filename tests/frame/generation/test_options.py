"""Options of the command and of Python are the same, and wrong ones are named."""

import re
from importlib import resources
from typing import Any

import pytest
from omegaconf import OmegaConf

from nmt.config import ConfigError, compose, parse_options
from nmt.generation.defaults import as_text
from nmt.generation.options import (
    GenerateOptions,
    GenerationBatchOptions,
    Sampling,
    SearchOptions,
    given_search,
)

REQUIRED = ["checkpoint=x", "input=y"]


def test_yaml_and_python_have_the_same_defaults() -> None:
    """A key of the search is null until it is given; its comment ends with our default."""
    node = compose("generate", REQUIRED)
    parsed = parse_options(GenerateOptions, node)
    assert given_search(parsed.search) == {}
    assert parsed.batch == GenerationBatchOptions()
    text = (resources.files("nmt.conf") / "generate.yaml").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^  (\w+): null .*\(default (.*)\)$", text, flags=re.MULTILINE))
    ours = {name: as_text(value) for name, value in vars(SearchOptions()).items()}
    assert stated == ours
    assert set(node.search) == set(ours)


def test_what_is_given_is_told_from_defaults() -> None:
    parsed = parse_options(
        GenerateOptions,
        compose(
            "generate", [*REQUIRED, "search.min_length=1", "search.early_stop=false", "search.no_repeat_except=[a]"]
        ),
    )
    assert given_search(parsed.search) == {"min_length": 1, "early_stop": False, "no_repeat_except": ["a"]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.beam=0"], r"search.beam=0 is out of range: it must be at least 1"),
        (["search.beam=1000000000"], r"search.beam=1000000000 is out of range: it must be at most 1000"),
        (["search.temperature=0"], r"search.temperature=0.0 is out of range: it must be at least 0.001"),
        (["search.temperature=1e-40"], r"search.temperature=1e-40 is out of range: it must be at least 0.001"),
        (["search.length_penalty=400"], r"search.length_penalty=400.0 is out of range: it must be at most 5"),
        (["search.length_penalty=-400"], r"search.length_penalty=-400.0 is out of range: it must be at least -5"),
        (["search.diversity=1e300"], r"search.diversity=1e\+300 is out of range: it must be at most 100"),
        (["search.unk_penalty=-1"], r"search.unk_penalty=-1.0 is out of range: it must be at least 0"),
        (["search.max_length_ratio=1e308"], r"search.max_length_ratio=1e\+308 is out of range: it must be at most 100"),
        (["search.seed=18446744073709551616"], r"search.seed=18446744073709551616 is out of range: it must be at most"),
        (
            ["buffer=9999999999"],
            r"buffer=9999999999 is out of range: it must be at most 1000000000",
        ),
        (["search.length_norm=wu"], r"search.length_norm.*'wu'.*power, gnmt"),
        (["search=5"], r"search=5 must be a group of keys"),
        (["search.top_p=1.5"], r"search.top_p=1.5 is out of range: it must be at most 1"),
        (["search.sampling=on"], r"search.sampling.*'on'.*none, random"),
        (["search.bean=4"], r"unknown key search.bean; .*\(did you mean 'beam'\?\)"),
        (["precision=fp8"], r"precision.*fp32, bf16"),
        (["corpus=z"], r"give either input=FILE \(or input=-\) or corpus=FOLDER"),
        (["input=null"], r"give either input=FILE"),
        (["score_target=a", "prefix=b"], r"score_target and prefix exclude each other"),
        (["token_scores=true"], r"token_scores=true needs format=jsonl"),
        (["score_target=a", "search.ban_unk=true"], r"search.ban_unk and score_target exclude each other"),
        (["score_target=a", "search.no_repeat_except=[b]"], r"search.no_repeat_except and score_target exclude"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(GenerateOptions, compose("generate", [*REQUIRED, *overrides]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nbest": 6}, r"^search.nbest=6 is out of range: it must be at most search.beam=5$"),
        ({"diverse_groups": 2}, r"^search.diverse_groups=2 does not divide search.beam=5$"),
        ({"ban_unk": True, "unk_penalty": 1.0}, r"^search.unk_penalty=1.0 has no meaning: search.ban_unk=true$"),
        (
            {"no_repeat_except": ["a", "b"]},
            r"^search.no_repeat_except=\[a,b\] has no meaning: search.no_repeat_ngram=0$",
        ),
        ({"forced_length": 3, "min_length": 4}, r"^search.min_length=4 exceeds search.forced_length=3$"),
    ],
)
def test_what_does_not_go_together_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(SearchOptions, options, key="search")


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
        ({"max_length_ratio": 0.1, "max_length_offset": 0}, 5, 0, None, 1),  # the fewest, 1 by default, counts more
        ({"min_length": 30}, 5, 0, None, 30),
        ({"min_length": 0, "max_length_ratio": 0.1, "max_length_offset": 0}, 5, 0, None, 0),
    ],
)
def test_longest(options: dict[str, Any], source: int, prefix: int, model: int | None, expected: int) -> None:
    assert SearchOptions(**options).longest(source, prefix, model) == expected


def test_what_does_not_fit_the_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"search.forced_length=13: the model allows 12"):
        SearchOptions(forced_length=13).longest(5, 0, 12)
    with pytest.raises(ConfigError, match=r"search.min_length=12: the model allows 11 tokens at most"):
        SearchOptions(min_length=12).longest(5, 0, 12)
