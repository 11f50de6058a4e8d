"""Linear maps by role: what a model computes depends on their matrices alone, however they keep them."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import nmt
from nmt.config import ConfigError
from nmt.interchange.export import export_checkpoint
from nmt.models.encoder_decoder import full_log_probs
from nmt.models.linear import ROLES, LinearMap
from nmt.models.packed import PackedLinear, prepare_inference
from nmt.registry import build
from nmt.text.vocabulary import BOS, EOS, PAD

SRC = torch.tensor([[5, 6, 7, EOS], [8, 9, EOS, PAD]])
PREV = torch.tensor([[BOS, 9, 10], [BOS, 11, PAD]])
TARGET = torch.tensor([9, 10, EOS, 11, EOS])
UNTIED = "model.embedding.share=none"
EXACT = {"rtol": 1e-12, "atol": 1e-12}
COMPONENTS = {
    "multihead": [],
    "average": ["model.decoder.self_attention.name=average"],
    "ssru": ["model.decoder.self_attention.name=ssru"],
    "compressed": ["model.decoder.layer.name=compressed"],
    "gated": ["model.encoder.feed_forward.activation=swiglu"],
    "adaptive": ["model.output={name: adaptive, cutoffs: [6, 12]}"],
    "shared-self": ["model.decoder.self_attention={name: shared, policy: [2]}"],
    "shared-cross": ["model.decoder.cross_attention={name: shared, policy: [2], share: weights}"],
}


@pytest.fixture(autouse=True)
def halved(plugin) -> Any:
    return plugin("halved")


def maps(model: nn.Module) -> dict[str, LinearMap]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LinearMap)}


def losses(model: Any) -> torch.Tensor:
    output = model(SRC, PREV)
    hidden = output.hidden.flatten(0, 1)[:5]
    loss: torch.Tensor = model.output.loss(hidden, TARGET, 0.1)[0]
    return loss


@pytest.mark.parametrize("overrides", COMPONENTS.values(), ids=COMPONENTS.keys())
def test_equal_matrices_give_equal_models(overrides: list[str], make_model) -> None:
    """Log-probabilities, loss, and gradients by the chain rule; nothing reads a weight past ``matrix``."""
    plain = make_model(UNTIED, *overrides, dtype=torch.float64).eval()
    other = make_model(UNTIED, *overrides, "model.linear.name=halved", dtype=torch.float64).eval()
    found = maps(other)
    assert found.keys() == maps(plain).keys()
    state = {}
    for name, tensor in plain.state_dict().items():
        owner, _, kind = name.rpartition(".")
        halve = owner in found and kind == "weight"
        state[f"{owner}.kept" if halve else name] = tensor / 2 if halve else tensor
    other.load_state_dict(state)
    assert_close(full_log_probs(other, SRC, PREV), full_log_probs(plain, SRC, PREV), **EXACT)
    for model in (plain, other):
        losses(model).backward()
    assert_close(losses(other), losses(plain), **EXACT)
    for name, linear in found.items():
        assert_close(linear.kept.grad, 2 * plain.get_submodule(name).weight.grad, **EXACT)


@pytest.mark.parametrize("name", ["halved", "factored"])
def test_packed_decoding_reads_the_matrix(name: str, make_model) -> None:
    model = make_model(UNTIED, f"model.linear.name={name}").eval()
    expected = full_log_probs(model, SRC, PREV)
    ready = prepare_inference(copy.deepcopy(model), torch.device("cpu"), torch.float32)
    packed = [module for module in ready.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == len(maps(model)), "not every map was packed"
    assert_close(full_log_probs(ready, SRC, PREV), expected, rtol=1e-4, atol=1e-5)


def test_a_map_that_refuses_is_not_packed(halved, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved.Halved, "packs", False)
    model = make_model(UNTIED, "model.linear.name=halved")
    ready = prepare_inference(model, torch.device("cpu"), torch.float32)
    assert not any(isinstance(module, PackedLinear) for module in ready.modules())


def test_roles_choose_their_own(halved, make_model) -> None:
    model = make_model("model.linear.by_role={ffn1: {name: factored, rank: 3}, o: {name: halved}}")
    kinds: dict[str, set[str]] = {}
    for name, linear in maps(model).items():
        kinds.setdefault(type(linear).__name__, set()).add(name.rpartition(".")[2])
    assert kinds == {"Factored": {"inner"}, "Halved": {"out"}, "DenseLinear": {"qkv", "q", "kv", "outer", "projection"}}
    assert all(m.up.shape[1] == 3 for m in maps(model).values() if isinstance(m, halved.Factored))


def test_dense_shares_the_embedding_and_others_say_that_they_cannot(make_model) -> None:
    model = make_model("model.linear={name: factored, by_role: {output: {name: dense}}}")
    assert model.output.projection.weight is model.embedding.output_weight()
    with pytest.raises(ConfigError, match=r"^model\.linear: Factored keeps no matrix .* model\.embedding\.share=none"):
        make_model("model.linear.name=factored")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.linear.name=dens", r"^model\.linear\.name='dens' is not a registered linear; .*'dense'"),
        ("model.linear.rank=3", r"^unknown key model\.linear\.rank"),
        (
            "model.linear.by_role.fn1.name=dense",
            r"^unknown key model\.linear\.by_role\.fn1; .*\(did you mean 'ffn1'\?\)",
        ),
        ("model.linear.by_role.o={name: factored, rank: 0}", r"^model\.linear\.by_role\.o\.rank=0 is out of range"),
        ("model.linear.by_role=4", r"^model\.linear\.by_role=4 must be a group: model"),
        (
            "model.linear.by_role.gate.name=dense",
            r"^model\.linear\.by_role\.gate would do nothing: this model has ffn1, ",
        ),
        (
            "model.linear.by_role.q.name=factored",
            r"^model\.linear\.by_role\.q and model\.linear differ, but q, k, v are one product here; give",
        ),
    ],
)
def test_mistakes_are_named(override: str, message: str, make_model) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model(override)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_asked_for_by_some_component(role: str, make_model) -> None:
    """A role that nothing has would be a promise without a keeper."""
    together = {"q": "qkv", "k": "qkv", "v": "qkv"}.get(role, [role])
    nodes = ", ".join(f"{each}: {{name: dense}}" for each in together)
    asked = 0
    for overrides in COMPONENTS.values():
        with contextlib.suppress(ConfigError):
            make_model(UNTIED, *overrides, f"model.linear.by_role={{{nodes}}}")
            asked += 1
    assert asked


def test_a_checkpoint_says_what_its_matrices_are(train, tmp_path: Path) -> None:
    """Trained, saved, resumed, loaded, translated with; and refused by an export that has only plain matrices."""
    given = ["plugins=[halved]", UNTIED, "model.linear={name: factored, by_role: {output: {name: halved}}}"]
    trainer = train(f"run={tmp_path / 'run'}", "train.max_updates=4", *given)
    train(f"run={tmp_path / 'parts'}", "train.max_updates=2", *given)
    resumed = train(f"run={tmp_path / 'parts'}", "train.max_updates=4", *given)
    assert_close(resumed.parallel.tensors(), trainer.parallel.tensors(), rtol=0, atol=0)
    translator = nmt.load(tmp_path / "run", plugins=["halved"])
    assert len(translator.translate(["1 2 3"])) == 1
    with pytest.raises(
        ConfigError, match=r"^model\.linear\.by_role\.output\.name=halved cannot be exported to ctranslate2"
    ):
        export_checkpoint(tmp_path / "run", "ctranslate2", tmp_path / "out")


def test_dense_is_torchs_own() -> None:
    torch.manual_seed(1)
    linear = build("linear", {"name": "dense"}, key="k", in_features=5, out_features=3, bias=True)
    torch.manual_seed(1)
    plain = nn.Linear(5, 3)
    assert_close(linear.state_dict(), plain.state_dict())
    x = torch.randn(2, 5)
    assert torch.equal(linear(x), plain(x))
    assert linear.matrix() is linear.weight
