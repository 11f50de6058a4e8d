"""Options of nmt-bench: lists and single values, and one line for what is wrong."""

from __future__ import annotations

import pytest

from nmt.benchmark.options import BenchOptions
from nmt.config import ConfigError, compose, parse_options


def options(*overrides: str) -> BenchOptions:
    return parse_options(BenchOptions, compose("bench", ["checkpoint=a", "input=b", "out=c", *overrides]))


def test_single_values_are_lists_of_one() -> None:
    given = options("search.beam=4", "batch=8", "precision=bf16")
    assert (given.checkpoints, given.beams, given.batches, given.precisions) == (["a"], [4], [8], ["bf16"])


def test_lists() -> None:
    given = options("checkpoint=[a,d]", "search.beam=[1,5]", "batch=[1,32]", "peers=[ctranslate2,ctranslate2:int8,hf]")
    assert given.checkpoints == ["a", "d"]
    assert (given.beams, given.batches) == ([1, 5], [1, 32])
    assert given.peer_formats == [("ctranslate2", "fp32"), ("ctranslate2", "int8"), ("hf", "fp32")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.beam=[]", r"search\.beam=\[\]: give a number of at least 1"),
        ("search.beam=[1,1]", r"search\.beam=\[1, 1\]: give a number"),
        ("search.beam=true", r"search\.beam=True: give a number"),
        ("batch=[0]", r"batch=\[0\]: give a number of at least 1"),
        ("batch=many", r"batch=many: give a number"),
        ("checkpoint=[]", r"checkpoint=\[\]: give at least one"),
        ("checkpoint=[a,a]", r"checkpoint=\[a,a\]: one is given twice"),
        ("precision=fp33", r"precision=fp33: valid options: fp32, bf16 \(did you mean 'fp32'\?\)"),
        ("peers=[ctranslate]", r"no such toolkit: 'ctranslate'; valid options: ctranslate2, hf \(did you mean 'ctr"),
        ("peers=[hf:int8]", r"peers=hf:int8: formats of hf: fp32, bf16, fp16"),
        ("peers=[hf,hf]", r"peers=\[hf,hf\]: one is given twice"),
        ("repeats=0", r"repeats=0 is out of range"),
        ("search.nbest=2", r"unknown key search\.nbest; valid keys here: beam, length_penalty"),
    ],
)
def test_mistakes(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(override)
