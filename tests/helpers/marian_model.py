"""A random model in the layout of Marian, and its forward pass written out in numpy."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import yaml

DIM, FFN, HEADS = 16, 24, 4
DEPTH = {"encoder": 2, "decoder": 3}
EOS, UNK = 0, 1
SETTINGS: dict[str, Any] = {
    "bert-train-type-embeddings": True,
    "bert-type-vocab-size": 2,
    "dec-cell": "gru",
    "dec-cell-base-depth": 2,
    "dec-cell-high-depth": 1,
    "dec-depth": DEPTH["decoder"],
    "dim-emb": DIM,
    "dim-rnn": 1024,
    "enc-cell": "gru",
    "enc-cell-depth": 1,
    "enc-depth": DEPTH["encoder"],
    "enc-type": "bidirectional",
    "input-types": [],
    "layer-normalization": False,
    "lemma-dim-emb": 0,
    "output-omit-bias": False,
    "right-left": False,
    "skip": False,
    "special-vocab": [],
    "tied-embeddings": False,
    "tied-embeddings-all": True,
    "tied-embeddings-src": False,
    "transformer-aan-activation": "swish",
    "transformer-decoder-autoreg": "self-attention",
    "transformer-decoder-dim-ffn": 0,
    "transformer-decoder-ffn-depth": 0,
    "transformer-dim-ffn": FFN,
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": 2,
    "transformer-guided-alignment-layer": "last",
    "transformer-heads": HEADS,
    "transformer-no-projection": False,
    "transformer-pool": False,
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": "",
    "transformer-preprocess": "",
    "transformer-tied-layers": [],
    "transformer-train-position-embeddings": False,
    "type": "transformer",
    "ulr": False,
    "version": "v1.12.0 65bf82f 2023-02-21 09:56:29 -0800",
}
PRE = {"transformer-preprocess": "n", "transformer-postprocess": "da", "transformer-postprocess-top": "n"}
SSRU = {"transformer-decoder-autoreg": "rnn", "dec-cell": "ssru"}


def train_spm(text: list[str], size: int) -> bytes:
    """As marian trains ``vocab.spm``."""
    return _train_spm(tuple(text), size)


@cache
def _train_spm(text: tuple[str, ...], size: int) -> bytes:
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=writer,
        vocab_size=size,
        bos_id=-1,
        eos_id=EOS,
        unk_id=UNK,
        minloglevel=2,
    )
    return writer.getvalue()


class Marian:
    """A random model over vocabularies of two sizes, or of one where embeddings are tied."""

    def __init__(self, sizes: tuple[int, int], seed: int = 1, **settings: Any) -> None:
        self.settings = SETTINGS | {key.replace("_", "-"): value for key, value in settings.items()}
        self.sizes = dict(zip(("encoder", "decoder"), sizes))
        self.random = np.random.default_rng(seed)
        self.weights = dict(self._weights())

    def _weights(self) -> Iterator[tuple[str, np.ndarray]]:
        if self.settings["tied-embeddings-all"] or self.settings["tied-embeddings-src"]:
            yield "Wemb", self._draw(self.sizes["decoder"], DIM) / 2
        else:
            for side, size in self.sizes.items():
                yield f"{side}_Wemb", self._draw(size, DIM) / 2
        for side, depth in DEPTH.items():
            for layer in range(1, depth + 1):
                start = f"{side}_l{layer}"
                recurrent = side == "decoder" and self.settings["transformer-decoder-autoreg"] == "rnn"
                if recurrent:
                    yield f"{start}_rnn_W", self._draw(DIM, DIM)
                    yield f"{start}_rnn_Wf", self._draw(DIM, DIM)
                    yield f"{start}_rnn_bf", self._draw(1, DIM)
                    yield from self._norm(f"{start}_rnn" if self.pre else f"{start}_rnn_ffn")
                attentions = [] if recurrent else [f"{start}_self"]
                attentions += [f"{start}_context"] if side == "decoder" else []
                for attention in attentions:
                    for letter in "qkvo":
                        yield f"{attention}_W{letter}", self._draw(DIM, DIM)
                        yield f"{attention}_b{letter}", self._draw(1, DIM)
                    yield from self._norm(f"{attention}_Wo")
                yield f"{start}_ffn_W1", self._draw(DIM, FFN)
                yield f"{start}_ffn_b1", self._draw(1, FFN)
                yield f"{start}_ffn_W2", self._draw(FFN, DIM)
                yield f"{start}_ffn_b2", self._draw(1, DIM)
                yield from self._norm(f"{start}_ffn_ffn")
            if self.settings["transformer-postprocess-top"]:
                yield from self._norm(f"{side}_top", "")
        if not (self.settings["tied-embeddings"] or self.settings["tied-embeddings-all"]):
            yield "decoder_ff_logit_out_Wt", self._draw(self.sizes["decoder"], DIM) * 2
        if not self.settings["output-omit-bias"]:
            yield "decoder_ff_logit_out_b", self._draw(1, self.sizes["decoder"])

    @property
    def pre(self) -> bool:
        return self.settings["transformer-preprocess"] == "n"

    def _draw(self, rows: int, columns: int) -> np.ndarray:
        scale = 0.3 if rows == 1 else rows**-0.5
        return (self.random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def _norm(self, name: str, suffix: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
        suffix = ("_pre" if self.pre else "") if suffix is None else suffix
        yield f"{name}_ln_scale{suffix}", 1 + self._draw(1, DIM)
        yield f"{name}_ln_bias{suffix}", self._draw(1, DIM)

    def save(self, path: Path, **more: np.ndarray) -> Path:
        """As Marian writes ``model.npz``."""
        text = yaml.safe_dump(self.settings).encode() + b"\0"
        settings = {"special:model.yml": np.frombuffer(text, dtype=np.int8)}
        np.savez(path, **self.weights, **settings, **more)
        return path

    # --- the forward pass -------------------------------------------------------------------------------------------

    def log_probs(self, source: list[int], target: list[int]) -> np.ndarray:
        """Log-probabilities of the next word before and after each of ``target`` (len + 1, words)."""
        memory = self._stack("encoder", self._words("encoder")[[*source, EOS]], None)
        words = np.concatenate([np.zeros((1, DIM)), self._words("decoder")[target]])  # the first word follows zeros
        states = self._stack("decoder", words, memory)
        output = self.weights.get("decoder_ff_logit_out_Wt", self._words("decoder"))
        logits = states @ output.T + self.weights.get("decoder_ff_logit_out_b", 0.0)
        top = logits.max(-1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))

    def _words(self, side: str) -> np.ndarray:
        return self.weights.get(f"{side}_Wemb", self.weights.get("Wemb")).astype(np.float64)

    def _stack(self, side: str, words: np.ndarray, memory: np.ndarray | None) -> np.ndarray:
        x = math.sqrt(DIM) * words + positions(len(words))
        for layer in range(1, DEPTH[side] + 1):
            start = f"{side}_l{layer}"
            if side == "decoder" and self.settings["transformer-decoder-autoreg"] == "rnn":
                y = self._norm_of(f"{start}_rnn", x, "_pre") if self.pre else x
                y = x + self._recurrence(f"{start}_rnn", y)
                x = y if self.pre else self._norm_of(f"{start}_rnn_ffn", y)
            else:
                x = self._sublayer(
                    f"{start}_self_Wo", x, lambda y, s=start: self._attend(f"{s}_self", y, y, memory is not None)
                )
            if memory is not None:
                x = self._sublayer(
                    f"{start}_context_Wo", x, lambda y, s=start: self._attend(f"{s}_context", y, memory, False)
                )
            x = self._sublayer(f"{start}_ffn_ffn", x, lambda y, s=start: self._feed_forward(f"{s}_ffn", y))
        return self._norm_of(f"{side}_top", x) if self.settings["transformer-postprocess-top"] else x

    def _sublayer(self, norm: str, x: np.ndarray, function: Any) -> np.ndarray:
        if self.pre:
            return x + function(self._norm_of(norm, x, "_pre"))
        return self._norm_of(norm, x + function(x))

    def _norm_of(self, name: str, x: np.ndarray, suffix: str = "") -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self.weights[f"{name}_ln_scale{suffix}"] + self.weights[f"{name}_ln_bias{suffix}"]

    def _feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        inner = x @ self.weights[f"{name}_W1"] + self.weights[f"{name}_b1"]
        swish = self.settings["transformer-ffn-activation"] == "swish"
        inner = inner / (1 + np.exp(-inner)) if swish else np.maximum(inner, 0)
        return inner @ self.weights[f"{name}_W2"] + self.weights[f"{name}_b2"]

    def _attend(self, name: str, x: np.ndarray, keys: np.ndarray, causal: bool) -> np.ndarray:
        q, k, v = (
            (y @ self.weights[f"{name}_W{letter}"] + self.weights[f"{name}_b{letter}"]).reshape(len(y), HEADS, -1)
            for letter, y in (("q", x), ("k", keys), ("v", keys))
        )
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(DIM // HEADS)
        if causal:
            scores = scores + np.triu(np.full(scores.shape[1:], -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v).reshape(len(x), DIM)
        return mixed @ self.weights[f"{name}_Wo"] + self.weights[f"{name}_bo"]

    def _recurrence(self, name: str, x: np.ndarray) -> np.ndarray:
        forget = 1 / (1 + np.exp(-(x @ self.weights[f"{name}_Wf"] + self.weights[f"{name}_bf"])))
        candidate, cell, rows = x @ self.weights[f"{name}_W"], np.zeros(DIM), []
        for gate, new in zip(forget, candidate):
            cell = gate * cell + (1 - gate) * new
            rows.append(np.maximum(cell, 0))
        return np.stack(rows)


def positions(length: int) -> np.ndarray:
    """Sines, then cosines; the slowest has a wave of 10,000 positions."""
    half = DIM // 2
    rows = [[p * math.exp(-i * math.log(10000) / (half - 1)) for i in range(half)] for p in range(length)]
    return np.concatenate([np.sin(rows), np.cos(rows)], axis=1)
