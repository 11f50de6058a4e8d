"""Search defaults that a checkpoint carries: what holds, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nmt.config import ConfigError, DataError
from nmt.generation.defaults import describe_search, read_defaults, resolve_search, taken_defaults, uncommon
from nmt.generation.options import LengthNorm, Sampling, SearchOptions

FAIRSEQ = {"min_length": 1, "max_length_ratio": 0.0, "max_length_offset": 200}


def carried(**node: Any) -> dict[str, Any]:
    return read_defaults(OmegaConf.create({"model": {}, "search": node}), Path("runs/x"))


def test_keys_are_those_of_the_search() -> None:
    assert read_defaults(OmegaConf.create({"model": {}}), Path("runs/x")) == {}
    assert carried() == {}
    assert carried(min_length=1, max_length_ratio=0, max_length_offset=200, beam=None) == FAIRSEQ
    found = carried(length_norm="gnmt", sampling="random", early_stop=False, no_repeat_ngram=3, no_repeat_except=["a"])
    assert found == {
        **{"length_norm": LengthNorm.gnmt, "sampling": Sampling.random, "early_stop": False},
        **{"no_repeat_ngram": 3, "no_repeat_except": ["a"]},
    }


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"search": {"bean": 4}}, r"unknown key search.bean; valid keys here: .* \(did you mean 'beam'\?\)"),
        ({"search": {"beam": "many"}}, r"search.beam: Value 'many'.*"),
        ({"search": {"beam": [5]}}, r"search.beam: .*"),
        ({"search": {"temperature": 1e-40}}, r"search.temperature=1e-40 is out of range: it must be at least 0.001"),
        ({"search": {"length_penalty": float("nan")}}, r"search.length_penalty=nan is out of range: .*"),
        ({"search": {"length_norm": "wu"}}, r"search.length_norm: .*"),
        ({"search": {"nbest": 6}}, r"search.nbest=6 is out of range: it must be at most search.beam=5"),
        ({"search": {"forced_length": 9}}, r"search.forced_length is for measurements and no default of a checkpoint"),
        ({"search": 5}, r"search=5 must be a group of keys"),
        ({"search": ["beam"]}, r"search=\['beam'\] must be a group of keys"),
    ],
)
def test_mistakes_name_the_file(node: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^runs/x/config.yaml: {message}$"):
        read_defaults(OmegaConf.create(node), Path("runs/x"))


def test_what_is_given_stands_and_the_rest_is_taken() -> None:
    defaults = {"a": carried(beam=4, min_length=0, **{k: v for k, v in FAIRSEQ.items() if k != "min_length"})}
    assert resolve_search({}, {"a": {}}) == resolve_search({}, {}) == SearchOptions()
    assert resolve_search({}, defaults) == SearchOptions(
        beam=4, min_length=0, max_length_ratio=0.0, max_length_offset=200
    )
    given = {"min_length": 1, "beam": 5, "max_length_ratio": 2.0}  # our own defaults, but given
    assert resolve_search(given, defaults) == SearchOptions(max_length_offset=200)
    assert describe_search(taken_defaults(given, defaults)) == "search.max_length_offset=200"


def test_what_does_not_go_together_says_whose_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^search.nbest=5 .* search.beam=4 \(of the checkpoint: search.beam=4\)$"):
        resolve_search({"nbest": 5}, {"a": {"beam": 4}})
    with pytest.raises(ConfigError, match=r"^search.nbest=9 is out of range: it must be at most search.beam=5$"):
        resolve_search({"nbest": 9}, {"a": FAIRSEQ})


def test_members_of_an_ensemble_must_agree_on_what_is_not_given() -> None:
    same = {"a": FAIRSEQ, "b": FAIRSEQ}
    assert resolve_search({}, same) == SearchOptions(**FAIRSEQ)
    assert resolve_search({}, {"a": {"min_length": 1}, "b": {}}) == SearchOptions(), "absent is our own default"
    differ = {"a": {"early_stop": False, "beam": 4}, "b": {"beam": 4}}
    message = r"^search.early_stop: the models of the ensemble have different defaults \(a: false, b: true\); give it$"
    with pytest.raises(ConfigError, match=message):
        resolve_search({}, differ)
    assert resolve_search({"early_stop": False}, differ) == SearchOptions(early_stop=False, beam=4)


def test_options_are_shown_as_they_are_typed() -> None:
    options = {"no_repeat_except": ["a", "b"], "length_norm": LengthNorm.gnmt, "ban_unk": True, "top_p": 0.5}
    shown = "search.no_repeat_except=[a,b] search.length_norm=gnmt search.ban_unk=true search.top_p=0.5"
    assert describe_search(options) == shown


def test_what_other_toolkits_lack() -> None:
    assert uncommon(SearchOptions(beam=4, length_penalty=0.3, **FAIRSEQ)) == {}
    assert uncommon(SearchOptions(unk_penalty=1.0, beam=4)) == {"unk_penalty": 1.0}
