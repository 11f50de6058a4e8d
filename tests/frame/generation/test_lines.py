"""Reading blocks of lines, alone and beside another file."""

import gzip
import io
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.config import ConfigError, DataError
from nmt.generation.lines import Block, blocks
from nmt.text.input import open_text


def read(path: Path, size: int = 2, beside: Path | None = None) -> list[Block]:
    with open_text(str(path), "input") as lines:
        if beside is None:
            return list(blocks(lines, None, size, str(path)))
        with open_text(str(beside), "prefix") as others:
            return list(blocks(lines, others, size, str(path)))


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"]))), st.integers(1, 4))
@settings(max_examples=40)
def test_every_line_comes_back_in_order(tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int) -> None:
    path = tmp_path_factory.mktemp("lines") / "x"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    found = read(path, size)
    assert [line for block in found for line in block.lines] == lines
    assert [block.first for block in found] == list(range(0, len(lines), size))


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_text(tmp_path: Path, suffix: str, pack: Any) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(pack("a\u2028b\r\n\nlast".encode()))
    assert [block.lines for block in read(path)] == [["a\u2028b", ""], ["last"]]


def test_invalid_utf8_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"fine\nalso\nbr\xffken\n")
    with pytest.raises(DataError, match=rf"{path}:3: not UTF-8"):
        read(path)


def test_missing_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input=\S*nowhere: cannot be read \(No such file"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(("sources", "others"), [(3, 5), (5, 3), (4, 0), (0, 1), (4, 5)])
def test_files_of_different_length(tmp_path: Path, sources: int, others: int) -> None:
    (tmp_path / "a").write_text("s\n" * sources)
    (tmp_path / "b").write_text("p\n" * others)
    with pytest.raises(DataError, match=rf"a has {sources} lines but \S*b has {others}"):
        read(tmp_path / "a", 2, tmp_path / "b")


def test_lines_beside(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n2\n3\n")
    (tmp_path / "b").write_text("x\n\nz\n")
    found = read(tmp_path / "a", 2, tmp_path / "b")
    assert [(b.first, b.lines, b.beside) for b in found] == [(0, ["1", "2"], ["x", ""]), (2, ["3"], ["z"])]


def test_standard_input_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO(b"first\nsecond\nthi\xffd\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    with open_text("-", "input") as lines:
        found = blocks(lines, None, 1, "standard input")
        assert next(found).lines == ["first"]
        assert next(found).lines == ["second"]
        with pytest.raises(DataError, match="standard input:3: not UTF-8"):
            next(found)
    assert not stream.closed


def test_shares_cover_a_block() -> None:
    block = Block(10, ["a", "b", "c", "d", "e"], ["1", "2", "3", "4", "5"])
    assert block.share(0, 2) == Block(10, ["a", "c", "e"], ["1", "3", "5"])
    assert block.share(1, 2) == Block(10, ["b", "d"], ["2", "4"])
