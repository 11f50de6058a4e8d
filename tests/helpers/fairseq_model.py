"""A random model in fairseq's layout, and its forward pass written out from its documentation."""

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
        self.words: dict[str, list[str]] = {}
        self.absent: dict[str, str] = {}
        self.choose_words(texts)
        self.state = dict(self._state())

    def choose_words(self, texts: tuple[list[str], list[str]]) -> None:
        """Sub-words in an order of fairseq's own, but for one that it never saw."""
        joint = self.settings["share_all_embeddings"]
        if joint:
            pieces = train_pieces(texts[0] + texts[1], 45)
            self.pieces = {"en": pieces, "eo": pieces}
        else:
            self.pieces = {lang: train_pieces(text, 30) for lang, text in zip(("en", "eo"), texts)}
        for lang, pieces in self.pieces.items():
            words = [pieces.id_to_piece(i) for i in range(3, len(pieces))]
            random.Random(5).shuffle(words)
            text = texts[0] + texts[1] if joint else texts[("en", "eo").index(lang)]
            seen = Counter(piece for line in text for piece in pieces.encode(line, out_type=str))
            self.absent[lang] = max(words, key=seen.__getitem__)
            words.remove(self.absent[lang])
            self.words[lang] = ["<s>", "<pad>", "</s>", "<unk>", *words, "<lang:x>", "madeupword0000"]

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
        self.save_subwords(folder)
        return folder

    def save_subwords(self, folder: Path) -> None:
        if self.settings["share_all_embeddings"]:
            (folder / "sentencepiece.bpe.model").write_bytes(self.pieces["en"].serialized_model_proto())
        else:
            for lang, pieces in self.pieces.items():
                (folder / f"spm.{lang}.model").write_bytes(pieces.serialized_model_proto())

    def cut(self, lang: str, line: str) -> list[str]:
        pieces: list[str] = self.pieces[lang].encode(line, out_type=str)
        return pieces

    def rows(self, lang: str, line: str) -> list[int]:
        words = self.words[lang]
        return [words.index(piece) if piece in words else UNK for piece in self.cut(lang, line)]

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
    options = SearchOptions(beam=1, min_length=0, max_length_ratio=0, max_length_offset=12)
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
