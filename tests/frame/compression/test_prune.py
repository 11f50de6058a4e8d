"""``nmt-prune``: what it writes is a checkpoint like any other, smaller; losses are those of validation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import nmt
from nmt.checkpoints.average import average_checkpoints
from nmt.checkpoints.checkpoint import load_model
from nmt.commands import prune as command
from nmt.compression.interfaces import Pruned
from nmt.compression.options import PruneOptions
from nmt.compression.prune import PruneReport, Validation, assemble, prune
from nmt.config import ConfigError, DataError, parse_options
from nmt.generation.generate import generate
from nmt.generation.options import GenerateOptions
from nmt.models.encoder_decoder import num_parameters
from nmt.models.tensors import model_tensors


@pytest.fixture(scope="module")
def run(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 + 2 layers, a few updates; read only."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(f"run={folder}", "model.encoder.layers=3", "train.max_updates=6", "validate.every=3")
    return folder


@pytest.fixture
def options(composed) -> Callable[..., PruneOptions]:
    """``options(run, "out=x")``"""

    def parse(run: Path, *overrides: str) -> PruneOptions:
        return parse_options(PruneOptions, composed("prune", [f"checkpoint={run}", "device=cpu", *overrides]))

    return parse


def test_writes_a_checkpoint(run: Path, options, composed, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    report = prune(options(run, f"out={out}", "method.encoder=[0,2]", "method.decoder=[1]"))
    before, after = load_model(run), load_model(out)
    assert (len(after.model.encoder.layers), len(after.model.decoder.stack.layers)) == (2, 1)
    assert report.parameters == (num_parameters(before.model), num_parameters(after.model))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (before.path, out)]
    assert report.bytes == tuple(sizes)
    assert sizes[1] < sizes[0]
    assert load_file(out / "model.safetensors").keys() == model_tensors(after.model).keys()
    assert after.config.checkpoint.pruned == {
        "of": before.path.resolve().name,
        "method": "layers",
        "encoder": [0, 2],
        "decoder": [1],
    }
    assert after.config.checkpoint.vocabulary == before.config.checkpoint.vocabulary
    # Everything that takes a checkpoint takes it.
    assert len(nmt.load(out).translate(["1 2 3", "4"], beam=2)) == 2
    generated = composed("generate", [f"checkpoint={out}", f"corpus={digits}", f"output={tmp_path}/hyp", "device=cpu"])
    generate(parse_options(GenerateOptions, generated))
    assert len((tmp_path / "hyp").read_text(encoding="utf-8").splitlines()) == 40
    average_checkpoints([str(out), str(out)], None, str(tmp_path / "mean"))
    prune(options(out, f"out={tmp_path}/quarter", "method.encoder=[1]", "method.decoder=all"))
    assert len(load_model(tmp_path / "quarter").model.encoder.layers) == 1


def test_report_is_one_line() -> None:
    report = PruneReport("layers", {"encoder": [0, 2], "nll": 1.5}, (7_578_624, 5_735_424), (30_325_888, 22_949_400))
    assert str(report) == (
        "layers: encoder [0, 2], nll 1.5; 7.579 -> 5.735 million parameters, "
        "model.safetensors 30.326 -> 22.949 million bytes"
    )


def test_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"checkpoint={run}", "out=half", "method=layers", "method.encoder=every_other", "method.decoder=[0]"]
    monkeypatch.setattr(sys, "argv", ["nmt-prune", *given])
    command.main()
    assert capsys.readouterr().out.startswith("half: layers: encoder [0, 2], decoder [0]; ")
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_search_finds_what_its_losses_say(run: Path, options, digits: Path, tmp_path: Path, caplog) -> None:
    given = [f"corpus={digits}", "method.encoder=search", "method.encoder_layers=2", "method.decoder=all"]
    caplog.set_level("INFO")
    report = prune(options(run, f"out={tmp_path}/out", *given))
    losses = {}
    for kept in ([0, 1], [0, 2], [1, 2]):
        folder = tmp_path / "".join(map(str, kept))
        asked = options(run, f"out={folder}", f"corpus={digits}", f"method.encoder={kept}", "method.decoder=all")
        prune(asked)
        loaded = load_model(folder)
        losses[str(kept)] = Validation(asked, loaded)(Pruned(loaded.config, model_tensors(loaded.model)))
    best = min(losses, key=losses.__getitem__)
    assert str(report.kept["encoder"]) == best
    assert report.kept["nll"] == pytest.approx(losses[best], abs=1e-4)
    assert "trial 3 of 3: encoder [1, 2], decoder [0, 1]: nll " in caplog.text


def test_loss_is_that_of_validation(run: Path, options, digits: Path, read_metrics: Callable[..., list[dict]]) -> None:
    loaded = load_model(run)
    update = int(loaded.path.resolve().name.removeprefix("update-"))
    asked = options(run, "out=x", f"corpus={digits}", "batch.max_tokens=64")
    got = Validation(asked, loaded)(Pruned(loaded.config, model_tensors(loaded.model)))
    [expected] = [line["nll"] for line in read_metrics(run, "valid") if line["update"] == update]
    assert got == pytest.approx(expected, rel=1e-5)


def test_what_is_pruned_must_be_the_model_of_its_configuration(run: Path) -> None:
    loaded = load_model(run)
    tensors = model_tensors(loaded.model)
    tensors.pop(next(iter(tensors)))
    with pytest.raises(DataError, match=r"^x: does not fit the model of its configuration: 1 tensors missing"):
        assemble(Pruned(loaded.config, tensors), loaded.vocabularies, Path("x"))
    assert torch.is_grad_enabled()


def test_existing_folder_is_refused(run: Path, options, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^out=.* exists; choose another folder$"):
        prune(options(run, f"out={tmp_path}"))


def test_search_needs_a_corpus_of_the_same_vocabulary(run: Path, options, make_corpus, tmp_path: Path) -> None:
    search = [f"out={tmp_path}/out", "method.encoder=search", "method.encoder_layers=1"]
    with pytest.raises(ConfigError) as caught:
        prune(options(run, *search))
    assert str(caught.value) == ("corpus is required: this method compares models by their loss; give corpus=FOLDER")
    other = make_corpus(seed=7, vocab_size=20)
    with pytest.raises(ConfigError, match=rf"^corpus={other}: prepared with another vocabulary than .*/best$"):
        prune(options(run, *search, f"corpus={other}"))
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(run: Path, options) -> None:
    with pytest.raises(ConfigError, match=r"^out=/proc/x/y: cannot be written \("):
        prune(options(run, "out=/proc/x/y"))


def test_facts_are_plain(run: Path, options, tmp_path: Path) -> None:
    prune(options(run, f"out={tmp_path}/out"))
    text = (tmp_path / "out" / "config.yaml").read_text(encoding="utf-8")
    assert OmegaConf.create(text).checkpoint.pruned.decoder == [0]
