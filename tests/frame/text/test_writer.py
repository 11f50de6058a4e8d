"""Output appears whole, or not at all."""

import gzip
import lzma
import os
import threading
from pathlib import Path

import pytest

from nmt.config import ConfigError
from nmt.text.writer import open_output


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open_output(str(path)) as output:
        output.write("Grüße\n")
        output.flush()
        assert not path.exists()
    assert path.read_bytes() == "Grüße\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail() -> None:
        with open_output(str(path)) as output:
            output.write("new")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_compressed(tmp_path: Path) -> None:
    for name, unpack in (("a.gz", gzip.decompress), ("a.xz", lzma.decompress)):
        with open_output(str(tmp_path / name)) as output:
            output.write("line\n")
        assert unpack((tmp_path / name).read_bytes()) == b"line\n"


def test_standard_output_stays_open(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for line in ("one", "zwölf"):
        with open_output("-") as output:
            output.write(f"{line}\n")
    assert capfdbinary.readouterr().out == "one\nzwölf\n".encode()


def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with open_output(str(tmp_path / "link")) as output:
        output.write("line\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out").read_text() == "line\n"

    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    received: list[str] = []
    reader.start()
    with open_output(str(tmp_path / "pipe")) as output:
        output.write("line\n")
    reader.join(timeout=10)
    assert received == ["line\n"]
    assert (tmp_path / "pipe").is_fifo()


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written \(No such file"), open_output(str(tmp_path / "no" / "x")):
        pass
