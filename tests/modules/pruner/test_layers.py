"""Shallower models equal the whole one that skips the same layers; which layers are kept; what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nmt.checkpoints.checkpoint import Loaded, load_model
from nmt.compression.interfaces import Pruned
from nmt.compression.prune import assemble
from nmt.config import ConfigError
from nmt.generation.options import SearchOptions
from nmt.generation.translate import translate_ids
from nmt.models.encoder_decoder import full_log_probs
from nmt.models.tensors import model_tensors
from nmt.registry import build, slots

DEEP = [
    *("model.encoder.layers=4", "model.decoder.layers=3", "train.max_updates=2"),
    *(f"model.{side}.stack.layer_drop=0.2" for side in ("encoder", "decoder")),
]
CASES = {
    "pre-norm": [],
    "post-norm": [f"model.{side}.layer.norm_position=post" for side in ("encoder", "decoder")],
    "compressed": ["model.decoder.layer.name=compressed"],
}
SRC = torch.tensor([[5, 9, 12, 7, 2], [6, 6, 2, 0, 0]])
PREV = torch.tensor([[1, 8, 4, 11], [1, 9, 9, 0]])


@pytest.fixture(scope="module")
def make_deep(train, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    """``make_deep("post-norm")``: 4 + 3 trained layers."""
    known: dict[str, Path] = {}

    def make(case: str = "pre-norm") -> Loaded:
        if case not in known:
            known[case] = tmp_path_factory.mktemp("runs") / case
            train(f"run={known[case]}", *DEEP, *CASES[case])
        return load_model(known[case])

    return make


def pruner(**options: Any) -> Any:
    return build("pruner", {"name": "layers", **options}, key="method")


def never(pruned: Pruned) -> float:
    raise AssertionError("nothing is to be compared")


def skipping(loaded: Loaded, encoder: list[int], decoder: list[int]) -> Any:
    """The whole model, made to run some layers only."""
    model = copy.deepcopy(loaded.model)
    for stack, kept in ((model.encoder, encoder), (model.decoder.stack, decoder)):
        stack.layers = nn.ModuleList([stack.layers[i] for i in kept])
    return model


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("encoder", "decoder"), [([0, 2], [0, 2]), ([1, 2, 3], [2]), ([3], [0, 1, 2])])
def test_equals_the_whole_that_skips_the_layers(case: str, encoder: list[int], decoder: list[int], make_deep) -> None:
    loaded = make_deep(case)
    pruned = pruner(encoder=encoder, decoder=decoder).prune(loaded, never)
    model = assemble(pruned, loaded.vocabularies, Path("x")).eval()
    expected = skipping(loaded, encoder, decoder)
    assert len(model.encoder.layers) == len(encoder)
    with torch.no_grad():
        assert torch.equal(full_log_probs(model, SRC, PREV), full_log_probs(expected, SRC, PREV))
    options = SearchOptions(beam=3)
    found, wanted = (translate_ids(m, [[5, 9, 12, 7], [6]], options) for m in (model, expected))
    assert [(h.ids, h.score) for (h, *_) in found] == [(h.ids, h.score) for (h, *_) in wanted]
    assert pruned.report == {"encoder": encoder, "decoder": decoder}


@pytest.mark.parametrize("given", ["all", "list"])
def test_all_layers_are_the_identity(given: str, make_deep) -> None:
    loaded = make_deep()
    kept = {"encoder": "all", "decoder": "all"}
    if given == "list":
        kept = {"encoder": [0, 1, 2, 3], "decoder": [0, 1, 2]}
    pruned = pruner(**kept).prune(loaded, never)
    assert pruned.config == loaded.config
    own = model_tensors(loaded.model)
    assert list(pruned.tensors) == list(own)
    assert all(torch.equal(tensor, own[name]) for name, tensor in pruned.tensors.items())


def test_cutting_twice_equals_cutting_once(make_deep) -> None:
    loaded = make_deep()
    first = pruner(encoder=[0, 2, 3], decoder="all").prune(loaded, never)
    again = Loaded(assemble(first, loaded.vocabularies, Path("x")), loaded.vocabularies, first.config, Path("x"))
    second = pruner(encoder=[0, 2], decoder="all").prune(again, never)
    once = pruner(encoder=[0, 3], decoder="all").prune(loaded, never)
    assert second.config == once.config
    assert all(torch.equal(tensor, once.tensors[name]) for name, tensor in second.tensors.items())


def test_only_depth_and_the_rate_of_skipping_change(make_deep) -> None:
    loaded = make_deep()
    before = OmegaConf.to_container(loaded.config)
    config = OmegaConf.to_container(pruner(encoder=[1, 3], decoder="all").prune(loaded, never).config)
    assert OmegaConf.to_container(loaded.config) == before
    expected = copy.deepcopy(before)
    expected["model"]["encoder"]["layers"] = 2
    expected["model"]["encoder"]["stack"]["layer_drop"] = 0.0
    assert config == expected
    assert config["model"]["decoder"]["stack"]["layer_drop"] == 0.2


def test_components_rewrite_their_options(make_deep, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def select_layers(cls: type, node: dict[str, Any], kept: list[int]) -> dict[str, Any]:
        seen.append((node["name"], kept))
        return {"name": "dense", "activation": "gelu"}

    dense = slots()["feed_forward"].components["dense"].factory
    monkeypatch.setattr(dense, "select_layers", classmethod(select_layers))
    pruned = pruner(encoder="all", decoder=[0, 2]).prune(make_deep(), never)
    assert seen == [("dense", [0, 2])]
    assert pruned.config.model.decoder.feed_forward == {"name": "dense", "activation": "gelu"}
    assert pruned.config.model.encoder.feed_forward.activation == "relu"


def test_what_layers_share_stays_while_one_of_them_does(make_deep) -> None:
    """A tied tensor is stored under the first of its names, which may be that of a layer that goes."""
    loaded = make_deep()
    layers = loaded.model.encoder.layers
    layers[1].feed_forward = layers[2].feed_forward = layers[0].feed_forward
    tensors = pruner(encoder=[1, 2, 3], decoder="all").prune(loaded, never).tensors
    weight = "feed_forward.inner.weight"
    assert torch.equal(tensors[f"encoder.layers.0.{weight}"], layers[0].feed_forward.inner.weight)
    assert f"encoder.layers.1.{weight}" not in tensors
    assert torch.equal(tensors[f"encoder.layers.2.{weight}"], layers[3].feed_forward.inner.weight)


# --- every other ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "rate", "kept"),
    [
        (16, 0.5, [0, 2, 4, 6, 8, 10, 12, 14]),  # what the authors' code is told to keep of 16 layers
        (6, 0.5, [0, 2, 4]),
        (3, 0.5, [0, 2]),
        (1, 0.5, [0]),
        (6, 0.4, [0, 2, 4]),  # floor(2.5) = 2
        (6, 1 / 3, [0, 1, 3, 4]),
        (6, 0.2, [0, 1, 2, 3, 5]),
        (6, 0.1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_every_other(depth: int, rate: float, kept: list[int], make_deep) -> None:
    part = pruner(rate=rate)
    assert part._chosen("encoder", depth) == part._chosen("decoder", depth) == kept


def test_every_other_is_the_default(make_deep) -> None:
    assert pruner().prune(make_deep(), never).report == {"encoder": [0, 2], "decoder": [0, 2]}


# --- search -----------------------------------------------------------------------------------------------------------


class Worth:
    """A loss that is known: what each layer of the encoder and of the decoder takes off it."""

    def __init__(self, encoder: list[float], decoder: list[float]) -> None:
        self.worth = {"encoder": encoder, "decoder": decoder}
        self.trials: list[tuple[list[int], list[int]]] = []

    def __call__(self, pruned: Pruned) -> float:
        # The layers are told by their tensors, not by the report.
        kept = {}
        for side, prefix in (("encoder", "encoder"), ("decoder", "decoder.stack")):
            norms = [
                t for n, t in pruned.tensors.items() if n.startswith(prefix) and n.endswith("around_self.norm.bias")
            ]
            kept[side] = [round(float(norm[0])) for norm in norms]
        self.trials.append((kept["encoder"], kept["decoder"]))
        return 10 - sum(self.worth[side][i] for side, layers in kept.items() for i in layers)


@pytest.fixture
def numbered(make_deep) -> Loaded:
    """A model whose layers bear their number."""
    loaded = make_deep()
    for stack in (loaded.model.encoder, loaded.model.decoder.stack):
        for i, layer in enumerate(stack.layers):
            nn.init.constant_(layer.around_self.norm.bias, float(i))
    return loaded


def test_search_tries_all_subsets_of_both_sides(numbered: Loaded) -> None:
    worth = Worth([1.0, 0.5, 2.0, 0.25], [0.1, 0.2, 0.3])
    pruned = pruner(encoder="search", encoder_layers=2, decoder="search", decoder_layers=1).prune(numbered, worth)
    assert pruned.report == {"encoder": [0, 2], "decoder": [2], "nll": 6.7, "nll_before": 5.65}
    assert worth.trials[0] == ([0, 1, 2, 3], [0, 1, 2])
    assert len(worth.trials) == 1 + 6 * 3
    assert len(set(map(str, worth.trials))) == len(worth.trials)
    assert pruned.config.model.encoder.layers == 2


def test_search_of_one_side_keeps_to_the_rule_of_the_other(numbered: Loaded) -> None:
    worth = Worth([1.0, 0.5, 2.0, 0.25], [0.1, 0.2, 0.3])
    pruned = pruner(encoder=[0, 1], decoder="search", decoder_layers=2).prune(numbered, worth)
    assert (pruned.report["encoder"], pruned.report["decoder"]) == ([0, 1], [1, 2])
    assert worth.trials[1:] == [([0, 1], [0, 1]), ([0, 1], [0, 2]), ([0, 1], [1, 2])]


def test_search_takes_layers_away_one_by_one_where_subsets_are_many(numbered: Loaded) -> None:
    worth = Worth([1.0, 0.5, 2.0, 0.25], [0.1, 0.2, 0.3])
    options = {"encoder": "search", "encoder_layers": 2, "decoder": "search", "decoder_layers": 1}
    pruned = pruner(**options, max_trials=12).prune(numbered, worth)
    assert (pruned.report["encoder"], pruned.report["decoder"], pruned.report["nll"]) == ([0, 2], [2], 6.7)
    assert len(worth.trials) == 1 + (4 + 3) + (3 + 2)
    with pytest.raises(ConfigError, match=r"^method\.max_trials=11 is too few: 18 subsets, or 12 trials one by one$"):
        pruner(**options, max_trials=11).prune(numbered, worth)


def test_search_passes_over_what_components_refuse(numbered: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def select_layers(cls: type, node: dict[str, Any], kept: list[int]) -> dict[str, Any]:
        if 0 not in kept or 3 in kept:
            raise ConfigError(f"not {kept}")
        return node

    dense = slots()["feed_forward"].components["dense"].factory
    monkeypatch.setattr(dense, "select_layers", classmethod(select_layers))
    worth = Worth([0.0, 0.0, 1.0, 9.0], [0.0, 0.0, 0.0])
    options = {"encoder": "search", "decoder": "all"}
    assert pruner(**options, encoder_layers=2).prune(numbered, worth).report["encoder"] == [0, 2]
    with pytest.raises(ConfigError, match=r"^not \[2, 3\]$"):
        pruner(encoder=[2, 3], decoder="all").prune(numbered, never)
    monkeypatch.setattr(dense, "select_layers", classmethod(lambda cls, node, kept: select_layers(cls, node, [3])))
    with pytest.raises(ConfigError, match=r"^not \[3\]$"):
        pruner(**options, encoder_layers=2).prune(numbered, worth)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": []}, "method.encoder=[]: give at least one layer to keep"),
        ({"encoder": [0, 4]}, "method.encoder=[0, 4]: 4 is not a layer; model.encoder has layers 0 to 3"),
        ({"decoder": [-1, 0]}, "method.decoder=-1 is out of range: it must be at least 0"),
        ({"encoder": ["a"]}, "method.encoder=['a']: a is not a layer; model.encoder has layers 0 to 3"),
        ({"encoder": [True]}, "method.encoder=[True]: True is not a layer; model.encoder has layers 0 to 3"),
        ({"encoder": [0, 0]}, "method.encoder=[0, 0] must be ascending, each layer once"),
        ({"encoder": [2, 0]}, "method.encoder=[2, 0] must be ascending, each layer once"),
        (
            {"decoder": "every_othr"},
            "method.decoder=every_othr is neither a list of layers nor a rule; valid options: all, every_other, "
            "search (did you mean 'every_other'?)",
        ),
        (
            {"encoder": 2},
            "method.encoder=2 is neither a list of layers nor a rule; valid options: all, every_other, search",
        ),
        ({"encoder": "search"}, "method.encoder=search and method.encoder_layers go together; give both"),
        ({"decoder_layers": 2}, "method.decoder=search and method.decoder_layers=2 go together; give both"),
        (
            {"encoder": "search", "encoder_layers": 5},
            "method.encoder_layers=5 is out of range: model.encoder.layers is 4",
        ),
        ({"rate": 0.6}, "method.rate=0.6 is out of range: it must be at most 0.5"),
    ],
)
def test_what_cannot_be_kept_is_refused(options: dict[str, Any], message: str, make_deep) -> None:
    with pytest.raises(ConfigError) as caught:
        pruner(**options).prune(make_deep(), never)
    assert str(caught.value) == message


def test_stack_without_single_layers_is_refused(make_deep) -> None:
    loaded = make_deep()
    loaded.model.encoder.layers = nn.ModuleList([loaded.model.encoder.layers[0]])  # one for all four
    with pytest.raises(ConfigError) as caught:
        pruner(decoder="all").prune(loaded, never)
    assert str(caught.value) == (
        "method.encoder: model.encoder.stack.name=sequential is not made of single layers; give all"
    )
