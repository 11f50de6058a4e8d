"""A checkpoint that fairseq trained, and fairseq's own translations: every line comes out again."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import pytest

import nmt
from nmt.checkpoints.checkpoint import Checkpoint
from nmt.commands.generate import main as generate
from nmt.generation.options import SearchOptions
from nmt.interchange.importing import import_checkpoint

EMPTY_BEGINS = [16, 60, 112, 295, 332, 428, 448, 469, 503, 545, 546, 621, 648, 670, 730, 815, 935, 973, 974]
"""Lines that come out otherwise where an empty hypothesis may take one of the beam's places."""


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> tuple[list[str], list[str]]:
    """The sources, and what fairseq made of them."""
    with lzma.open(shared_data / "multi30k" / "test_2016_flickr.en.xz", "rt", encoding="utf-8", newline="\n") as file:
        sources = file.read().split("\n")[:-1]
    return sources, (shared_data / "fairseq_small" / "test_2016_flickr.beam5.hyp.de").read_text(encoding="utf-8").split(
        "\n"
    )[:-1]


@pytest.fixture(scope="module")
def imported(shared_data: Path, tmp_path_factory: Any) -> Path:
    out: Path = tmp_path_factory.mktemp("imported") / "checkpoint"
    import_checkpoint("fairseq", shared_data / "fairseq_small" / "checkpoint.pt", out)
    return out


def test_the_search_of_fairseq_is_carried(imported: Path) -> None:
    assert Checkpoint.find(imported).config.search == {"max_length_ratio": 0.0, "max_length_offset": 200}
    assert SearchOptions().min_length == 1


def test_lines_are_those_of_fairseq(imported: Path, texts: Any) -> None:
    sources, expected = texts
    places = [line - 1 for line in EMPTY_BEGINS] + list(range(0, 1000, 50))
    found = nmt.load(imported, device="cpu").translate([sources[i] for i in places])
    assert found == [expected[i] for i in places]


@pytest.mark.slow
def test_all_thousand_lines_are_those_of_fairseq(imported: Path, texts: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """By the command, with its default search."""
    sources, expected = texts
    (tmp_path / "test.en").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    arguments = [f"checkpoint={imported}", f"input={tmp_path / 'test.en'}", f"output={tmp_path / 'test.de'}"]
    monkeypatch.setattr("sys.argv", ["nmt-generate", *arguments, "device=cpu"])
    generate()
    found = (tmp_path / "test.de").read_text(encoding="utf-8").split("\n")[:-1]
    assert found == expected
