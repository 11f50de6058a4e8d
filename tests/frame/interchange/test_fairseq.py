"""Import of fairseq Transformers: files in its layout, and its forward pass written out from its documentation."""

from __future__ import annotations

import argparse
import io
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from nmt.config import ConfigError, DataError
from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.interchange.importing import import_checkpoint

BOS, PAD, EOS, UNK = range(4)  # fairseq's
SETTINGS: dict[str, Any] = {
    "arch": "transformer_iwslt_de_en",
    "source_lang": "en",
    "target_lang": "eo",
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_normalize_before": False,
    "decoder_normalize_before": False,
    "share_all_embeddings": False,
    "share_decoder_input_output_embed": True,
    "encoder_learned_pos": False,
    "decoder_learned_pos": False,
    "no_token_positional_embeddings": False,
    "no_scale_embedding": False,
    "activation_fn": "relu",
    "max_source_positions": 64,
    "max_target_positions": 60,
    "adaptive_softmax_cutoff": None,
    "layernorm_embedding": False,
}
DIM, FFN, LAYERS = 16, 24, {"encoder": 2, "decoder": 3}


def train_pieces(text: list[str], size: int) -> sentencepiece.SentencePieceProcessor:
    """A model with sentencepiece's own special ids: unk 0, bos 1, eos 2, no padding."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=writer, vocab_size=size, minloglevel=2
    )
    return sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())


class Fairseq:
    """A random model in fairseq's layout, and what fairseq computes with it."""

    def __init__(self, texts: tuple[list[str], list[str]], *, joint: bool = False, **settings: Any) -> None:
        self.settings = {**SETTINGS, "share_all_embeddings": joint, **settings}
        if joint:
            pieces = train_pieces(texts[0] + texts[1], 45)
            self.pieces = {"en": pieces, "eo": pieces}
        else:
            self.pieces = {lang: train_pieces(text, 30) for lang, text in zip(("en", "eo"), texts)}
        self.words: dict[str, list[str]] = {}
        self.absent: dict[str, str] = {}
        for lang, pieces in self.pieces.items():
            words = [pieces.id_to_piece(i) for i in range(3, len(pieces))]
            random.Random(5).shuffle(words)
            text = texts[0] + texts[1] if joint else texts[("en", "eo").index(lang)]
            seen = Counter(piece for line in text for piece in pieces.encode(line, out_type=str))
            self.absent[lang] = max(words, key=seen.__getitem__)
            words.remove(self.absent[lang])
            self.words[lang] = ["<s>", "<pad>", "</s>", "<unk>", *words, "<lang:x>", "madeupword0000"]
        self.state = dict(self._state())

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        torch.manual_seed(2)
        yield "encoder.version", torch.tensor([3.0])
        for side, lang in (("encoder", "en"), ("decoder", "eo")):
            if side == "encoder" or not self.settings["share_all_embeddings"]:
                words = torch.randn(len(self.words[lang]), DIM) * DIM**-0.5
                words[PAD] = 0
            yield f"{side}.embed_tokens.weight", words
            if self.settings[f"{side}_learned_pos"]:
                limit = self.settings["max_source_positions" if side == "encoder" else "max_target_positions"]
                yield f"{side}.embed_positions.weight", torch.randn(limit + PAD + 1, DIM) * 0.3
            else:
                yield f"{side}.embed_positions._float_tensor", torch.zeros(1)
            attentions = ["self_attn"] if side == "encoder" else ["self_attn", "encoder_attn"]
            for layer in range(LAYERS[side]):
                prefix = f"{side}.layers.{layer}"
                for attention in attentions:
                    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                        yield from self._linear(f"{prefix}.{attention}.{part}", DIM, DIM)
                yield from self._linear(f"{prefix}.fc1", FFN, DIM)
                yield from self._linear(f"{prefix}.fc2", DIM, FFN)
                for norm in [f"{attention}_layer_norm" for attention in attentions] + ["final_layer_norm"]:
                    yield from self._norm(f"{prefix}.{norm}")
            if self.settings[f"{side}_normalize_before"]:
                yield from self._norm(f"{side}.layer_norm")
        shared = self.settings["share_all_embeddings"] or self.settings["share_decoder_input_output_embed"]
        yield "decoder.output_projection.weight", words if shared else torch.randn(words.shape) * 0.4

    @staticmethod
    def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", torch.randn(rows, columns) * columns**-0.5
        yield f"{name}.bias", torch.randn(rows) * 0.2

    @staticmethod
    def _norm(name: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", 1 + torch.randn(DIM) * 0.2
        yield f"{name}.bias", torch.randn(DIM) * 0.2

    def save(self, folder: Path, *, form: str = "args", zipped: bool = True) -> Path:
        """Checkpoint, dictionaries and sentencepiece models."""
        folder.mkdir()
        namespace = argparse.Namespace(**self.settings)
        checkpoint: dict[str, Any] = {
            "args": {"args": namespace, "namespace": None, "omegaconf": None}[form],
            "cfg": {
                "args": None,
                "namespace": {"_name": None, "task": namespace, "model": namespace},
                "omegaconf": OmegaConf.create({"task": self.settings, "model": self.settings}),
            }[form],
            "model": self.state,
            "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
            "extra_state": {"path": Path("checkpoints"), "epoch": 3},
        }
        torch.save(checkpoint, folder / "checkpoint_best.pt", _use_new_zipfile_serialization=zipped)
        for lang, words in self.words.items():
            text = "".join(f"{word} {1000 - i}\n" for i, word in enumerate(words[4:]))
            (folder / f"dict.{lang}.txt").write_text(text, encoding="utf-8")
        if self.settings["share_all_embeddings"]:
            (folder / "sentencepiece.bpe.model").write_bytes(self.pieces["en"].serialized_model_proto())
        else:
            for lang, pieces in self.pieces.items():
                (folder / f"spm.{lang}.model").write_bytes(pieces.serialized_model_proto())
        return folder

    def rows(self, lang: str, line: str) -> list[int]:
        words = self.words[lang]
        pieces = self.pieces[lang].encode(line, out_type=str)
        return [words.index(piece) if piece in words else UNK for piece in pieces]

    # --- the forward pass ---

    def log_probs(self, source: list[int], prefix: list[int]) -> Tensor:
        """Log-probabilities after each of the tokens of ``prefix``, which starts with EOS."""
        memory = self._stack("encoder", torch.tensor([*source, EOS]), None)
        states = self._stack("decoder", torch.tensor(prefix), memory)
        return (states @ self.state["decoder.output_projection.weight"].T).log_softmax(-1)

    def _stack(self, side: str, tokens: Tensor, memory: Tensor | None) -> Tensor:
        scale = 1.0 if self.settings["no_scale_embedding"] else math.sqrt(DIM)
        x = scale * self.state[f"{side}.embed_tokens.weight"][tokens] + self._positions(side, len(tokens))
        for layer in range(LAYERS[side]):
            x = self._layer(side, f"{side}.layers.{layer}", x, memory)
        return self._normalise(f"{side}.layer_norm", x) if self.settings[f"{side}_normalize_before"] else x

    def _layer(self, side: str, prefix: str, x: Tensor, memory: Tensor | None) -> Tensor:
        heads = self.settings[f"{side}_attention_heads"]
        causal = side == "decoder"
        parts = {"self_attn": lambda y: self._attend(f"{prefix}.self_attn", y, y, heads, causal)}
        if memory is not None:
            parts["encoder_attn"] = lambda y: self._attend(f"{prefix}.encoder_attn", y, memory, heads, False)
        parts["final"] = lambda y: self._feed_forward(prefix, y)
        for part, function in parts.items():
            norm = f"{prefix}.{part}_layer_norm"
            if self.settings[f"{side}_normalize_before"]:
                x = x + function(self._normalise(norm, x))
            else:
                x = self._normalise(norm, x + function(x))
        return x

    def _positions(self, side: str, length: int) -> Tensor:
        if self.settings["no_token_positional_embeddings"]:
            return torch.zeros(length, DIM)
        if self.settings[f"{side}_learned_pos"]:
            return self.state[f"{side}.embed_positions.weight"][PAD + 1 : PAD + 1 + length]
        half = DIM // 2
        rows = []
        for position in range(PAD + 1, PAD + 1 + length):
            angles = [position * math.exp(-i * math.log(10000) / (half - 1)) for i in range(half)]
            rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        return torch.tensor(rows)

    def _apply(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def _normalise(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _feed_forward(self, prefix: str, x: Tensor) -> Tensor:
        function = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}[self.settings["activation_fn"]]
        return self._apply(f"{prefix}.fc2", function(self._apply(f"{prefix}.fc1", x)))

    def _attend(self, name: str, x: Tensor, memory: Tensor, heads: int, causal: bool) -> Tensor:
        q, k, v = (
            self._apply(f"{name}.{part}_proj", y).view(len(y), heads, -1).transpose(0, 1)
            for part, y in (("q", x), ("k", memory), ("v", memory))
        )
        weights = q @ k.transpose(1, 2) / math.sqrt(q.size(2))
        if causal:
            weights = weights + torch.full_like(weights, -torch.inf).triu(1)
        return self._apply(f"{name}.out_proj", (weights.softmax(-1) @ v).transpose(0, 1).flatten(1))


def check(
    model: Fairseq, folder: Path, out: Path, sources: list[str], references: list[str], **given: Any
) -> Translator:
    """Teacher-forced log-probabilities and greedy translations are fairseq's."""
    import_checkpoint("fairseq", folder, out, **given)
    ours = Translator.load(out, device="cpu")
    forced = ours.forced(sources, references)
    unknown = 0
    for source, reference, found in zip(sources, references, forced, strict=True):
        left, right = model.rows("en", source), model.rows("eo", reference)
        unknown += left.count(UNK)
        expected = model.log_probs(left, [EOS, *right])
        theirs = expected[range(len(right) + 1), [*right, EOS]].tolist()
        known = [i for i, row in enumerate([*right, EOS]) if row != UNK]
        assert [found.token_lprobs[i] for i in known] == pytest.approx([theirs[i] for i in known], abs=1e-4)
    options = SearchOptions(beam=1, max_length_ratio=0, max_length_offset=12)
    for source, (best,) in zip(sources, ours.hypotheses(sources, options), strict=True):
        words = [model.words["eo"][row] for row in greedy(model, model.rows("en", source), 12)]
        assert [ours.vocabularies.target.piece(i).rstrip("'") for i in best.ids] == words
    assert unknown > 0, "some piece of the source is no word of fairseq's"
    return ours


def greedy(model: Fairseq, source: list[int], limit: int) -> list[int]:
    prefix = [EOS]
    while len(prefix) <= limit:
        lprobs = model.log_probs(source, prefix)[-1]
        lprobs[PAD] = -torch.inf
        row = int(lprobs.argmax())
        if row == EOS:
            break
        prefix.append(row)
    return prefix[1:]


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
