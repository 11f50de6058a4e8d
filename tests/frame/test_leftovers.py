"""What killed processes leave: removed, undone or finished by whoever comes next, and never while somebody writes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from nmt.files import staged_file, staged_folder, write_files, write_folder, write_text
from nmt.leftovers import BEFORE, DECIDED, claim, is_leftover, scratch_name, settle, settle_all


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def abandoned(path: Path) -> Path:
    """A half-written folder whose process is dead."""
    staged, handle = claim(path, folder=True)
    (staged / "file").write_text("half")
    os.close(handle)
    return staged


def test_names(tmp_path: Path) -> None:
    assert is_leftover(scratch_name(tmp_path / "a"))
    assert is_leftover(scratch_name(tmp_path / ".hidden.b", DECIDED))
    assert scratch_name(tmp_path / "a") != scratch_name(tmp_path / "a")
    for name in ("a", ".lock", ".a.123.tmp", "a.nmt-00000000.tmp", ".a.nmt-00000000.tmp.gz", ".a.nmt-0000000g.tmp"):
        assert not is_leftover(tmp_path / name)


def test_those_of_one_output_go_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", ".lock", ".out.tmp", ".out.99.tmp"):
        (tmp_path / name).write_text("x")
    other = abandoned(tmp_path / "out.x")
    kept = names(tmp_path)
    abandoned(tmp_path / "out")
    scratch_name(tmp_path / "out").write_text("half")
    scratch_name(tmp_path / "out").symlink_to(other)
    settle(tmp_path / "out")
    assert names(tmp_path) == kept


def test_all_of_a_folder_go(tmp_path: Path) -> None:
    for name in ("a", ".lock", ".b.tmp.c", "d.tmp"):
        (tmp_path / name).write_text("x")
    kept = names(tmp_path)
    for name in ("a", "b"):
        abandoned(tmp_path / name)
    scratch_name(tmp_path / "last").symlink_to(tmp_path)
    settle_all(tmp_path)
    assert names(tmp_path) == kept
    settle_all(tmp_path / "none")


@pytest.mark.parametrize("clear", [lambda folder: settle(folder / "out"), settle_all])
def test_what_a_live_process_writes_stays(tmp_path: Path, clear) -> None:  # type: ignore[no-untyped-def]
    with staged_folder(tmp_path / "out") as staged, staged_file(tmp_path / "out.txt") as stream:
        (staged / "a").write_text("mine")
        stream.write(b"mine")
        if not (child := os.fork()):
            clear(tmp_path)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "out" / "a").read_text() == "mine"
    assert (tmp_path / "out.txt").read_text() == "mine"


@pytest.mark.parametrize("write", [
    lambda out: write_folder(out, {}), lambda out: write_files(out, {}, ()), lambda out: write_text(out, "text"),
])  # fmt: skip
def test_who_writes_the_same_output_clears(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    abandoned(tmp_path / "out")
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_two_processes_that_write_the_same(tmp_path: Path) -> None:
    with staged_file(tmp_path / "a") as first:
        first.write(b"first")
        write_text(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_what_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames."""
    folder_of(scratch_name(tmp_path / "out", BEFORE), a="old")
    abandoned(tmp_path / "out")
    settle(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_what_was_replaced_goes(tmp_path: Path) -> None:
    """Killed after the second rename."""
    folder_of(tmp_path / "out", a="new")
    folder_of(scratch_name(tmp_path / "out", BEFORE), a="old")
    settle(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "new"


def test_files_that_were_on_their_way_arrive(tmp_path: Path) -> None:
    folder_of(tmp_path / "out", a="new", b="old", letter="dear")
    folder_of(scratch_name(tmp_path / "out", DECIDED), b="new")
    settle(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {"a": "new", "b": "new", "letter": "dear"}


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # what NFS says of folders

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_where_nobody_can_tell_it_is_named(tmp_path: Path, no_locks: None, caplog: pytest.LogCaptureFixture) -> None:
    staged = abandoned(tmp_path / "o u t")
    with caplog.at_level(logging.WARNING):
        write_text(tmp_path / "o u t", "text")
    assert caplog.messages == [
        f"{staged} was left behind by a command that was killed, unless one is still writing it; "
        f"if none is: rm -r '{staged}'"
    ]
    assert staged.exists()
    assert (tmp_path / "o u t").read_text() == "text"
    settle_all(tmp_path)  # in a run, which has a lock of its own
    assert names(tmp_path) == ["o u t"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_be_written_but_not_listed(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    write_text(tmp_path / "a", "text")
    tmp_path.chmod(0o700)
    assert names(tmp_path) == ["a"]
