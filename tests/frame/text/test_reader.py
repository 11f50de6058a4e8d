import contextlib
import gzip
import hashlib
import lzma
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.config import ConfigError, DataError
from nmt.text import reader
from nmt.text.reader import MAX_LINE_BYTES, ParallelText, TextFile, find_text

TEXT = "eins\nzwei\u2028noch zwei\x85\x0b\x0c\x1c und zwei\n\n  vier \u00a0\n"
LINES = ["eins", "zwei\u2028noch zwei\x85\x0b\x0c\x1c und zwei", "", "  vier \u00a0"]


def read(path):
    with TextFile(path) as text:
        return list(text)


@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".gz", gzip.open), (".xz", lzma.open)])
def test_only_line_feeds_end_lines(tmp_path, suffix, opener):
    path = tmp_path / f"a.de{suffix}"
    with opener(path, "wb") as stream:
        stream.write(TEXT.encode())
    assert find_text(tmp_path / "a", "de") == path
    with TextFile(path) as text:
        assert list(text) == LINES
        assert text.lines == 4
        assert text.digest.hexdigest() == hashlib.sha256(TEXT.encode()).hexdigest()
        assert text.position == text.size == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
    ],
)
def test_line_ends_and_byte_order_mark(tmp_path, content, lines):
    path = tmp_path / "a.de"
    path.write_bytes(content)
    assert read(path) == lines


def test_invalid_utf8_names_file_and_line(tmp_path):
    path = tmp_path / "a.de"
    path.write_bytes(b"gut\nauch gut\nk\xf6nnen\n")
    with pytest.raises(DataError, match=r"a\.de:3: not UTF-8 \(byte 0xf6 at column 2\)"):
        read(path)


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".xz", lzma)])
@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_damaged_compression_names_the_file(tmp_path, suffix, module, damage):
    path = tmp_path / f"a.de{suffix}"
    content = module.compress(b"".join(b"line %d\n" % i for i in range(5000)))
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"plain text\n")
    with pytest.raises(DataError, match=rf"a\.de\{suffix}: damaged or truncated after line \d+"):
        read(path)


def test_plain_comes_before_compressed(tmp_path):
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"x\n"))
    assert find_text(tmp_path / "a", "de").name == "a.de.gz"
    (tmp_path / "a.de").write_bytes(b"x\n")
    assert find_text(tmp_path / "a", "de").name == "a.de"


PARTS = ["a", "ж", "\ufeff", "\r", "\n", "\x85", "\0"]
CONTENTS = st.lists(st.sampled_from([*(part.encode() for part in PARTS), b"\xff"]), max_size=30).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=CONTENTS, size=st.integers(1, 9))
def test_how_much_is_read_at_once_does_not_matter(content, size, tmp_path):
    path = tmp_path / "a.de"
    path.write_bytes(content)
    raw = content.removeprefix("\ufeff".encode()).split(b"\n")
    if content.endswith(b"\n") or not content:
        raw.pop()
    bad = next((number for number, line in enumerate(raw) if b"\xff" in line), len(raw))
    message = "never raised"
    if bad < len(raw):
        message = rf"a\.de:{bad + 1}: not UTF-8 \(byte 0xff at column {raw[bad].index(0xFF) + 1}\)"
    found = []
    with pytest.MonkeyPatch.context() as patch, TextFile(path) as text:
        patch.setattr(reader, "READ_BYTES", size)
        with pytest.raises(DataError, match=message) if bad < len(raw) else contextlib.nullcontext():
            for number, line in enumerate(text, 1):
                found.append(line)
                assert text.lines == number
            assert text.digest.hexdigest() == hashlib.sha256(content).hexdigest()
    assert found == [line.decode().removesuffix("\r") for line in raw[:bad]]


@pytest.mark.timeout(20)
def test_lines_of_a_pipe_are_there_when_they_are_written(tmp_path):
    os.mkfifo(tmp_path / "a.de")
    handle = os.open(tmp_path / "a.de", os.O_RDWR)
    try:
        with TextFile(tmp_path / "a.de") as text:
            lines = iter(text)
            os.write(handle, b"one\ntwo\nthr")
            assert [next(lines), next(lines)] == ["one", "two"]
            os.write(handle, b"ee\n")
            assert next(lines) == "three"
    finally:
        os.close(handle)


def test_a_missing_text_says_what_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file: .*none\.de \(nor the same with \.gz or \.xz\)"):
        find_text(tmp_path / "none", "de")


def write(folder, source, target):
    for language, lines in (("en", source), ("de", target)):
        (folder / f"a.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_parallel_lines_are_read_in_step(tmp_path):
    write(tmp_path, ["one", "two", ""], ["eins", "", "drei"])
    with ParallelText(tmp_path / "a.en", tmp_path / "a.de") as text:
        assert list(text) == [("one", "eins"), ("two", ""), ("", "drei")]
        assert text.position == text.size == len("one\ntwo\n\n") + len("eins\n\ndrei\n")


@pytest.mark.parametrize(("source", "target"), [(7, 3), (3, 7), (0, 1), (4, 3)])
def test_unequal_files_are_refused_with_both_counts(tmp_path, source, target):
    write(tmp_path, ["x"] * source, ["y"] * target)
    with (
        ParallelText(tmp_path / "a.en", tmp_path / "a.de") as text,
        pytest.raises(DataError, match=rf"a\.en has {source} lines but .*a\.de has {target}:"),
    ):
        list(text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, suffix):
    """A GiB of zeros is 150 KiB of xz."""
    path, block = tmp_path / f"a.en{suffix}", b"\0" * (1 << 20)
    pack = {"": open, ".gz": gzip.open, ".xz": lzma.open}[suffix]
    with pack(path, "wb") as file:
        file.write(b"short\n")
        for _ in range(64 if suffix else 20):
            file.write(block)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"a\.en{suffix}:2: longer than 16 MiB; is it text\?"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 56 << 20
    finally:
        tracemalloc.stop()


def test_the_longest_line_is_read(tmp_path):
    path = tmp_path / "a.en"
    path.write_bytes(b"x" * (MAX_LINE_BYTES - 1) + b"\ny")
    assert [len(line) for line in read(path)] == [MAX_LINE_BYTES - 1, 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["", ".gz", ".xz"]))
def test_any_bytes_are_lines_or_refused(data, suffix, tmp_path, spoilt_bytes, only_refused):
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    path = tmp_path / f"a.en{suffix}"
    path.write_bytes(spoilt_bytes(data, pack("ein Satz\nzwei Sätze\n".encode() * 5)))
    only_refused(lambda: read(path))
