"""Exports to Hugging Face transformers: its classes are the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from nmt.checkpoints.checkpoint import load_model
from nmt.data.batch import pad_rows
from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.interchange.export import export_checkpoint
from nmt.models.encoder_decoder import full_log_probs
from nmt.text.vocabulary import BOS, EOS, PAD

transformers = pytest.importorskip("transformers")

LIMIT = 60
"""Longest translation; what reaches it is not compared, since both cut it off in their own ways."""

POST = ["encoder.layer.norm_position=post", "decoder.layer.norm_position=post"]
VARIANTS = {
    "pre-norm 2+2": [],
    "post-norm 2+2": POST,
    "pre-norm 3+1": ["encoder.layers=3", "decoder.layers=1"],
    "post-norm 1+3": [*POST, "encoder.layers=1", "decoder.layers=3"],
    "heads and inner widths differ": ["encoder.num_heads=4", "decoder.feed_forward.ffn_dim=40"],
    "no biases": ["encoder.self_attention.bias=false", "decoder.cross_attention.bias=false"],
    "no scale": ["embedding.scale=false"],
    "gelu": ["encoder.feed_forward.activation=gelu", "decoder.feed_forward.activation=gelu"],
    "silu": [*POST, "encoder.feed_forward.activation=silu", "decoder.feed_forward.activation=silu"],
    "output bias": ["output.bias=true"],
    **{
        f"{norm}-norm, {positions} positions, share {share}": [
            *(POST if norm == "post" else []),
            *(f"embedding.positions={positions}", f"embedding.share={share}"),
        ]
        for norm, positions, share in (
            *(("pre", "learned", "decoder"), ("pre", "none", "none"), ("pre", "sinusoidal", "decoder")),
            *(("post", "learned", "none"), ("post", "none", "all"), ("post", "sinusoidal", "decoder")),
        )
    },
}


def exported(checkpoint: Path) -> tuple[Any, Any]:
    """The model and the tokeniser that the library makes of the folder, with nothing left to guess."""
    out = checkpoint.parent / "exported"
    export_checkpoint(checkpoint, "hf", out)
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval(), transformers.AutoTokenizer.from_pretrained(out)


def their_log_probs(model: Any, src_tokens: Tensor, prev_output_tokens: Tensor) -> Tensor:
    with torch.no_grad():
        mask = src_tokens.ne(PAD).long()
        logits = model(input_ids=src_tokens, attention_mask=mask, decoder_input_ids=prev_output_tokens).logits
    return logits.log_softmax(-1)


def check_scores(checkpoint: Path, sources: list[str], references: list[str]) -> None:
    """Log-probabilities of every word at every position, padded batch."""
    loaded = load_model(checkpoint)
    src_tokens = pad_rows(loaded.vocabularies.source.encode_batch(sources), last=EOS)
    targets = loaded.vocabularies.target.encode_batch(references)
    prev_output_tokens = pad_rows(targets, first=BOS)
    model, _ = exported(checkpoint)
    theirs = their_log_probs(model, src_tokens, prev_output_tokens)
    with torch.no_grad():
        ours = full_log_probs(loaded.model, src_tokens, prev_output_tokens)
    real = pad_rows(targets, last=EOS).ne(PAD)
    assert_close(theirs[real][:, : ours.size(2)], ours[real], rtol=0, atol=1e-4)
    assert theirs[real][:, ours.size(2) :].exp().sum() == 0


def check_beam(checkpoint: Path, sources: list[str], length_penalty: float) -> None:
    """Beam output, padded batch."""
    ours = Translator.load(checkpoint, device="cpu")
    options = SearchOptions(beam=4, length_penalty=length_penalty, max_length_ratio=0, max_length_offset=LIMIT)
    model, tokenizer = exported(checkpoint)
    found = model.generate(
        **tokenizer(sources, return_tensors="pt", padding=True),
        num_beams=4,
        length_penalty=length_penalty,
        max_length=LIMIT + 2,  # with the start and the end
        output_scores=True,
        return_dict_in_generate=True,
    )
    lengths = []
    results = zip(ours.hypotheses(sources, options), found.sequences, found.sequences_scores, strict=True)
    for (best,), tokens, score in results:
        theirs = [i for i in tokens.tolist() if i not in (PAD, BOS, EOS)]
        if max(len(best.ids), len(theirs)) < LIMIT:
            assert best.ids == theirs
            assert best.score == pytest.approx(score.item(), abs=1e-4)
            lengths.append(len(best.ids))
    assert len(set(lengths)) > 3


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_random_model_scores_alike(overrides, write_checkpoint, sources, references) -> None:
    check_scores(write_checkpoint(*overrides), sources, references)


@pytest.mark.parametrize("share", ["decoder", "none"])
@pytest.mark.parametrize("norms", [[], POST], ids=["pre-norm", "post-norm"])
def test_two_vocabularies(share, norms, write_checkpoint, two_vocabularies, sources, references) -> None:
    checkpoint = write_checkpoint(f"embedding.share={share}", *norms, vocabularies=two_vocabularies)
    check_scores(checkpoint, sources, references)


def test_trained_model_scores_alike(golden, tmp_path, sources, references) -> None:
    (tmp_path / "checkpoint").symlink_to(golden)
    check_scores(tmp_path / "checkpoint", sources, references)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_trained_model_translates_alike(length_penalty, golden, tmp_path, sources) -> None:
    (tmp_path / "checkpoint").symlink_to(golden)
    check_beam(tmp_path / "checkpoint", sources, length_penalty)


def test_defaults_are_those_of_our_command(golden, tmp_path, sources) -> None:
    """Without a single argument: the stored generation settings are nmt-generate's."""
    (tmp_path / "checkpoint").symlink_to(golden)
    model, tokenizer = exported(tmp_path / "checkpoint")
    found = model.generate(**tokenizer(sources, return_tensors="pt", padding=True))
    ours = Translator.load(golden, device="cpu").translate(sources)
    assert tokenizer.batch_decode(found, skip_special_tokens=True) == ours


def test_defaults_of_the_checkpoint_are_exported(golden, tmp_path, sources, copy_checkpoint, caplog) -> None:
    carried = {"beam": 2, "length_penalty": 0.3, "min_length": 8, "no_repeat_ngram": 2, "length_norm": "gnmt"}
    checkpoint = copy_checkpoint(golden, tmp_path / "checkpoint", **carried)
    model, tokenizer = exported(checkpoint)
    found = model.generate(**tokenizer(sources, return_tensors="pt", padding=True))
    translator = Translator.load(checkpoint, device="cpu")
    ours = translator.translate(sources, length_norm="power")
    assert tokenizer.batch_decode(found, skip_special_tokens=True) == ours
    assert ours != translator.translate(sources, length_norm="power", no_repeat_ngram=0)
    [warning] = [r.getMessage() for r in caplog.records if r.name.startswith("nmt")]
    assert warning == "generation_config.json cannot hold search.length_norm=gnmt, a default of the checkpoint"


@pytest.mark.parametrize(
    ("norm", "layers", "ends", "seed"),
    [("pre", (2, 2), 2, 3), ("post", (2, 2), 3, 4), ("pre", (3, 1), 2, 0), ("post", (3, 1), 4, 5)],
)
def test_random_model_translates_alike(norm, layers, ends, seed, write_checkpoint, sources) -> None:
    shape = [f"encoder.layers={layers[0]}", f"decoder.layers={layers[1]}", "embedding.share=none", "output.bias=true"]
    norms = [f"{side}.layer.norm_position={norm}" for side in ("encoder", "decoder")]
    check_beam(write_checkpoint(*shape, *norms, ends=ends, seed=seed), sources, 1.0)


def test_trained_post_norm_model(train, tmp_path) -> None:
    """Briefly trained here: 3+1 layers, post-norm, to copy digits."""
    options = [f"model.{side}.layer.norm_position=post" for side in ("encoder", "decoder")]
    options += ["model.encoder.layers=3", "model.decoder.layers=1", "train.max_updates=60"]
    train(f"run={tmp_path}/checkpoint", *options)
    check_scores(tmp_path / "checkpoint", ["1 2 3 4 5", "7", "9 0 9 0"], ["1 2 3 4 5", "7 7", "9 0 9 0"])


@pytest.mark.parametrize("joint", [True, False])
def test_tokenizer_round_trip(joint, write_checkpoint, two_vocabularies, sources, references) -> None:
    pair = None if joint else two_vocabularies
    checkpoint = write_checkpoint("embedding.share=decoder", vocabularies=pair)
    _, tokenizer = exported(checkpoint)
    assert type(tokenizer).__name__ == "MarianTokenizer"
    vocabularies = load_model(checkpoint).vocabularies
    odd = ["«the»  house…", "ünknown ʘ", ""]
    rows = tokenizer(sources + odd, text_target=references + odd)
    assert rows.input_ids == [[*ids, EOS] for ids in vocabularies.source.encode_batch(sources + odd)]
    assert rows.labels == [[*ids, EOS] for ids in vocabularies.target.encode_batch(references + odd)]
    back = tokenizer.batch_decode(rows.labels[: len(references)], skip_special_tokens=True)
    assert back == vocabularies.target.decode_batch(rows.labels[: len(references)])


@pytest.mark.parametrize("norms", [[], POST], ids=["pre-norm", "post-norm"])
def test_saving_again_keeps_the_function(norms, write_checkpoint, tmp_path) -> None:
    """The library leaves tables out that it takes for computable: they must be."""
    model, _ = exported(write_checkpoint(*norms))
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again").eval()
    tokens = torch.randint(4, 40, (3, 9))
    assert_close(their_log_probs(again, tokens, tokens), their_log_probs(model, tokens, tokens), rtol=0, atol=1e-5)
