"""nmt-generate with a trained model: files, pipes, corpora, formats, several processes."""

import gzip
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nmt
from nmt.config import ConfigError, DataError, parse_options
from nmt.data.corpus import Corpus
from nmt.generation.generate import Summary, generate
from nmt.generation.options import GenerateOptions, SearchOptions
from nmt.generation.translator import Translator
from nmt.metrics.scoring import bleu, chrf
from nmt.parallel.ranks import Ranks

COMMAND = [sys.executable, "-m", "nmt.commands.generate"]


@pytest.fixture
def run(run_folder: Path, tmp_path: Path, composed: Callable[..., Any]) -> Callable[..., tuple[Summary, list[str]]]:
    """``run("search.beam=2", lines=[...])``: what was done and the lines that were written."""

    def go(*overrides: str, lines: list[str] | None = None) -> tuple[Summary, list[str]]:
        given = [] if lines is None else [f"input={tmp_path}/in"]
        (tmp_path / "in").write_bytes("".join(f"{line}\n" for line in lines or []).encode())
        node = composed(
            "generate", [f"checkpoint={run_folder}", f"output={tmp_path}/out", "device=cpu", *given, *overrides]
        )
        summary = generate(parse_options(GenerateOptions, node))
        return summary, (tmp_path / "out").read_text(encoding="utf-8").split("\n")[:-1]

    return go


LINES = ["1 2 3", "", "9 8 7 6 5", " ", "4", "3 3 3 3 3 3 3", "5 6"]


def test_a_line_out_for_every_line_in(run: Any, translator: Translator) -> None:
    summary, out = run(lines=LINES)
    assert out == translator.translate(LINES)
    assert [bool(line) for line in out] == [bool(line.strip()) for line in LINES]
    assert (summary.num_lines, summary.scores) == (len(LINES), [])
    assert len(set(out)) > 4, "the model says the same to everything: the test shows nothing"


@pytest.mark.parametrize("size", ["buffer=1", "buffer=3", "batch.max_sentences=1", "batch.max_tokens=8"])
@pytest.mark.parametrize("beam", [1, 4])
def test_batches_and_buffers_change_nothing(run: Any, size: str, beam: int) -> None:
    assert run(f"search.beam={beam}", size, lines=LINES)[1] == run(f"search.beam={beam}", lines=LINES)[1]


def test_no_lines(run: Any) -> None:
    assert run(lines=[])[1] == []


def test_compressed_files(run: Any, tmp_path: Path, translator: Translator) -> None:
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"1 2 3\n4\n"))
    assert run(f"input={tmp_path}/text.gz")[1] == translator.translate(["1 2 3", "4"])


def test_nbest_as_text_has_n_lines_each(run: Any, translator: Translator) -> None:
    _, out = run("search.nbest=3", lines=LINES)
    assert len(out) == 3 * len(LINES)
    assert out[::3] == translator.translate(LINES)
    assert out[3:6] == ["", "", ""]


def test_jsonl(run: Any, translator: Translator) -> None:
    _, out = run("format=jsonl", "search.nbest=2", "token_scores=true", lines=LINES)
    rows = [json.loads(line) for line in out]
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["source"] for row in rows] == LINES
    assert [row["hypotheses"][0]["text"] for row in rows] == translator.translate(LINES)
    for row in rows:
        for h in row["hypotheses"]:
            assert "".join(h["pieces"]).replace("▁", " ").strip() == h["text"]
            assert sum(h["token_logprobs"]) == pytest.approx(h["logprob"], abs=1e-4)
            assert h["score"] == pytest.approx(h["logprob"] / max(len(h["token_logprobs"]), 1))


def test_forced_scores_agree_with_search(run: Any, tmp_path: Path, translator: Translator) -> None:
    _, out = run("format=jsonl", lines=LINES)
    best = [json.loads(line)["hypotheses"][0] for line in out]
    (tmp_path / "targets").write_text("".join(h["text"] + "\n" for h in best))
    _, scores = run(f"score_target={tmp_path}/targets", lines=LINES)
    assert [float(s) for s in scores] == pytest.approx([h["score"] for h in best], abs=1e-4)
    assert translator.score(LINES, [h["text"] for h in best]) == pytest.approx([h["score"] for h in best], abs=1e-4)
    _, rows = run(f"score_target={tmp_path}/targets", "format=jsonl", lines=LINES)
    assert [json.loads(row)["hypotheses"][0]["text"] for row in rows] == [h["text"] for h in best]


def test_prefixes(run: Any, tmp_path: Path) -> None:
    prefixes = ["7", "", "8 8", "", "", "1 1 1", ""]
    (tmp_path / "prefix").write_text("".join(f"{p}\n" for p in prefixes))
    _, out = run(f"prefix={tmp_path}/prefix", lines=LINES)
    assert all(line.startswith(prefix) for line, prefix, source in zip(out, prefixes, LINES) if source.strip())


def test_corpus_split_is_scored(
    run: Any, digits: Path, translator: Translator, capsys: pytest.CaptureFixture[str]
) -> None:
    split = Corpus.open(digits).split("test")
    summary, out = run(f"corpus={digits}")
    assert out == translator.translate(split.source_texts())
    expected = [str(bleu(out, split.target_texts())), str(chrf(out, split.target_texts()))]
    assert summary.scores == expected
    assert capsys.readouterr().out.splitlines() == expected
    with pytest.raises(ConfigError, match=r"split=tset: .*did you mean 'test'"):
        run(f"corpus={digits}", "split=tset")


def test_references_that_were_overwritten_are_found(run: Any, digits: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits, tmp_path / "copy"))
    path = copy / "test" / "target.text"
    path.write_bytes(path.read_bytes().translate(bytes.maketrans(b"12", b"21")))
    with pytest.raises(DataError, match=r"target\.text: damaged \(its content is not what corpus\.json says\)"):
        run(f"corpus={copy}")


def test_scores_do_not_mix_with_translations(
    run_folder: Path, digits: Path, composed: Callable[..., Any], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    node = composed("generate", [f"checkpoint={run_folder}", f"corpus={digits}", "split=valid", "device=cpu"])
    generate(parse_options(GenerateOptions, node))
    captured = capfdbinary.readouterr()
    assert captured.out.count(b"\n") == 20
    assert captured.err.startswith(b"BLEU = ")


def test_sampling_does_not_depend_on_the_buffer(run: Any) -> None:
    options = ["search.sampling=random", "search.nbest=2", "search.temperature=2"]
    together = run(*options, lines=LINES)[1]
    assert run(*options, "buffer=2", "batch.max_sentences=1", lines=LINES)[1] == together
    assert run(*options, "search.seed=3", lines=LINES)[1] != together


def test_long_lines_are_cut_with_a_warning(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join("123456789" * 20)
    with caplog.at_level(logging.WARNING):
        _, out = run("buffer=1", "search.beam=1", lines=["1", long])
    assert len(out) == 2
    assert out[1]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "line 2 has too many tokens; only the first 63, the model's limit, are translated"
    ]


def test_damaged_input_leaves_no_output(run: Any, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"1 2\n\xff\n")
    with pytest.raises(DataError, match="bad:2: not UTF-8"):
        run(f"input={tmp_path}/bad")
    assert not (tmp_path / "out").exists()


def test_ensembles(run: Any, run_folder: Path, translator: Translator) -> None:
    _, out = run(f"checkpoint=[{run_folder},{run_folder}]", lines=LINES)
    assert out == translator.translate(LINES)


def test_an_ensemble_needs_one_vocabulary(
    run: Any, run_folder: Path, make_corpus: Any, train: Any, tmp_path: Path
) -> None:
    other = make_corpus(train=60, vocab_size=20)
    train(f"corpus={other}", f"run={tmp_path}/other", "train.max_updates=1")
    with pytest.raises(ConfigError, match=rf"one vocabulary, but {tmp_path}/other has another than {run_folder}"):
        run(f"checkpoint=[{run_folder},{tmp_path}/other]", lines=["1"])


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == level]


NOTHING = ["search.no_repeat_ngram=1", "search.min_length=40"]
"""Of some 20 pieces none may occur twice, and 40 must follow."""


@pytest.mark.parametrize("sampling", ["none", "random"])
def test_lines_without_translation(
    run: Any, translator: Translator, sampling: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty line, null in jsonl, one warning that counts; from Python the same."""
    options = [*NOTHING, f"search.sampling={sampling}", "search.nbest=2", "buffer=2"]
    with caplog.at_level(logging.INFO):
        summary, out = run(*options, lines=LINES)
    assert out == [""] * 2 * len(LINES)
    warning = "5 of 7 lines have no translation: the rules of the search left nothing (line 1, 3, 5, 6, 7)"
    assert messages(caplog) == [warning]
    assert (summary.failed.number, summary.num_tokens) == (5, 0)
    rows = [json.loads(line) for line in run(*options, "format=jsonl", "token_scores=true", lines=LINES)[1]]
    for row in rows:
        score = None if row["source"].strip() else 0.0
        expected = {"text": "", "score": score, "logprob": score, "pieces": [], "token_logprobs": []}
        assert row["hypotheses"] == [expected]
    caplog.clear()
    assert translator.translate(LINES, no_repeat_ngram=1, min_length=40, sampling=sampling) == [""] * len(LINES)
    assert messages(caplog) == [warning]


def test_a_checkpoints_search_defaults(
    run: Any,
    run_folder: Path,
    tmp_path: Path,
    translator: Translator,
    copy_checkpoint: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    carried = {"beam": 2, "max_length_ratio": 0.0, "max_length_offset": 3, "length_penalty": 0}
    folder = copy_checkpoint(run_folder, tmp_path / "own", **carried)
    given = f"checkpoint={folder}"
    with caplog.at_level(logging.INFO):
        _, out = run(given, lines=LINES)
    taken = "search.beam=2 search.length_penalty=0.0 search.max_length_offset=3 search.max_length_ratio=0.0"
    assert f"{taken}: defaults of {folder}" in messages(caplog, logging.INFO)
    expected = translator.translate(LINES, beam=2, length_penalty=0, max_length_ratio=0, max_length_offset=3)
    assert out == expected != translator.translate(LINES)
    own = nmt.load(folder)
    assert own.translate(LINES) == expected
    texts = ["1 2", "", "3", "", "4", "5", "6"]
    assert own.score(LINES, texts) == pytest.approx(translator.score(LINES, texts, length_penalty=0), abs=1e-6)
    caplog.clear()
    with caplog.at_level(logging.INFO):  # what is typed stands, also where it is the toolkit's default
        _, out = run(given, "search.max_length_ratio=2.0", "search.max_length_offset=10", "search.beam=5", lines=LINES)
    assert f"search.length_penalty=0.0: defaults of {folder}" in messages(caplog, logging.INFO)
    assert (
        out
        == translator.translate(LINES, length_penalty=0)
        == own.translate(LINES, 5, max_length_ratio=2.0, max_length_offset=10)
    )


def test_defaults_of_an_ensemble(
    run: Any, run_folder: Path, tmp_path: Path, translator: Translator, copy_checkpoint: Any
) -> None:
    one, two = (copy_checkpoint(run_folder, tmp_path / str(beam), beam=beam) for beam in (2, 3))
    with pytest.raises(ConfigError, match=rf"search.beam: .* \({one}: 2, {two}: 3\); give it$"):
        run(f"checkpoint=[{one},{two}]", lines=LINES)
    assert run(f"checkpoint=[{one},{two}]", "search.beam=4", lines=LINES)[1] == translator.translate(LINES, beam=4)
    assert run(f"checkpoint=[{one},{one}]", lines=LINES)[1] == translator.translate(LINES, beam=2)


def test_wrong_defaults_name_the_file(run_folder: Path, tmp_path: Path, copy_checkpoint: Any) -> None:
    folder = copy_checkpoint(run_folder, tmp_path / "own", bean=2)
    with pytest.raises(DataError, match=rf"^{folder}/config.yaml: unknown key search.bean; "):
        nmt.load(folder)


def test_weights_that_are_not_numbers_name_the_checkpoint(
    run: Any, run_folder: Path, tmp_path: Path, copy_checkpoint: Any
) -> None:
    bad = copy_checkpoint(run_folder, tmp_path / "bad", nan=True)
    (tmp_path / "targets").write_text("1\n" * len(LINES))
    for more in ([], ["search.sampling=random"], [f"score_target={tmp_path}/targets"]):
        for checkpoint in (f"[{run_folder},{bad}]", str(bad)):
            with pytest.raises(DataError, match=rf"^{bad} gives log-probabilities that are not numbers \(nan\)$"):
                run(f"checkpoint={checkpoint}", *more, lines=LINES)


def test_what_may_repeat_is_told_as_text(translator: Translator, run: Any) -> None:
    free = translator.translate(LINES, no_repeat_ngram=1, no_repeat_except=list("0123456789"), min_length=9)
    strict = translator.translate(LINES, no_repeat_ngram=1, min_length=9)
    assert any(len(set(line.split())) < len(line.split()) for line in free)
    assert not any(len(set(line.split())) < len(line.split()) for line in strict)
    except_ = "search.no_repeat_except=[1,2,3,4,5,6,7,8,9,0]"
    assert run("search.no_repeat_ngram=1", except_, "search.min_length=9", lines=LINES)[1] == free
    for text in ("x", "", "<unk>"):
        with pytest.raises(ConfigError, match=rf"^search.no_repeat_except: '{text}' is no piece of the target, nor "):
            translator.translate(["1"], no_repeat_ngram=1, no_repeat_except=["1", text])


def test_words_stand_for_their_pieces(translator: Translator) -> None:
    """A text is the piece of that name and those that it is cut into as a word, but for the lone mark of one."""
    target = translator.vocabularies.target

    def pieces(*texts: str) -> list[str]:
        options = SearchOptions(no_repeat_ngram=1, no_repeat_except=list(texts))
        return [target.piece(i) for i in translator.may_repeat(options)]

    assert target.find("nothing") is None
    assert set(pieces("1")) == {"1", "▁1"}
    assert pieces("▁1") == ["▁1"]
    assert set(pieces("77")) == {"7", "▁7"} - {"▁"}
    assert set(pieces("77", "▁")) == {"7", "▁7", "▁"}


def test_python_interface(translator: Translator) -> None:
    with pytest.raises(ConfigError, match=r"unknown key search.bean"):
        translator.translate(["1"], bean=3)
    with pytest.raises(ConfigError, match="2 sources but 1 targets"):
        translator.score(["1", "2"], ["1"])
    with pytest.raises(ConfigError, match=r"lines must be a list of lines, not one text: \['1 2'\]"):
        translator.translate("1 2")
    with pytest.raises(ConfigError, match="1 lines but 2 prefixes"):
        translator.translate(["1"], prefixes=["1", "2"])
    with pytest.raises(ConfigError, match=r"device=gpu: valid options: auto, cpu, cuda"):
        nmt.load("x", device="gpu")
    greedy = translator.translate(LINES, beam=1, no_repeat_ngram=1)
    assert all(len(set(line.split())) == len(line.split()) for line in greedy)


def test_half_precision(run: Any) -> None:
    _, out = run("precision=bf16", "search.beam=2", lines=LINES)
    assert [bool(line) for line in out] == [bool(line.strip()) for line in LINES]


def test_a_pipe_answers_line_by_line(run_folder: Path, translator: Translator) -> None:
    arguments = [f"checkpoint={run_folder}", "input=-", "buffer=1", "device=cpu", "threads=1"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for line in ("1 2 3", "", "9 8 7"):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{translator.translate([line])[0]}\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0, process.stderr.read()


def test_importing_is_instant_and_lean() -> None:
    heavy = "('torch', 'sacrebleu', 'sentencepiece', 'tqdm')"
    code = f"import sys, nmt, nmt.commands.generate; print(*[m for m in {heavy} if m in sys.modules])"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert time.monotonic() - started < 20  # a generous bound for a busy machine; about 0.3 s alone


def test_two_processes_merge_in_order(
    torchrun: Callable[..., Any], run_folder: Path, tmp_path: Path, translator: Translator
) -> None:
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in LINES))
    command = ["-m", "nmt.commands.generate", f"checkpoint={run_folder}", "buffer=3", "device=cpu", "input=in"]
    done = torchrun(*command, "output=out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text().split("\n")[:-1] == translator.translate(LINES)


@pytest.mark.slow
def test_a_failing_process_ends_the_other(torchrun: Callable[..., Any], run_folder: Path, tmp_path: Path) -> None:
    """The second process, which translates every other line, meets one that it cannot; the first could go on."""
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in LINES))
    (tmp_path / "targets").write_text("".join(f"{'1 ' * (100 if i == 1 else 1)}\n" for i in range(len(LINES))))
    command = ["-m", "nmt.commands.generate", f"checkpoint={run_folder}", "buffer=3", "device=cpu", "input=in"]
    done = torchrun(*command, "output=out", "score_target=targets")
    assert done.returncode != 0
    assert done.stderr.count("nmt-generate: error: ") == 1
    assert "nmt-generate: error: the target of line 2 has " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given", [["input=-"], ["input=in", "prefix=-"], ["input=in", "score_target=-"]], ids=lambda given: given[-1]
)
def test_processes_cannot_share_standard_input(given: list[str], run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranks, "join", lambda device: Ranks(0, 2))
    with pytest.raises(ConfigError, match=f"^{given[-1]}: several processes cannot share standard input; give a file$"):
        run(*given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_translates_alike(run: Any) -> None:
    assert run("device=cuda", lines=LINES)[1] == run("device=cpu", lines=LINES)[1]
