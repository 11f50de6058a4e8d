"""Messages cannot steer a terminal, whatever is in the files that they quote; closed streams are one line."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

import nmt
from nmt.checkpoints.checksums import SUMS_FILE, write_sums
from nmt.commands.streams import Messages, OneLine, visible

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden"
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.\u2066\x08\x7f"
UNSAFE = set("\x1b\x07\x9b\x08\x7f\r\u202e\u2066\u2028\ud800\0")
CODES = "gray area: \\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202egnp.\\u2066\\x08\\x7f"


def test_what_is_unsafe_is_escaped() -> None:
    assert visible(f"gray area: {HOSTILE}") == CODES
    assert visible("größe ½ 漢字\t😀👩‍🚀 נתונים می‌خواهم\n") == "größe ½ 漢字\t😀👩‍🚀 נתונים می‌خواهم\n"
    assert visible("\ud800\u2028\u200f\U000e0041\r\0") == "\\ud800\\u2028\\u200f\\U000e0041\\r\\x00"


@given(st.text(st.characters(), max_size=20), st.text("\x1b[0m\r\n\x9b\u202e\ud800", max_size=8))
def test_nothing_unsafe_is_written(text: str, more: str) -> None:
    stream = io.StringIO()
    Messages(stream).write(f"a{text}{more}")  # type: ignore[arg-type]
    assert not set(stream.getvalue()) & UNSAFE
    assert stream.getvalue().encode()


def test_progress_bars_stay_on_their_line() -> None:
    stream = io.StringIO()
    with tqdm(range(3), desc=f"a\r{HOSTILE}", file=Messages(stream), ncols=120) as bar:
        list(bar)
    assert stream.getvalue().startswith("\ra\\r\\x1b[2J")
    assert not set(stream.getvalue()) & (UNSAFE - {"\r"})
    assert stream.getvalue().count("\r") == stream.getvalue().count("\ra\\r")


def test_a_log_message_is_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s is there", ("a\nnmt-train: error: b",), None)
    assert OneLine("%(message)s").format(record) == "a\\nnmt-train: error: b is there"


# --- files from anyone ------------------------------------------------------------------------------------------------


def hostile_config(folder: Path) -> None:
    shutil.copytree(GOLDEN / "checkpoint", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["decoder"]["feed_forward"] = {"name": "dense", HOSTILE: 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_sums(folder / SUMS_FILE)


def hostile_component(folder: Path) -> None:
    shutil.copytree(GOLDEN / "checkpoint", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["norm"] = {"name": HOSTILE}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    write_sums(folder / SUMS_FILE)


def hostile_tensors(folder: Path) -> None:
    shutil.copytree(GOLDEN / "checkpoint", folder)
    header = json.dumps({HOSTILE: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, ensure_ascii=False).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    write_sums(folder / SUMS_FILE)


def hostile_corpus(folder: Path) -> None:
    folder.mkdir()
    (folder / "corpus.json").write_text(json.dumps({"format": HOSTILE, HOSTILE: HOSTILE}, ensure_ascii=False))


def hostile_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "text").write_bytes(b"a\n\x1b[2J\xff\n")


@pytest.mark.parametrize(
    ("make", "command", "arguments"),
    [
        (hostile_config, "generate", ["checkpoint=x", "input=text"]),
        (hostile_component, "generate", ["checkpoint=x", "input=text"]),
        (hostile_tensors, "generate", ["checkpoint=x", "input=text"]),
        (hostile_config, "export", ["checkpoint=x", "to=hf", "out=y"]),
        (hostile_corpus, "train", ["corpus=x", "run=r"]),
        (hostile_corpus, "generate", [f"checkpoint={GOLDEN}/checkpoint", "corpus=x"]),
        (hostile_text, "score", ["hypothesis=x/text", "reference=text"]),
        (hostile_text, "import", ["format=fairseq", "path=x", "out=y"]),
    ],
)
def test_errors_about_files_from_anyone(make: Any, command: str, arguments: list[str], cli, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\n")
    make(tmp_path / "x")
    done = cli(command, *arguments)
    assert done.code == 1
    assert done.err.startswith(f"nmt-{command}: error: ")
    assert done.err.count("\n") == 1
    assert not set(done.out + done.err) & UNSAFE
    assert "SHA256SUMS" not in done.err


def test_reports_about_files_from_anyone(cli, tmp_path: Path) -> None:
    """What goes to standard output: the name of a checkpoint within a run."""
    store = tmp_path / "run/checkpoints"
    for name in (f"update-00000001{HOSTILE}", "update-00000002"):
        shutil.copytree(GOLDEN / "checkpoint", store / name)
    (store / "last").symlink_to("update-00000002")
    done = cli("average", "checkpoint=run", "out=a")
    assert (done.code, done.err) == (0, "")
    assert "update-00000001\\x1b[2J" in done.out
    assert not set(done.out) & UNSAFE


def process(cwd: Path, *words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, with redirections of the shell."""
    line = f'exec "$@" {shell}'
    command = ["sh", "-c", line, "sh", sys.executable, "-m", f"nmt.commands.{words[0]}", *words[1:]]
    given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, cwd=cwd, check=False, env=given)


def test_a_traceback_is_filtered_too() -> None:
    program = "from nmt.commands.streams import guard_streams; guard_streams(); raise ValueError('\\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stderr.startswith(b"Traceback")
    assert done.stderr.splitlines()[-1] == b"ValueError: \\x1b[2J"


def test_the_report_of_one_of_several_processes(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    hostile_component(tmp_path / "x")
    done = cli("export", "checkpoint=x", "to=hf", "out=y")
    assert done.code == 1
    assert "\\x1b[2J" in done.err
    assert not set(done.err) & UNSAFE


def test_translations_are_not_filtered(tmp_path: Path) -> None:
    """The output that was asked for is what it is, here the source in jsonl."""
    (tmp_path / "text").write_text("ab\u202ec\u200bd\n", encoding="utf-8")
    given = [f"checkpoint={GOLDEN}/checkpoint", "input=text", "format=jsonl", "search.beam=1", "threads=1"]
    done = process(tmp_path, "generate", *given)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == "ab\u202ec\u200bd"
    assert "\u202e".encode() in done.stdout


# --- closed streams ---------------------------------------------------------------------------------------------------

GENERATE = ["generate", f"checkpoint={GOLDEN}/checkpoint", "search.beam=1", "threads=1"]


@pytest.mark.parametrize(
    ("words", "shell", "code", "message"),
    [
        ([*GENERATE, "input=text"], ">&-", 1, "nmt-generate: error: standard output: closed, but there is something"),
        ([*GENERATE, "input=text", "output=out"], "<&- >&-", 0, "1 lines, "),
        (["components", "slot=norm"], ">&-", 1, "nmt-components: error: standard output: closed, but there is"),
        (["train", "--help"], ">&-", 1, "nmt-train: error: standard output: closed, but there is something to write"),
        (["score", "hypothesis=-", "reference=text"], "<&-", 1, "nmt-score: error: hypothesis=-: standard input is"),
        (["score", "hypothesis=none", "reference=text"], "2>&-", 1, ""),
        (["score", "hypothesis=text", "reference=text", "output=out"], "<&- >&- 2>&-", 0, ""),
    ],
)
def test_closed_streams(words: list[str], shell: str, code: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\n")
    done = process(tmp_path, *words, shell=shell)
    assert done.returncode == code, done.stderr
    assert done.stdout == b""
    assert done.stderr.decode().startswith(message)
    assert done.stderr.count(b"\n") == bool(message)
    if "output=out" in words:
        assert (tmp_path / "out").read_bytes()
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_files_do_not_take_the_place_of_closed_streams(tmp_path: Path) -> None:
    """Or what C code prints would end up in one."""
    program = "from nmt.commands.streams import guard_streams; guard_streams(); "
    program += "f = open('x', 'w'); f.write(str(f.fileno()))"
    line = f'exec {sys.executable} -c "{program}" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False).returncode == 0
    assert int((tmp_path / "x").read_text()) > 2


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [b"run=\xff", b"run=a\xe4", b"corpus=[\xc3]"])
def test_arguments_are_utf_8(word: bytes, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nmt.commands.train", "corpus=c", "run=r"]
    done = subprocess.run([*command, word], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().endswith(": not UTF-8\n")
    assert done.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["run=a\x1b[2Jb", "run=a\nb", "corpus=\ta", "\x7f"])
def test_arguments_have_no_control_characters(word: str, cli) -> None:
    done = cli("train", "corpus=c", word)
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(": holds a control character\n")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "components", "import"])
def test_version(command: str, cli) -> None:
    done = cli(command, "--version")
    assert done == (0, f"nmt-{command} {nmt.__version__}\n", "")
    assert f'version="{nmt.__version__}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
