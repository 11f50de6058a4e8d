"""Writing files and folders whole."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nmt.files
from nmt.files import file_digest, naming, remove_folder, staged_file, staged_folder, sync, write_files, write_folder
from nmt.files import write_text as write_whole
from nmt.leftovers import settle


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def writer(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.fixture(params=["exchange", "renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folders are replaced in one step, or as on a file system that cannot do that."""
    if request.param == "renames":
        monkeypatch.setattr(nmt.files, "_exchange", lambda *_: False)
    return str(request.param)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'$"):
        write_whole(tmp_path / "a", "new")
    assert texts(tmp_path) == {"a": "old"}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "a").symlink_to("elsewhere")
    write_whole(tmp_path / "a", "new")
    assert texts(tmp_path) == {"a": "new", "elsewhere": "precious"}
    assert not (tmp_path / "a").is_symlink()


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def write() -> None:
        with staged_file(tmp_path / "a") as stream:
            stream.write(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert texts(tmp_path) == {"a": "old"}


def test_errors_without_a_name_get_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device: 'here'"), naming("here"):
        full()
    with pytest.raises(IsADirectoryError) as caught, naming("here"):
        tmp_path.read_bytes()
    assert caught.value.filename == str(tmp_path)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "up" / "x", {"a": writer("1"), "b": full})
    assert names(tmp_path / "up") == []
    write_folder(tmp_path / "up" / "x", {"a": writer("1"), "b": writer("2")})
    assert texts(tmp_path / "up" / "x") == {"a": "1", "b": "2"}
    assert names(tmp_path / "up") == ["x"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    write_folder(tmp_path / "x", {"a": writer("1")})
    assert texts(tmp_path / "x") == {"a": "1"}


def test_what_appeared_meanwhile_stays(tmp_path: Path) -> None:
    def appear(path: Path) -> None:
        path.write_text("mine")
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "a").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "x", {"a": appear})
    assert texts(tmp_path / "x") == {"a": "theirs"}
    assert names(tmp_path) == ["x"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, swap: str) -> None:
    write_folder(tmp_path / "x", {"a": writer("old"), "c": writer("old")})

    def look(path: Path) -> None:
        assert texts(tmp_path / "x") == {"a": "old", "c": "old"}
        path.write_text("new")

    write_folder(tmp_path / "x", {"a": writer("new"), "b": look}, overwrite=True)
    assert texts(tmp_path / "x") == {"a": "new", "b": "new"}
    assert names(tmp_path) == ["x"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path, swap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "x", {"a": writer("old")})
    plain = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return plain(self, target)

    if swap == "renames":
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(nmt.files, "_exchange", full)
    with pytest.raises(OSError, match=r"Input/output error|No space"):
        write_folder(tmp_path / "x", {"a": writer("new")}, overwrite=True)
    assert texts(tmp_path / "x") == {"a": "old"}
    assert names(tmp_path) == ["x"]


def test_a_link_to_a_folder_is_replaced_and_not_followed(tmp_path: Path, swap: str) -> None:
    write_folder(tmp_path / "elsewhere", {"a": writer("precious")})
    (tmp_path / "x").symlink_to("elsewhere")
    write_folder(tmp_path / "x", {"a": writer("new")}, overwrite=True)
    assert not (tmp_path / "x").is_symlink()
    assert texts(tmp_path / "x") == {"a": "new"}
    assert texts(tmp_path / "elsewhere") == {"a": "precious"}
    assert names(tmp_path) == ["elsewhere", "x"]


def test_files_among_others(tmp_path: Path) -> None:
    own = ("a", "b", "c")
    write_files(tmp_path / "x", {"a": writer("old"), "b": writer("old")}, own)
    (tmp_path / "x" / "letter").write_text("dear")
    (tmp_path / "x" / "runs").mkdir()
    (tmp_path / "link").symlink_to("x")
    write_files(tmp_path / "link", {"a": writer("new"), "c": writer("new")}, own)
    assert (tmp_path / "link").is_symlink()
    assert texts(tmp_path / "x") == {"a": "new", "c": "new", "letter": "dear"}
    assert names(tmp_path / "x") == ["a", "c", "letter", "runs"]
    assert names(tmp_path) == ["link", "x"]
    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path / "x", {"a": writer("newer"), "b": full}, own)
    assert texts(tmp_path / "x") == {"a": "new", "c": "new", "letter": "dear"}


def test_removing_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", {"a": writer("1")})
    remove_folder(tmp_path / "x")
    assert names(tmp_path) == []


# --- flushing ---------------------------------------------------------------------------------------------------------


def test_everything_is_flushed_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    plain = os.fsync

    def note(handle: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        plain(handle)

    monkeypatch.setattr(os, "fsync", note)
    with staged_folder(tmp_path / "x") as staged:
        (staged / "train").mkdir()
        (staged / "train" / "ids").write_text("1")
        (staged / "corpus.json").write_text("{}")
        name = staged.name
    assert flushed == ["corpus.json", "ids", "train", name, tmp_path.name]
    flushed.clear()
    with staged_file(tmp_path / "y") as stream:
        stream.write(b"1")
    assert len(flushed) == 2
    assert flushed[0].startswith(".y.")
    assert flushed[1] == tmp_path.name


def test_a_folder_that_cannot_be_flushed_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems flush files only."""

    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match=r"Invalid argument: '.*/a'"):
        sync(tmp_path / "a")


def test_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


# --- kills ------------------------------------------------------------------------------------------------------------


HOWS = [signal.SIGKILL, signal.SIGTERM, "error"]


@pytest.fixture
def strike(struck: Any, tmp_path: Path) -> Callable[..., Iterator[tuple[int, Path]]]:
    """``strike(how, start, work)``: work that is struck once at every step, each in a folder that ``start`` filled.

    Yields the status, and the path that was written, where the next process has cleared up by then.
    """

    def run(how: Any, start: Callable[[Path], object], work: Callable[[Path], object]) -> Iterator[tuple[int, Path]]:
        def once(how: Any, step: int, number: int) -> tuple[int, Path]:
            out = tmp_path / str(number) / "x"
            out.parent.mkdir()
            start(out)
            there = os.path.lexists(out)

            def terminable() -> None:
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
                work(out)

            status = struck(terminable, how, step)
            assert status != 99
            if how != signal.SIGKILL:
                assert os.path.lexists(out) or not there
            settle(out)
            return status, out

        steps, _ = once("count", 0, 0)
        for step in range(steps):
            yield once(how, step, step + 1)

    return run


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("how", HOWS)
def test_a_folder_struck_at_every_step(how: Any, overwrite: bool, swap: str, strike: Any) -> None:
    """The old or the new is there, at once or (after a kill between two renames) when the next process comes."""
    files = {"a": writer("new"), "b": writer("new")}
    old, new = {"a": "old", "c": "old"}, {"a": "new", "b": "new"}

    def start(out: Path) -> None:
        if overwrite:
            write_folder(out, {"a": writer("old"), "c": writer("old")})

    seen = []
    for _, out in strike(how, start, lambda out: write_folder(out, files, overwrite=overwrite)):
        seen.append(texts(out) if out.exists() else {})
        assert seen[-1] in (old if overwrite else {}, new)
        write_folder(out, files, overwrite=True)
        assert texts(out) == new
        assert names(out.parent) == ["x"]
    assert len(seen) >= 6
    assert seen[-1] == new
    assert any(found != new for found in seen)


@pytest.mark.parametrize("how", HOWS)
def test_files_struck_at_every_step(how: Any, strike: Any) -> None:
    """All are old ones or, when the next process comes, all are new ones."""
    own, files = ("a", "b"), {"a": writer("new"), "b": writer("new")}

    def start(out: Path) -> None:
        write_files(out, {"a": writer("old"), "b": writer("old")}, own)
        (out / "runs").mkdir()

    statuses = []
    for status, out in strike(how, start, lambda out: write_files(out, files, own)):
        assert texts(out) in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
        assert names(out.parent) == ["x"]
        assert (out / "runs").is_dir()
        statuses.append(status)
    assert len(statuses) >= 8


@pytest.mark.parametrize("how", HOWS)
def test_a_file_struck_at_every_step(how: Any, strike: Any) -> None:
    statuses = []
    for status, out in strike(how, lambda out: out.write_text("old"), lambda out: write_whole(out, "new")):
        assert out.read_text() in ("old", "new")
        assert names(out.parent) == ["x"]
        statuses.append(status)
    assert len(statuses) >= 2
