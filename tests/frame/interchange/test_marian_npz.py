"""Import of Marian's own models: a forward pass in numpy and CTranslate2's converter are the references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from marian_model import DIM, EOS, PRE, SSRU, UNK, Marian, positions, train_spm

from nmt.checkpoints.checkpoint import Checkpoint
from nmt.config import ConfigError, DataError
from nmt.generation.options import SearchOptions
from nmt.generation.translator import Translator
from nmt.interchange.importing import import_checkpoint
from nmt.interchange.marian_words import read_words

SIZE = 45


class Files:
    """Sub-words of one kind beside a model."""

    def __init__(self, texts: tuple[list[str], list[str]], kind: str) -> None:
        self.kind = kind
        joint = train_spm(texts[0] + texts[1], SIZE)
        self.models = [joint, joint] if kind != "two spm" else [train_spm(text, 27 + i) for i, text in enumerate(texts)]
        self.processors = [sentencepiece.SentencePieceProcessor(model_proto=model) for model in self.models]
        pieces = [[p.id_to_piece(i) for i in range(len(p))] for p in self.processors]
        if kind == "yml":  # words in an order of their own, two more than pieces
            order = np.random.default_rng(3).permutation(range(2, len(pieces[0]))).tolist()
            words = ["</s>", "<unk>", *(pieces[0][i] for i in order), "extra", "▁'odd\" word"]
            pieces = [words, words]
        self.words = pieces
        self.sizes = len(pieces[0]), len(pieces[1])

    def save(self, folder: Path) -> None:
        if self.kind == "spm":
            (folder / "vocab.spm").write_bytes(self.models[0])
        elif self.kind == "two spm":
            for name, model in zip(("vocab.source.spm", "vocab.target.spm"), self.models):
                (folder / name).write_bytes(model)
        else:
            lines = [f"{quoted(word)}: {row}\n" for row, word in enumerate(self.words[0])]
            (folder / "corpus.vocab.yml").write_text("".join(lines), encoding="utf-8")
            for name in ("source.spm", "target.spm"):
                (folder / name).write_bytes(self.models[0])

    def rows(self, side: int, line: str) -> list[int]:
        pieces = self.processors[side].encode(line, out_type=str)
        return [self.words[side].index(piece) if piece in self.words[side] else UNK for piece in pieces]


def quoted(word: str) -> str:
    """As yaml-cpp writes it: in quotes where a character means something."""
    if word.replace("▁", "").isalnum():
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write(folder: Path, texts: Any, kind: str = "spm", **settings: Any) -> tuple[Marian, Files]:
    folder.mkdir()
    files = Files(texts, kind)
    files.save(folder)
    model = Marian(files.sizes, **settings)
    model.save(folder / "model.npz")
    return model, files


def check(
    folder: Path, model: Marian, files: Files, out: Path, sources: list[str], references: list[str]
) -> Translator:
    """Log-probabilities of given targets, and greedy translations."""
    import_checkpoint("marian", folder, out)
    ours = Translator.load(out, device="cpu")
    for source, reference, found in zip(sources, references, ours.forced(sources, references), strict=True):
        left, right = files.rows(0, source), files.rows(1, reference)
        expected = model.log_probs(left, right)[range(len(right) + 1), [*right, EOS]]
        assert found.token_lprobs == pytest.approx(expected.tolist(), abs=1e-4)
    options = SearchOptions(beam=1, max_length_ratio=0, max_length_offset=12, min_length=1)
    for source, (best,) in zip(sources, ours.hypotheses(sources, options), strict=True):
        expected = [files.words[1][row] for row in greedy(model, files.rows(0, source), 12)]
        assert [ours.vocabularies.target.piece(i) for i in best.ids] == expected
    return ours


def greedy(model: Marian, source: list[int], limit: int) -> list[int]:
    found: list[int] = []
    while len(found) < limit:
        lprobs = model.log_probs(source, found)[-1]
        lprobs[EOS] = lprobs[EOS] if found else -np.inf
        row = int(lprobs.argmax())
        if row == EOS:
            break
        found.append(row)
    return found


UNTIED = {"tied-embeddings-all": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm": PRE,
    "swish, no output bias": {"transformer-ffn-activation": "swish", "output-omit-bias": True},
    "SSRU": SSRU,
    "SSRU, pre-norm": {**SSRU, **PRE},
    "two vocabularies": {**UNTIED, "tied-embeddings": True, "kind": "two spm"},
    "nothing tied": {**UNTIED, "kind": "two spm"},
    "source and target tied": {**UNTIED, "tied-embeddings-src": True},
    "list of words": {"kind": "yml"},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_computes_what_marian_does(settings, texts, tmp_path, sources, references) -> None:
    model, files = write(tmp_path / "marian", texts, **settings)
    ours = check(tmp_path / "marian", model, files, tmp_path / "out", sources, references)
    assert ours.vocabularies.joint == ("kind" not in settings or settings["kind"] == "yml")


def test_an_output_matrix_as_old_versions_wrote_it(texts, tmp_path, sources, references) -> None:
    model, files = write(tmp_path / "marian", texts, kind="two spm", **UNTIED)
    old, model.weights = model.weights, dict(model.weights)
    model.weights["decoder_ff_logit_out_W"] = model.weights.pop("decoder_ff_logit_out_Wt").T.copy()
    model.save(tmp_path / "marian" / "model.npz")
    model.weights = old
    check(tmp_path / "marian", model, files, tmp_path / "out", sources, references)


def test_half_precision(texts, tmp_path, sources, references) -> None:
    model, files = write(tmp_path / "marian", texts)
    model.weights = {name: weight.astype(np.float16) for name, weight in model.weights.items()}
    model.save(tmp_path / "marian" / "model.npz")
    model.weights = {name: weight.astype(np.float32) for name, weight in model.weights.items()}
    check(tmp_path / "marian", model, files, tmp_path / "out", sources, references)


@pytest.mark.parametrize("settings", [{}, PRE, {**UNTIED, "tied-embeddings": True}], ids=["post", "pre", "target tied"])
def test_computes_what_the_converter_of_ctranslate2_does(settings, texts, tmp_path, sources, references) -> None:
    """It takes the paper's frequencies where Marian's table is not stored, so a copy that stores it is converted."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    from ctranslate2.converters import MarianConverter

    model, files = write(tmp_path / "marian", texts, kind="yml", **settings)
    model.weights["decoder_ff_logit_out_b"][0, EOS] += 2  # sentences end
    model.save(tmp_path / "marian" / "model.npz")
    copy = model.save(tmp_path / "copy.npz", Wpos=positions(200).astype(np.float32))
    vocabulary = str(tmp_path / "marian" / "corpus.vocab.yml")
    MarianConverter(str(copy), [vocabulary, vocabulary]).convert(str(tmp_path / "ct2"))
    theirs = ctranslate2.Translator(str(tmp_path / "ct2"))
    import_checkpoint("marian", tmp_path / "marian", tmp_path / "out")
    ours = Translator.load(tmp_path / "out", device="cpu")
    left, right = (
        [files.processors[0].encode(line, out_type=str) for line in lines] for lines in (sources, references)
    )
    for found, result in zip(ours.forced(sources, references), theirs.score_batch(left, right), strict=True):
        assert found.token_lprobs == pytest.approx(result.log_probs, abs=2e-4)
    options = SearchOptions(beam=4, max_length_ratio=0, max_length_offset=20, min_length=1)
    results = theirs.translate_batch(left, beam_size=4, patience=1, length_penalty=1, max_decoding_length=20)
    compared = 0
    for (best,), result in zip(ours.hypotheses(sources, options), results, strict=True):
        if max(len(best.ids), len(result.hypotheses[0])) < 20:
            assert ours.pieces(best) == result.hypotheses[0]
            compared += 1
    assert compared > 2


def test_codes_of_subword_nmt(texts, tmp_path) -> None:
    """Text comes in and goes out tokenised, as it does with Marian."""
    words = ["</s>", "<unk>", "on@@", "e", "o@@", "t@@", "w@@", "n@@", "one", "~", "null", "1e3"]
    (tmp_path / "marian").mkdir()
    Marian((len(words), len(words))).save(tmp_path / "marian" / "model.npz")
    lines = "".join(f"{word}: {row}\n" for row, word in enumerate(words))
    (tmp_path / "marian" / "vocab.yml").write_text(lines, encoding="utf-8")
    codes = ["o n", "on e</w>", "1 e", "1e 3</w>", "n u", "nu l", "nul l</w>"]
    (tmp_path / "marian" / "ende.codes").write_text("#version: 0.2\n" + "\n".join(codes) + "\n", encoding="utf-8")
    import_checkpoint("marian", tmp_path / "marian", tmp_path / "out")
    target = Translator.load(tmp_path / "out", device="cpu").vocabularies.target
    assert [target.piece(i) for i in target.encode("one two null ~ 1e3")][:1] == ["one"]
    assert [target.piece(i) for i in target.encode("null ~ 1e3 on")] == ["null", "~", "1e3", "o@@", "<unk>"]
    assert target.decode(target.encode("null 1e3 ~")) == "null 1e3 ~"


def test_words_as_yaml_writes_them(tmp_path) -> None:
    """Of both kinds of quotes, escapes, words that mean something to YAML, long words, and rows beyond the matrix."""
    lines = [
        *("eos: 0", "UNK: 1", '"\\"": 2', "'it''s'  : 3", '"\\x41\\u00e4\\U0001F600\\t\\\\": 4'),
        *(
            "null: 5",
            "~: 6",
            "1e3: 7",
            "? " + "x" * 2000,
            ": 8",
            '? "a\\nb"',
            ": 9",
            "a:b: 10",
            "beyond: 99",
            "#: 11",
            "",
        ),
    ]
    lines[3] = "'it''s': 3"
    (tmp_path / "vocab.yml").write_text("\n".join(lines), encoding="utf-8")
    words = read_words(tmp_path / "vocab.yml", 20)
    expected = ["</s>", "<unk>", '"', "it's", "Aä😀\t\\", "null", "~", "1e3", "x" * 2000, "a\nb", "a:b", "#"]
    assert words.rows == {word: row for row, word in enumerate(expected)}
    assert (words.eos, words.unk, words.pad, words.start, words.size) == (0, 1, 20, 20, 21)


def carried(folder: Path) -> dict[str, Any]:
    import_checkpoint("marian", folder, folder / "out")
    return dict(Checkpoint.find(folder / "out").config.search)


def test_the_search_of_marian_is_carried(texts, tmp_path) -> None:
    write(tmp_path / "marian", texts)
    lengths = {"min_length": 0, "max_length_ratio": 3.0, "max_length_offset": 3}
    assert carried(tmp_path / "marian") == {"beam": 12, "length_penalty": 0.0, "ban_unk": True, **lengths}


@pytest.mark.parametrize("name", ["model.npz.decoder.yml", "decoder.yml"])
def test_the_settings_of_its_decoder_are_carried(name, texts, tmp_path, caplog) -> None:
    write(tmp_path / "marian", texts)
    text = "models:\n  - /train/model.npz\nbeam-size: 6\nnormalize: 0.6\nword-penalty: 0.1\nallow-unk: true\n"
    (tmp_path / "marian" / name).write_text(text)
    found = carried(tmp_path / "marian")
    assert (found["beam"], found["length_penalty"], "ban_unk" in found) == (6, 0.6, False)
    assert "word-penalty has no counterpart" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "s2s"}, r"model\.npz: type='s2s' cannot be imported; valid values: transformer"),
        (
            {"transformer-ffn-activation": "gelu"},
            "transformer-ffn-activation='gelu' cannot be imported; valid values: relu",
        ),
        ({"transformer-ffn-depth": 3}, "transformer-ffn-depth=3 cannot be imported"),
        ({"transformer-decoder-autoreg": "average-attention"}, "autoreg='average-attention' cannot be imported"),
        ({"transformer-decoder-autoreg": "rnn"}, "dec-cell='gru' cannot be imported; valid values: ssru"),
        ({**SSRU, "layer-normalization": True}, "layer-normalization=True cannot be imported"),
        ({"transformer-tied-layers": [1, 1, 1]}, r"transformer-tied-layers=\[1, 1, 1\] cannot be imported"),
        ({"transformer-postprocess-emb": "nd"}, "transformer-postprocess-emb='nd' cannot be imported"),
        ({"transformer-preprocess": "n", "transformer-postprocess": "da"}, "postprocess-top='' .* cannot be imported"),
        ({"transformer-postprocess": "dar"}, "transformer-postprocess='dar' .* cannot be imported"),
        ({"transformer-heads": 3}, "transformer-heads=3 does not divide the width, 16"),
        ({"transformer-heads": "x"}, "transformer-heads='x' does not divide"),
        ({"enc-depth": 10**6}, "enc-depth=1000000 must be from 1 to 1000"),
        ({"dec-depth": 2}, "decoder_l3_context_Wk has no place in a Transformer of Marian"),
        ({"dec-depth": 4}, "decoder_l4_ffn_W1 is missing|decoder_l4_self_Wq is missing|decoder_l4"),
    ],
)
def test_refuses_other_models(settings, message, texts, tmp_path) -> None:
    model, _ = write(tmp_path / "marian", texts)
    model.settings |= settings
    model.save(tmp_path / "marian" / "model.npz")
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint("marian", tmp_path / "marian", tmp_path / "out")
    assert "\n" not in str(caught.value)


def change(name: str, weight: np.ndarray | None) -> Any:
    def apply(model: Marian) -> None:
        model.weights.pop(name, None)
        if weight is not None:
            model.weights[name] = weight

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (change("encoder_l1_self_Wq", None), "encoder_l1_self_Wq is missing"),
        (change("encoder_l1_self_Wq", np.zeros((16, 17), np.float32)), "has shape|have different"),
        (change("encoder_l1_self_Wq", np.zeros((17, 16), np.float32)), "Wqkv are not matrices of as many rows"),
        (change("encoder_l2_ffn_b1", np.zeros((1, 9), np.float32)), "has shape"),
        (change("Wemb", None), "encoder_Wemb is missing"),
        (change("decoder_ff_logit_out_b", np.zeros((1, 9), np.float32)), "bias has another length"),
        (change("Wpos", np.zeros((9, 16), np.float32)), "Wpos has no place"),
        (change("encoder_l1_ffn_W1", np.full((16, 24), np.nan, np.float32)), "encoder_l1_ffn_W1 holds values that are"),
        (
            change("encoder_l1_ffn_W1", np.zeros((16, 24), np.int8)),
            "encoder_l1_ffn_W1 holds whole numbers; only models",
        ),
        (change("encoder_l1_ffn_W1", np.zeros((16, 24), np.complex64)), "not an array of numbers in the order of C"),
        (change("encoder_l1_ffn_W1", np.zeros((24, 16), np.float32).T), "not an array of numbers in the order of C"),
        (change("encoder_l1_ffn_W1", np.array([{}], dtype=object)), "not an array of numbers in the order of C"),
        (change("encoder_l1_ffn_W1", np.zeros((1, 2, 3), np.float32)), "has 3 dimensions"),
    ],
)
def test_refuses_other_weights(apply, message, texts, tmp_path) -> None:
    model, _ = write(tmp_path / "marian", texts)
    apply(model)
    model.save(tmp_path / "marian" / "model.npz")
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint("marian", tmp_path / "marian", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_refuses_other_archives(texts, tmp_path) -> None:
    model, _ = write(tmp_path / "marian", texts)
    file = tmp_path / "marian" / "model.npz"
    np.savez_compressed(file, **model.weights)
    with pytest.raises(DataError, match=r"model\.npz: .* is compressed; Marian does not compress"):
        import_checkpoint("marian", file, tmp_path / "out")
    np.savez(file, **model.weights)
    with pytest.raises(DataError, match=r"not a model of Marian \(special:model\.yml is missing\)"):
        import_checkpoint("marian", file, tmp_path / "out")
    model.save(file)
    content = bytearray(file.read_bytes())
    content[content.index(model.weights["Wemb"].tobytes()) + 77] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"Wemb\.npy is damaged \(its checksum is another\)"):
        import_checkpoint("marian", file, tmp_path / "out")
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"truncated or not a file of Marian"):
        import_checkpoint("marian", file, tmp_path / "out")
    with pytest.raises(ConfigError, match="no such file or folder"):
        import_checkpoint("marian", tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("</s>: 0\n<unk>: 1\na 2\n", r"corpus\.vocab\.yml:3: expected a word and its row and not 'a 2'"),
        ("</s>: 0\n<unk>: 1\na: 2\na: 3\n", r"corpus\.vocab\.yml:4: 'a' or its row stands twice"),
        ("</s>: 0\n<unk>: 1\na: 2\nb: 2\n", r"corpus\.vocab\.yml:4: 'b' or its row stands twice"),
        ("x: 0\n<unk>: 1\n", r"corpus\.vocab\.yml: </s> is missing"),
        ("</s>: 0\nx: 1\n", r"corpus\.vocab\.yml: <unk> is missing"),
        ("</s>: 0\n? long\nx: 1\n", r"corpus\.vocab\.yml:3: expected a word and its row"),
    ],
)
def test_refuses_malformed_lists_of_words(text, message, texts, tmp_path) -> None:
    write(tmp_path / "marian", texts, kind="yml")
    (tmp_path / "marian" / "corpus.vocab.yml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_checkpoint("marian", tmp_path / "marian", tmp_path / "out")


def test_files_that_the_user_names(texts, tmp_path, sources, references) -> None:
    model, files = write(tmp_path / "marian", texts, kind="two spm", **UNTIED)
    for name, new in (("vocab.source.spm", "one.spm"), ("vocab.target.spm", "two.spm")):
        (tmp_path / "marian" / name).rename(tmp_path / "marian" / new)
    with pytest.raises(DataError, match=r"which of one\.spm, two\.spm\? Give vocabulary=FILE or vocabulary=\[SOURCE,T"):
        import_checkpoint("marian", tmp_path / "marian", tmp_path / "out")
    named = [str(tmp_path / "marian" / name) for name in ("one.spm", "two.spm")]
    import_checkpoint("marian", tmp_path / "marian" / "model.npz", tmp_path / "out", vocabulary=named)
    ours = Translator.load(tmp_path / "out", device="cpu")
    assert [len(v) for v in (ours.vocabularies.source, ours.vocabularies.target)] == [size + 2 for size in files.sizes]
    for name in ("one.spm", "two.spm"):
        (tmp_path / "marian" / name).unlink()
    with pytest.raises(DataError, match=r"no vocabulary here \(\*\.spm\); give vocabulary=FILE"):
        import_checkpoint("marian", tmp_path / "marian", tmp_path / "out2")
    assert model.weights["encoder_Wemb"].shape == (files.sizes[0], DIM)
