import json
import subprocess
import sys

import pytest

SOURCE = ["low new", "lower newer", "lowest newest wide", "wider low", "new low wide"] * 8
TARGET = ["tief neu", "tiefer neuer", "weit neu tief", "weiter tief", "neu tief weit"] * 8


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    for name in ("train", "valid", "test"):
        (folder / f"{name}.en").write_text("\n".join(SOURCE) + "\n", encoding="utf-8")
        (folder / f"{name}.de").write_text("\n".join(TARGET) + "\n", encoding="utf-8")
    return folder


def preprocess(folder, *arguments):
    command = [sys.executable, "-m", "nmt.commands.preprocess", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


BASE = ("source=en", "target=de", "train=train", "valid=valid", "vocab_size=30")


def test_the_command_writes_a_corpus_and_a_summary(raw, tmp_path):
    done = preprocess(raw, *BASE, "test=[test,valid]", f"out={tmp_path / 'corpus'}", "vocab_type=bpe", "workers=2")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "corpus" / "corpus.json").read_text(encoding="utf-8"))
    assert {name: split["lines"] for name, split in manifest["splits"].items()} == {
        "train": 40,
        "valid": 40,
        "test": 40,
        "test1": 40,
    }
    assert manifest["settings"]["vocabulary"]["vocab_type"] == "bpe"
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["split", "lines", "tokens", "en", "tokens", "de", "unknown", "en", "unknown", "de"]
    assert lines[1].split()[:2] == ["train", "40"]
    assert "vocabulary: 30 pieces, shared by both sides" in lines
    assert "written in" in lines[-1]
    assert sorted(p.name for p in raw.iterdir()) == sorted(
        f"{n}.{s}" for n in ("train", "valid", "test") for s in ("en", "de")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "out is required: give out=VALUE"),
        (("out=x", "test=none"), "no such file: none.en (nor the same with .gz or .xz)"),
        (
            ("out=x", "vocab_size=8"),
            "vocab_size=8 is too small for the training text: its characters need at least",
        ),
        (("out=x", "vocab_siz=30"), "unknown key vocab_siz; valid keys here:"),
        (("out=x", "clean.max_ratio=0.5"), "clean.max_ratio=0.5 is out of range: it must be at least 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(raw, arguments, message):
    done = preprocess(raw, *BASE, *arguments)
    assert done.returncode == 1
    assert f"nmt-preprocess: error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (raw / "x").exists()


def test_a_default_that_is_too_large_for_the_text_is_noted_in_one_line(raw, tmp_path):
    done = preprocess(raw, *BASE[:-1], f"out={tmp_path / 'corpus'}")
    assert done.returncode == 0, done.stderr
    (note,) = [
        line for line in done.stderr.splitlines() if line.startswith("vocab_size=8000 is more than the training")
    ]
    pieces = json.loads((tmp_path / "corpus" / "corpus.json").read_text(encoding="utf-8"))["vocabulary"]["sizes"]
    assert note.endswith(f"the vocabulary has {pieces['source']} pieces")


def test_help_says_what_every_key_means(raw):
    done = preprocess(raw, "--help")
    assert done.returncode == 0
    for key in ("train", "vocab_size", "max_ratio", "workers"):
        (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith(f"{key}:"))
        assert "#" in line
