"""Import of fairseq Transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fairseq_model import LAYERS, Fairseq, check

from nmt.checkpoints.checkpoint import Checkpoint
from nmt.config import ConfigError, DataError
from nmt.generation.translator import Translator
from nmt.interchange.importing import import_checkpoint

PRE = {"encoder_normalize_before": True, "decoder_normalize_before": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm": PRE,
    "joint": {"joint": True},
    "joint, pre-norm, gelu": {"joint": True, "activation_fn": "gelu", **PRE},
    "untied": {"share_decoder_input_output_embed": False},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "learned in the encoder alone": {"encoder_learned_pos": True, "activation_fn": "swish"},
    "no positions, no scale": {"no_token_positional_embeddings": True, "no_scale_embedding": True},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_computes_what_fairseq_does(options, texts, tmp_path, sources, references) -> None:
    model = Fairseq(texts, **options)
    ours = check(model, model.save(tmp_path / "fairseq"), tmp_path / "out", sources, references)
    assert ours.vocabularies.joint == options.get("joint", False)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", ["args", "namespace", "omegaconf"])
def test_forms_of_a_checkpoint(form, zipped, texts, tmp_path, sources, references) -> None:
    model = Fairseq(texts)
    folder = model.save(tmp_path / "fairseq", form=form, zipped=zipped)
    check(model, folder / "checkpoint_best.pt", tmp_path / "out", sources, references)


def test_names_of_old_versions(texts, tmp_path, sources, references) -> None:
    model = Fairseq(texts, share_decoder_input_output_embed=False)
    state = dict(model.state)
    for side in ("encoder", "decoder"):
        for layer in range(LAYERS[side]):
            prefix = f"{side}.layers.{layer}"
            for attention in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
                for kind in ("weight", "bias"):
                    parts = [state.pop(f"{prefix}.{attention}.{p}_proj.{kind}") for p in "qkv"]
                    state[f"{prefix}.{attention}.in_proj_{kind}"] = torch.cat(parts)
            norms = ["self_attn", "final"] if side == "encoder" else ["self_attn", "encoder_attn", "final"]
            for number, norm in enumerate(norms):
                for kind in ("weight", "bias"):
                    state[f"{prefix}.layer_norms.{number}.{kind}"] = state.pop(f"{prefix}.{norm}_layer_norm.{kind}")
    state["decoder.embed_out"] = state.pop("decoder.output_projection.weight")
    new, model.state = model.state, state
    folder = model.save(tmp_path / "fairseq")
    model.state = new
    check(model, folder, tmp_path / "out", sources, references)


def test_half_precision(texts, tmp_path, sources, references) -> None:
    model = Fairseq(texts)
    model.state = {name: t.half() for name, t in model.state.items()}
    folder = model.save(tmp_path / "fairseq")
    model.state = {name: t.float() for name, t in model.state.items()}
    check(model, folder, tmp_path / "out", sources, references)


def test_pieces_that_are_no_words_are_never_written(texts, tmp_path, sources) -> None:
    model = Fairseq(texts)
    import_checkpoint("fairseq", model.save(tmp_path / "fairseq"), tmp_path / "out")
    ours = Translator.load(tmp_path / "out", device="cpu")
    target = ours.vocabularies.target
    line = next(line for line in texts[1] if model.absent["eo"] in target.pieces(line))
    found = ours.forced(sources[:1], [line])[0]
    assert found.token_lprobs[target.pieces(line).index(model.absent["eo"])] < -1e8


def test_lengths_that_the_positions_do_not_have(texts, tmp_path) -> None:
    import_checkpoint("fairseq", Fairseq(texts).save(tmp_path / "fairseq"), tmp_path / "out")
    assert Checkpoint.find(tmp_path / "out").config.search.max_length_offset == 59  # of 60 positions


def break_settings(**settings: Any) -> Any:
    def change(model: Fairseq) -> None:
        model.settings.update(settings)

    return change


def drop(name: str) -> Any:
    return lambda model: model.state.pop(name)


def add(name: str) -> Any:
    return lambda model: model.state.update({name: torch.zeros(3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_settings(arch="lstm"), "arch='lstm'; only the Transformer for translation"),
        (break_settings(arch="transformer_lm_big"), "arch='transformer_lm_big'"),
        (break_settings(layernorm_embedding=True), "layernorm_embedding is set"),
        (break_settings(activation_fn="gelu_fast"), "activation_fn; only relu, gelu, swish"),
        (break_settings(encoder_attention_heads=3), "encoder_attention_heads=3 does not divide the width, 16"),
        (break_settings(encoder_attention_heads="x"), "encoder_attention_heads is missing or not a whole number"),
        (break_settings(source_lang="../../etc"), "source_lang is missing or not the code of a language"),
        (break_settings(decoder_normalize_before=True), "decoder.layer_norm.weight is missing"),
        (break_settings(encoder_learned_pos=True), "encoder_learned_pos and encoder.embed_positions.weight do not fit"),
        (drop("encoder.layers.1.fc2.bias"), "encoder.layers.1.fc2.bias is missing"),
        (drop("encoder.embed_tokens.weight"), "encoder.embed_tokens.weight is missing"),
        (add("encoder.layers.0.fc1.weight"), "fc1.weight|has shape"),
        (lambda model: model.state.update({"decoder.layers.0.fc1.bias": torch.ones(2, 2, 2)}), "has 3 dimensions"),
        (lambda model: model.state.update({"decoder.layers.0.fc1.bias": torch.ones(7)}), "has shape"),
        (add("decoder.adaptive_softmax.head"), "decoder.adaptive_softmax.head has no place"),
        (lambda model: model.words["eo"].pop(), "words with the four special ones, but the checkpoint has"),
        (lambda model: model.words["en"].append(model.words["en"][5]), "occurs twice"),
        (lambda model: model.words["en"].__setitem__(slice(4, 9), list("12345")), "does not belong to .* such as '1'"),
    ],
)
def test_refuses(change, message, texts, tmp_path) -> None:
    model = Fairseq(texts)
    change(model)
    folder = model.save(tmp_path / "fairseq")
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint("fairseq", folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", ["many words ten", "alone", " 5", ""])
def test_refuses_a_malformed_dictionary(line, texts, tmp_path) -> None:
    folder = Fairseq(texts).save(tmp_path / "fairseq")
    content = (folder / "dict.en.txt").read_text(encoding="utf-8").split("\n")
    (folder / "dict.en.txt").write_text("\n".join([content[0], line, *content[2:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"dict\.en\.txt:2: expected a word and its count"):
        import_checkpoint("fairseq", folder, tmp_path / "out")


@pytest.mark.parametrize("kept", ["en", "eo"])
def test_one_dictionary_of_a_joined_vocabulary(kept, texts, tmp_path, sources, references) -> None:
    model = Fairseq(texts, joint=True)
    folder = model.save(tmp_path / "fairseq")
    (folder / f"dict.{'eo' if kept == 'en' else 'en'}.txt").unlink()
    assert check(model, folder, tmp_path / "out", sources, references).vocabularies.joint


def test_two_vocabularies_need_two_dictionaries(texts, tmp_path) -> None:
    folder = Fairseq(texts).save(tmp_path / "fairseq")
    (folder / "dict.eo.txt").unlink()
    with pytest.raises(DataError, match=r"dict\.eo\.txt: cannot be read"):
        import_checkpoint("fairseq", folder, tmp_path / "out")


def test_sub_words_that_the_user_names(texts, tmp_path, sources, references) -> None:
    model = Fairseq(texts)
    folder = model.save(tmp_path / "fairseq")
    for name in ("spm.en.model", "spm.eo.model"):
        (folder / name).rename(tmp_path / name.replace("spm", "s").replace("model", "x"))
    named = [str(tmp_path / "s.en.x"), str(tmp_path / "s.eo.x")]
    check(model, folder, tmp_path / "out", sources, references, subwords=named)
    with pytest.raises(DataError, match=r"no subwords here \(\*\.model.*\); give subwords=FILE or subwords=\[SOURCE,"):
        import_checkpoint("fairseq", folder, tmp_path / "out2")
    with pytest.raises(ConfigError, match=r"subwords=\[a,b,c\]: give FILE, or \[SOURCE,TARGET\]"):
        import_checkpoint("fairseq", folder, tmp_path / "out2", subwords=["a", "b", "c"])
    with pytest.raises(ConfigError, match="subwords=nowhere: no such file"):
        import_checkpoint("fairseq", folder, tmp_path / "out2", subwords="nowhere")
    with pytest.raises(ConfigError, match="vocabulary: leave it out with format=fairseq"):
        import_checkpoint("fairseq", folder, tmp_path / "out2", vocabulary=named)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_weights_that_are_not_finite(value, texts, tmp_path) -> None:
    model = Fairseq(texts)
    model.state["decoder.layers.1.fc1.weight"][2, 3] = value
    with pytest.raises(
        DataError, match=r"checkpoint_best\.pt: decoder\.layers\.1\.fc1\.weight holds values that are not"
    ):
        import_checkpoint("fairseq", model.save(tmp_path / "fairseq"), tmp_path / "out")


def test_refuses_a_folder_without_its_files(texts, tmp_path) -> None:
    model = Fairseq(texts)
    folder = model.save(tmp_path / "fairseq")
    models = list(folder.glob("*.model"))
    models[0].rename(folder / "one.model")
    with pytest.raises(DataError, match=r"which of .*\? Give subwords=FILE or subwords=\[SOURCE,TARGET\]"):
        import_checkpoint("fairseq", folder, tmp_path / "out")
    for path in folder.glob("*.model"):
        path.unlink()
    with pytest.raises(DataError, match=r"no subwords here"):
        import_checkpoint("fairseq", folder, tmp_path / "out")
    (folder / "dict.en.txt").unlink()
    with pytest.raises(DataError, match=r"dict\.en\.txt: cannot be read"):
        import_checkpoint("fairseq", folder, tmp_path / "out")
    (folder / "checkpoint_best.pt").rename(folder / "a.pt")
    (folder / "b.pt").touch()
    with pytest.raises(DataError, match=r"2 checkpoints \(\*\.pt\) here; give path=FOLDER/FILE\.pt"):
        import_checkpoint("fairseq", folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="no such file or folder"):
        import_checkpoint("fairseq", tmp_path / "nowhere", tmp_path / "out")
