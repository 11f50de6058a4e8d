"""What is common to exports and imports: what is refused, and the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.commands import export as export_command
from nmt.commands import import_ as import_command
from nmt.config import ConfigError, compose, parse_options
from nmt.interchange.export import export_checkpoint
from nmt.interchange.importing import import_checkpoint
from nmt.interchange.stream import halves_from_turns, reorder_stream, turns_from_halves
from nmt.models.encoder_decoder import full_log_probs
from nmt.models.tensors import load_tensors, model_tensors

POST = "encoder.layer.norm_position=post"


@pytest.mark.parametrize(
    ("to", "overrides", "message"),
    [
        ("hf", ["norm.name=rms_norm"], "model.norm.name=rms_norm cannot be exported to hf; valid options: layer_norm"),
        ("hf", ["norm.eps=0.01"], "model.norm.eps=0.01 cannot be exported to hf; valid options: 1e-05"),
        (
            "hf",
            ["encoder.feed_forward.activation=swiglu", "decoder.feed_forward.activation=swiglu"],
            "model.encoder.feed_forward.activation=swiglu cannot be exported to hf; valid options: relu, gelu, silu",
        ),
        ("hf", ["decoder.feed_forward.activation=gelu"], "model.decoder.feed_forward.activation=gelu .* encoder, relu"),
        ("hf", [POST], "model.decoder.layer.norm_position=pre cannot be exported to hf: .* encoder, post"),
        ("hf", ["encoder.embed_dim=48", "embedding.share=none"], "model.decoder.embed_dim=32 .* encoder, 48"),
        *(
            (to, overrides, message)
            for to in ("hf", "ctranslate2")
            for overrides, message in (
                (["encoder.feed_forward={name: none}"], f"feed_forward.name=none .* to {to}; valid options: dense"),
                (["encoder.layers=0"], f"model.encoder.layers=0 cannot be exported to {to}: at least 1 is needed"),
                (["decoder.cross_attention.num_heads=4"], "cross_attention.num_heads=4 .* that of self_attention, 2"),
            )
        ),
    ],
)
def test_what_a_format_cannot_express_is_named(to, overrides, message, write_checkpoint, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        export_checkpoint(write_checkpoint(*overrides), to, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_names_and_folders(golden, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"to=ctranslate: no such format; valid options: ctranslate2, hf \(did you"):
        export_checkpoint(golden, "ctranslate", tmp_path / "out")
    with pytest.raises(ConfigError, match="format=marion: no such format; valid options: fairseq, hf, marian"):
        import_checkpoint("marion", golden, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists; choose another folder"):
        export_checkpoint(golden, "hf", tmp_path)
    with pytest.raises(ConfigError, match="exists; choose another folder"):
        import_checkpoint("hf", golden, tmp_path)
    with pytest.raises(ConfigError, match="no such folder; give a run or a checkpoint folder"):
        export_checkpoint(tmp_path / "nowhere", "hf", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        export_checkpoint(golden, "hf", tmp_path / "file" / "out")


@pytest.mark.parametrize("dim", [4, 7, 32])
def test_orders_are_inverse(dim) -> None:
    assert halves_from_turns(dim)[turns_from_halves(dim)].tolist() == list(range(dim))


def test_reordering_changes_nothing(write_checkpoint) -> None:
    """Learned positions: then every feature's order is the model's own."""
    loaded = load_model(write_checkpoint("embedding.positions=learned"))
    tokens = torch.randint(4, 40, (3, 7))
    with torch.no_grad():
        before = full_log_probs(loaded.model, tokens, tokens)
        changed = reorder_stream(model_tensors(loaded.model), halves_from_turns(32))
        load_tensors(loaded.model, changed, Path("x"))
        assert_close(full_log_probs(loaded.model, tokens, tokens), before, rtol=0, atol=1e-5)


def test_commands(write_checkpoint, tmp_path, capsys) -> None:
    checkpoint = write_checkpoint(POST, "decoder.layer.norm_position=post")
    config = compose("export", [f"checkpoint={checkpoint}", "to=hf", f"out={tmp_path}/hf"])
    export_command.export(parse_options(export_command.ExportOptions, config), config)
    config = compose("import", ["format=hf", f"path={tmp_path}/hf", f"out={tmp_path}/back"])
    import_command.import_model(parse_options(import_command.ImportOptions, config), config)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/hf: {checkpoint} for hf",
        f"{tmp_path}/back: checkpoint from {tmp_path}/hf",
    ]
    assert load_model(tmp_path / "back").config.checkpoint.imported_from == "hf"
