"""Writing files whole."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from nmt.files import file_digest, is_leftover, remove_leftovers, sync, temporary_name, write_text


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'$"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_flushed_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems flush files only."""

    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "a")


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", ".lock", ".b.tmp.c", "d.tmp"):
        (tmp_path / name).write_text("x")
    kept = sorted(p.name for p in tmp_path.iterdir())
    temporary_name(tmp_path / "a").write_text("half")
    temporary_name(tmp_path / "link").symlink_to(tmp_path)
    temporary_name(tmp_path / "folder").mkdir()
    (temporary_name(tmp_path / "folder") / "file").write_text("half")
    assert is_leftover(temporary_name(tmp_path / "a"))
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == kept


def test_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()
