"""Import of Hugging Face Marian folders: transformers' own model is the reference."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nmt.checkpoints.checkpoint import load_model
from nmt.config import ConfigError, DataError
from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.interchange.export import export_checkpoint
from nmt.interchange.importing import import_checkpoint
from nmt.models.tensors import model_tensors

transformers = pytest.importorskip("transformers")

DIM, POSITIONS = 32, 80
FC1, NORM = "model.encoder.layers.1.fc1.weight", "model.decoder.layers.0.final_layer_norm.weight"


def train_pieces(text: list[str], size: int) -> bytes:
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=writer, vocab_size=size, minloglevel=2
    )
    return writer.getvalue()


def pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(3, len(processor))]


def write_opus(folder: Path, texts: tuple[list[str], list[str]], *, binary: bool = False, **changes: Any) -> Path:
    """A random model as OPUS-MT's are: two sentencepiece models, one list of words in an order of its own."""
    folder.mkdir()
    models = [train_pieces(text, 30) for text in texts]
    for side, model in zip(("source", "target"), models):
        (folder / f"{side}.spm").write_bytes(model)
    words = sorted({piece for model in models for piece in pieces_of(model)})
    processor = sentencepiece.SentencePieceProcessor(model_proto=models[0])
    seen = Counter(piece for line in texts[0] for piece in processor.encode(line, out_type=str))
    words.remove(max(words, key=seen.__getitem__))  # the list was made from other text than the sentencepiece model
    random.Random(1).shuffle(words)
    words = ["</s>", "<unk>", *words, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    languages = {"source_lang": "en", "target_lang": "eo", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(languages), encoding="utf-8")
    size = len(words)
    values = {
        "vocab_size": size,
        "d_model": DIM,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": POSITIONS,
        "activation_function": "swish",
        "scale_embedding": True,
        "pad_token_id": size - 1,
        "eos_token_id": 0,
        "decoder_start_token_id": size - 1,
        "forced_eos_token_id": None,
        "init_std": 0.3,
        **changes,
    }
    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.MarianConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.final_logits_bias.normal_()
        model.final_logits_bias[0, 0] += 3  # sentences end
    model.generation_config.bad_words_ids = [[size - 1]]
    model.save_pretrained(folder)
    if binary:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def check(folder: Path, out: Path, sources: list[str], references: list[str]) -> Translator:
    """Log-probabilities of given targets, and beams, through their own tokeniser."""
    import_checkpoint("hf", folder, out)
    ours = Translator.load(out, device="cpu")
    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    batch = tokenizer(sources, text_target=references, return_tensors="pt", padding=True)
    with torch.no_grad():
        lprobs = model(**batch).logits.log_softmax(-1)
    for found, labels, row in zip(ours.forced(sources, references), batch.labels, lprobs, strict=True):
        real = [i for i, label in enumerate(labels.tolist()) if label != model.config.pad_token_id]
        known = [i for i in real if labels[i] != tokenizer.unk_token_id]
        theirs = [row[i, labels[i]].item() for i in known]
        assert len(found.token_lprobs) == len(real)
        assert [found.token_lprobs[i] for i in known] == pytest.approx(theirs, abs=1e-4)
    assert (batch.input_ids == tokenizer.unk_token_id).any(), "some piece of the source is no word"
    del batch["labels"]
    options = {"length_penalty": 1.0, "early_stopping": True, "output_scores": True, "return_dict_in_generate": True}
    found = model.generate(**batch, num_beams=4, max_length=62, **options)
    search = SearchOptions(beam=4, min_length=0, max_length_ratio=0, max_length_offset=60)
    special = tokenizer.convert_tokens_to_ids(["<pad>", "</s>"])
    compared = 0
    results = zip(ours.hypotheses(sources, search), found.sequences.tolist(), found.sequences_scores, strict=True)
    for (best,), rows, score in results:
        words = tokenizer.convert_ids_to_tokens([row for row in rows if row not in special])
        if max(len(best.ids), len(words)) < 60:  # both cut off what is longer, in their own ways
            assert ours.pieces(best) == words
            assert best.score == pytest.approx(score.item(), abs=1e-4)
            compared += 1
    assert compared > 2
    return ours


VARIANTS: dict[str, dict[str, Any]] = {
    "as OPUS-MT": {},
    "pytorch_model.bin": {"binary": True},
    "gelu, no scale": {"activation_function": "gelu", "scale_embedding": False},
    "own output": {"tie_word_embeddings": False},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_computes_what_transformers_does(changes, texts, tmp_path, sources, references) -> None:
    folder = write_opus(tmp_path / "opus", texts, **changes)
    ours = check(folder, tmp_path / "out", sources, references)
    assert not ours.vocabularies.joint
    assert load_model(tmp_path / "out").config.model.embedding.positions == "sinusoidal"


@pytest.mark.parametrize("share", ["all", "decoder", "none"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_export_and_import_give_the_model_back(share, positions, write_checkpoint, tmp_path) -> None:
    norms = [f"{side}.layer.norm_position=post" for side in ("encoder", "decoder")]
    checkpoint = write_checkpoint(*norms, f"embedding.share={share}", f"embedding.positions={positions}")
    export_checkpoint(checkpoint, "hf", tmp_path / "hf")
    import_checkpoint("hf", tmp_path / "hf", tmp_path / "back")
    before, after = load_model(checkpoint), load_model(tmp_path / "back")
    assert before.vocabularies.digest == after.vocabularies.digest
    assert {**before.config.model.embedding, "scale": True} == after.config.model.embedding
    old, new = (dict(model_tensors(loaded.model)) for loaded in (before, after))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def change_json(name: str, **values: Any) -> Any:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, **values}), encoding="utf-8")

    return change


def change_tensors(change: Any) -> Any:
    def apply(folder: Path) -> None:
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_json("config.json", model_type="t5"), "model_type='t5'; only marian can be imported"),
        (change_json("config.json", activation_function="gelu_new"), "activation_function='gelu_new'; only relu"),
        (change_json("config.json", normalize_embedding=True), "normalize_embedding=True is not supported"),
        (change_json("config.json", encoder_attention_heads=5), "encoder_attention_heads=5 does not divide the width"),
        (change_json("config.json", encoder_attention_heads="4"), "encoder_attention_heads='4' must be a whole number"),
        (change_json("config.json", encoder_layers=3), "encoder_layers=3, but the weights have 2"),
        (change_json("config.json", max_position_embeddings=1 << 40), "max_position_embeddings=.* is out of range"),
        (change_json("config.json", pad_token_id=10_000), "a special word's number is not below"),
        (change_json("config.json", scale_embedding="no"), "scale_embedding='no' must be true or false"),
        (change_json("vocab.json", **{">>fr<<": 5}), "must be different whole numbers below"),
        (change_json("vocab.json", a=1 << 40), "must be different whole numbers below"),
        (lambda f: (f / "vocab.json").write_text("[]"), "vocab.json: not a JSON object"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda f: (f / "vocab.json").unlink(), "vocab.json: cannot be read"),
        (lambda f: (f / "source.spm").write_bytes(b"hello"), "source.spm: not a sentencepiece model"),
        (lambda f: (f / "target.spm").unlink(), "target.spm: cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "truncated or not a safetensors file"),
        (change_tensors(lambda t: t.pop("model.encoder.layers.1.fc2.bias")), "layers.1.fc2.bias is missing"),
        (change_tensors(lambda t: t.pop("model.shared.weight")), "embed_tokens.weight is missing"),
        (change_tensors(lambda t: t.update({FC1: torch.ones(())})), "has 0 dimensions; a Transformer has"),
        (change_tensors(lambda t: t.update({FC1: torch.ones(40, 5)})), "inner.weight has shape"),
        (change_tensors(lambda t: t.update({NORM: torch.ones(5)})), "norm.weight has shape"),
        (change_tensors(lambda t: t.update({NORM: torch.ones(99)})), "norm.weight has shape"),
        (change_tensors(lambda t: t.update(final_logits_bias=torch.ones(1, 5))), "bias has another length"),
        (change_tensors(lambda t: t.update(extra=torch.ones(2))), "extra has no place in a Marian model"),
    ],
)
def test_refuses(change, message, texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    change(folder)
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint("hf", folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_refuses_several_target_languages(texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    words[">>fr<<"] = words.pop(next(word for word in words if word.startswith("▁")))
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    with pytest.raises(DataError, match=r"several target languages \(>>fr<<\)"):
        import_checkpoint("hf", folder, tmp_path / "out")


def test_refuses_a_missing_folder(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        import_checkpoint("hf", tmp_path / "nowhere", tmp_path / "out")


def test_refuses_weights_that_are_not_finite(texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    tensors = load_file(folder / "model.safetensors")
    tensors[FC1][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"model\.safetensors: {FC1} holds values that are not finite"):
        import_checkpoint("hf", folder, tmp_path / "out")


def test_refuses_files_that_have_fixed_names(texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    with pytest.raises(ConfigError, match="subwords: leave it out with format=hf"):
        import_checkpoint("hf", folder, tmp_path / "out", subwords=str(folder / "source.spm"))


GENERATION = {"num_beams": 6, "length_penalty": 0.6, "max_length": 50, "min_length": 4, "no_repeat_ngram_size": 3}
CARRIED = {
    "beam": 6,
    "length_penalty": 0.6,
    "max_length_ratio": 0.0,
    "max_length_offset": 48,
    "min_length": 3,
    "no_repeat_ngram": 3,
}


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_the_search_of_the_folder_is_carried(name, texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    (folder / "generation_config.json").unlink()
    values = json.loads((folder / name).read_text()) if name == "config.json" else {}
    (folder / name).write_text(json.dumps({**values, **GENERATION}))
    import_checkpoint("hf", folder, tmp_path / "out")
    assert load_model(tmp_path / "out").config.search == CARRIED


def test_lengths_of_new_tokens_come_first(texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    (folder / "generation_config.json").write_text(json.dumps({**GENERATION, "min_new_tokens": 5, "max_new_tokens": 9}))
    import_checkpoint("hf", folder, tmp_path / "out")
    search = load_model(tmp_path / "out").config.search
    assert (search.min_length, search.max_length_offset) == (5, 8)


def test_lengths_that_the_positions_do_not_have(texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    (folder / "generation_config.json").write_text(json.dumps({"max_length": 10**12}))
    import_checkpoint("hf", folder, tmp_path / "out")
    assert load_model(tmp_path / "out").config.search.max_length_offset == POSITIONS - 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beams": "many"}, r"generation_config\.json: num_beams='many' must be a number"),
        ({"num_beams": True}, r"num_beams=True must be a number"),
        ({"num_beams": 2.5}, r"num_beams=2\.5 must be a number"),
        ({"length_penalty": [1]}, r"length_penalty=\[1\] must be a number"),
        ({"num_beams": 0}, r"its search cannot be carried: search\.beam=0"),
    ],
)
def test_refuses_a_search_that_cannot_be(values, message, texts, tmp_path) -> None:
    folder = write_opus(tmp_path / "opus", texts)
    (folder / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        import_checkpoint("hf", folder, tmp_path / "out")
