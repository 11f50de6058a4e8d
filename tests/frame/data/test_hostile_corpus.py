"""Corpora from anyone: whatever is in the files, they are read or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt.config import DataError
from nmt.data.corpus import Corpus

FEW = settings(
    max_examples=settings.default.max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
IDS, OFFSETS = "valid/source.ids", "valid/source.ids_offsets"
LINES = np.arange(5)
TYPES = {"ids": "<u2", "ids_offsets": "<i8", "text": "u1", "text_offsets": "<i8"}


@pytest.fixture
def copy(corpus_folder: Path, tmp_path: Path) -> Path:
    """A corpus that a test may damage."""
    return Path(shutil.copytree(corpus_folder, tmp_path / "copy", dirs_exist_ok=True))


def read_all(folder: Path) -> None:
    """Everything that training and translating read."""
    corpus = Corpus.open(folder, verify=False)
    for name in corpus.splits:
        split = corpus.split(name)
        for side in ("source", "target"):
            split.gather(side, np.arange(len(split)))
            for line in range(min(3, len(split))):
                split.ids(side, line)
            split.texts(side)


def change_array(folder: Path, name: str, change: Any) -> None:
    """Change an array in place: sizes stay, so that opening finds nothing."""
    array = np.memmap(folder / name, TYPES[name.rpartition(".")[2]], "r+")
    change(array)
    array.flush()


@pytest.mark.parametrize("value", [24, 65535])
def test_ids_beyond_the_vocabulary(value: int, copy: Path) -> None:
    change_array(copy, IDS, lambda ids: ids.__setitem__(2, value))
    split = Corpus.open(copy, verify=False).split("valid")
    with pytest.raises(DataError, match=rf"source\.ids: damaged \(id {value} is not in the vocabulary of 24"):
        split.gather("source", np.arange(len(split)))
    holder = int(np.searchsorted(np.cumsum(split.source_lengths), 2, side="right"))
    with pytest.raises(DataError, match="is not in the vocabulary of 24 pieces"):
        split.source_ids(holder)
    split.gather("target", np.arange(len(split)))


def test_the_last_id_of_the_vocabulary_is_read(copy: Path) -> None:
    change_array(copy, IDS, lambda ids: ids.__setitem__(2, 23))
    read_all(copy)


@pytest.mark.parametrize(
    "middle",
    [
        [2**62, -(2**63), -(2**62)],  # every difference overflows to a positive number
        [2**63 - 1, 2**63 - 1, 2**63 - 1],
        [-1, 0, 1],
        [10**9, 10**9, 10**9],
    ],
)
def test_offsets_out_of_order(middle: list[int], copy: Path) -> None:
    change_array(copy, OFFSETS, lambda offsets: offsets.__setitem__(slice(1, 4), middle))
    split = Corpus.open(copy, verify=False).split("valid")
    for read in (lambda: split.source_lengths, lambda: split.source_ids(1), lambda: split.gather("source", LINES)):
        with pytest.raises(DataError, match=r"source\.ids_offsets: damaged \(offsets run backwards\)"):
            read()


def test_offsets_of_text_out_of_order(copy: Path) -> None:
    change_array(copy, "valid/target.text_offsets", lambda offsets: offsets.__setitem__(1, 10**12))
    split = Corpus.open(copy, verify=False).split("valid")
    for line in (0, 1):
        with pytest.raises(DataError, match=r"target\.text_offsets: damaged \(offsets run backwards\)"):
            split.target_text(line)
    assert split.target_text(2)


@pytest.mark.parametrize("place", [3, -1])
def test_lines_of_text_end_where_the_offsets_say(place: int, copy: Path) -> None:
    change_array(copy, "valid/target.text", lambda text: text.__setitem__(place, ord("x") if place < 0 else ord("\n")))
    split = Corpus.open(copy, verify=False).split("valid")
    line = place % len(split) if place < 0 else 0
    with pytest.raises(DataError, match=rf"target\.text: damaged \(line {line + 1} is not one line\)"):
        split.target_text(line)


def test_a_manifest_that_says_another_size_of_the_vocabulary(copy: Path) -> None:
    """Ids of four bytes, which the file of two-byte ids could be taken for."""
    content = json.loads((copy / "corpus.json").read_text(encoding="utf-8"))
    content["vocabulary"]["sizes"] = {"source": 70000, "target": 70000}
    for split in content["splits"].values():
        for side, tokens in split["tokens"].items():
            split["tokens"][side] = tokens // 2
            split["files"][f"{side}.ids"]["bytes"] = tokens // 2 * 4
    (copy / "corpus.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"corpus\.json: says 70000 pieces of the source, but the model has 24"):
        Corpus.open(copy)


def test_links_that_lead_out(copy: Path, corpus_folder: Path, tmp_path: Path) -> None:
    name = "source.ids"
    (copy / "valid" / name).unlink()
    (copy / "valid" / name).symlink_to(corpus_folder / "valid" / name)
    with pytest.raises(DataError, match=r"source\.ids: a link that leads out of"):
        Corpus.open(copy, verify=False).split("valid")
    shutil.rmtree(copy / "valid")
    (copy / "valid").symlink_to(corpus_folder / "valid")
    with pytest.raises(DataError, match="valid: a link that leads out of"):
        Corpus.open(copy, verify=False).split("valid")
    (tmp_path / "door").symlink_to(corpus_folder)  # the user's own link to a corpus
    assert len(Corpus.open(tmp_path / "door").split("valid")) == 20


@pytest.mark.parametrize("name", ["corpus.json", "sentencepiece.model"])
def test_links_at_the_top_that_lead_out(name: str, copy: Path, corpus_folder: Path) -> None:
    (copy / name).unlink()
    (copy / name).symlink_to(corpus_folder / name)
    with pytest.raises(DataError, match=f"{name}: a link that leads out of {copy}"):
        Corpus.open(copy)
    (copy / name).unlink()
    shutil.copy(corpus_folder / name, copy / "other")
    (copy / name).symlink_to("other")
    assert len(Corpus.open(copy).split("test")) == 25


@pytest.mark.parametrize("side", ["source", "target"])
def test_links_to_vocabularies_that_lead_out(side: str, prepare: Any, raw: Path, tmp_path: Path) -> None:
    texts = {name: str(raw / name) for name in ("train", "valid")}
    prepare(**texts, out=str(tmp_path / "out"), joint=False)
    name = f"sentencepiece.{side}.model"
    (tmp_path / "out" / name).rename(tmp_path / name)
    (tmp_path / "out" / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: a link that leads out of .*out$"):
        Corpus.open(tmp_path / "out")


@FEW
@given(data=st.data())
def test_any_manifest_is_read_or_refused(
    data: st.DataObject, corpus_folder: Path, copy: Path, spoilt_value: Any, spoilt_bytes: Any, only_refused: Any
) -> None:
    content = (corpus_folder / "corpus.json").read_bytes()
    if data.draw(st.booleans()):
        content = json.dumps(spoilt_value(data, json.loads(content))).encode()
    else:
        content = spoilt_bytes(data, content)
    (copy / "corpus.json").write_bytes(content)
    only_refused(lambda: read_all(copy))


@FEW
@given(data=st.data())
def test_any_arrays_are_read_or_refused(
    data: st.DataObject, corpus_folder: Path, copy: Path, spoilt_bytes: Any, only_refused: Any
) -> None:
    """Sizes stay as corpus.json says: what is changed lies behind that check."""
    kind = data.draw(st.sampled_from(["ids", "ids_offsets", "text", "text_offsets"]))
    name = f"valid/source.{kind}"
    content = (corpus_folder / name).read_bytes()
    changed = spoilt_bytes(data, content) + bytes(len(content))
    (copy / name).write_bytes(changed[: len(content)])
    only_refused(lambda: read_all(copy))
    (copy / name).write_bytes(content)
