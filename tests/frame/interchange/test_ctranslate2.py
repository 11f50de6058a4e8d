"""Exports to CTranslate2: its engine is the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.interchange.export import export_checkpoint
from nmt.text.vocabulary import VocabularyPair

ctranslate2 = pytest.importorskip("ctranslate2")

LIMIT = 60
"""Longest translation; what reaches it is not compared, since both cut it off in their own ways."""

POST = ["encoder.layer.norm_position=post", "decoder.layer.norm_position=post"]
VARIANTS = {
    "pre-norm 2+2": [],
    "post-norm 2+2": POST,
    "pre-norm 3+1": ["encoder.layers=3", "decoder.layers=1"],
    "post-norm 1+3": [*POST, "encoder.layers=1", "decoder.layers=3"],
    "untied": ["embedding.share=none", "output.bias=true"],
    "sides differ": ["encoder.layer.norm_position=post", "encoder.num_heads=4", "encoder.feed_forward.activation=gelu"],
    "widths differ": ["encoder.embed_dim=48", "embedding.share=decoder"],
    "learned positions": ["embedding.positions=learned", "embedding.share=decoder"],
    "no positions, no scale": ["embedding.positions=none", "embedding.scale=false"],
    "no biases": [
        *(f"{side}.self_attention.bias=false" for side in ("encoder", "decoder")),
        *("decoder.cross_attention.bias=false", "encoder.feed_forward.bias=false"),
    ],
    "rms_norm": ["norm.name=rms_norm", "norm.eps=0.01"],
    "eps": ["norm.eps=0.01"],
    **{
        name: [f"encoder.feed_forward.activation={name}", f"decoder.feed_forward.activation={name}"]
        for name in ("gelu", "silu", "glu", "reglu", "geglu", "swiglu")
    },
}

SAME_SEARCH = {"patience": 1, "suppress_sequences": [["<pad>"], ["<s>"]]}
"""Under these both searches follow the same rules: docs/interchange.md."""


def exported(checkpoint: Path) -> tuple[Translator, ctranslate2.Translator]:
    out = checkpoint.parent / "exported"
    export_checkpoint(checkpoint, "ctranslate2", out)
    ours = Translator.load(checkpoint, device="cpu")
    assert {path.name for path in out.iterdir()} >= {*ours.vocabularies.files, "model.bin", "config.json"}
    assert VocabularyPair.load(out).digest == ours.vocabularies.digest
    return ours, ctranslate2.Translator(str(out), device="cpu", intra_threads=1)


def check_scores(checkpoint: Path, sources: list[str], references: list[str]) -> None:
    """Log-probabilities of given targets, padded batch."""
    ours, theirs = exported(checkpoint)
    left = [ours.vocabularies.source.pieces(line) for line in sources]
    right = [ours.vocabularies.target.pieces(line) for line in references]
    for hypothesis, scored in zip(ours.forced(sources, references), theirs.score_batch(left, right), strict=True):
        assert hypothesis.token_lprobs == pytest.approx(scored.log_probs, abs=1e-4)


def check_beam(checkpoint: Path, sources: list[str], length_penalty: float) -> None:
    """Beam output, padded batch."""
    ours, theirs = exported(checkpoint)
    options = SearchOptions(beam=4, length_penalty=length_penalty, max_length_ratio=0, max_length_offset=LIMIT)
    left = [ours.vocabularies.source.pieces(line) for line in sources]
    found = theirs.translate_batch(
        left, beam_size=4, length_penalty=length_penalty, max_decoding_length=LIMIT, return_scores=True, **SAME_SEARCH
    )
    lengths = []
    for (best,), result in zip(ours.hypotheses(sources, options), found, strict=True):
        if max(len(best.ids), len(result.hypotheses[0])) < LIMIT:
            assert ours.pieces(best) == result.hypotheses[0]
            lengths.append(len(best.ids))
    assert len(set(lengths)) > 3


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_random_model_scores_alike(overrides, write_checkpoint, sources, references) -> None:
    check_scores(write_checkpoint(*overrides), sources, references)


def test_two_vocabularies(write_checkpoint, two_vocabularies, sources, references) -> None:
    checkpoint = write_checkpoint("embedding.share=decoder", vocabularies=two_vocabularies)
    check_scores(checkpoint, sources, references)


def test_trained_model_scores_alike(golden, tmp_path, sources, references) -> None:
    (tmp_path / "checkpoint").symlink_to(golden)
    check_scores(tmp_path / "checkpoint", sources, references)


@pytest.mark.parametrize("length_penalty", [0.6, 1.0])
def test_trained_model_translates_alike(length_penalty, golden, tmp_path, sources) -> None:
    (tmp_path / "checkpoint").symlink_to(golden)
    check_beam(tmp_path / "checkpoint", sources, length_penalty)


def test_rules_forbid_the_same(golden, tmp_path, sources) -> None:
    """In greedy search: in a beam it matters that CTranslate2 renormalises what is left."""
    (tmp_path / "checkpoint").symlink_to(golden)
    ours, theirs = exported(tmp_path / "checkpoint")
    left = [ours.vocabularies.source.pieces(line) for line in sources]
    rules = {"no_repeat_ngram_size": 2, "min_decoding_length": 8}
    found = theirs.translate_batch(left, beam_size=1, max_decoding_length=LIMIT, **SAME_SEARCH, **rules)
    lengths = {"max_length_ratio": 0, "max_length_offset": LIMIT, "min_length": 8}
    best = ours.hypotheses(sources, SearchOptions(beam=1, no_repeat_ngram=2, **lengths))
    assert [ours.pieces(h) for (h,) in best] == [result.hypotheses[0] for result in found]
    free = ours.hypotheses(sources, SearchOptions(beam=1, **lengths))
    assert best != free != ours.hypotheses(sources, SearchOptions(beam=1, **{**lengths, "min_length": 1}))


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


def test_shared_matrices_are_written_once(write_checkpoint, tmp_path) -> None:
    sizes = []
    for share in ("all", "none"):
        checkpoint = write_checkpoint(f"embedding.share={share}")
        out = tmp_path / share
        export_checkpoint(checkpoint, "ctranslate2", out)
        sizes.append((out / "model.bin").stat().st_size)
    model = Translator.load(checkpoint, device="cpu").models[0]
    assert sizes[1] - sizes[0] == pytest.approx(2 * model.embedding.source.words.weight.numel() * 4, abs=200)


def test_without_ctranslate2(monkeypatch, write_checkpoint, tmp_path) -> None:
    import sys

    from nmt.config import ConfigError

    monkeypatch.setitem(sys.modules, "ctranslate2.specs", None)
    with pytest.raises(ConfigError, match=r"needs the package ctranslate2: pip install 'nmt\[peers\]'"):
        export_checkpoint(write_checkpoint(), "ctranslate2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bfloat16_checkpoint_is_written_in_float32(write_checkpoint, sources, references) -> None:
    from safetensors.torch import load_file, save_file

    from nmt.checkpoints.checksums import SUMS_FILE, write_sums

    checkpoint = write_checkpoint()
    file = checkpoint / "model.safetensors"
    save_file({name: t.to(torch.bfloat16).float() for name, t in load_file(file).items()}, file)
    write_sums(checkpoint / SUMS_FILE)
    check_scores(checkpoint, sources, references)
