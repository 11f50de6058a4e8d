"""Folders of other toolkits from anyone: they are imported or refused in one line."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marian_model import SSRU, Marian, train_spm
from safetensors.torch import load_file, save_file

from nmt.config import DataError
from nmt.interchange.export import export_checkpoint
from nmt.interchange.importing import import_checkpoint
from nmt.interchange.marian_words import read_words
from nmt.interchange.npz import read_npz
from nmt.interchange.torch_file import TorchFile
from nmt.text.vocabulary import VocabularyPair

FEW = settings(
    max_examples=settings.default.max_examples // 4, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def marian(write_checkpoint: Any, tmp_path: Path, two_vocabularies: VocabularyPair) -> Path:
    post = [f"{side}.layer.norm_position=post" for side in ("encoder", "decoder")]
    checkpoint = write_checkpoint(*post, "embedding.share=none", vocabularies=two_vocabularies)
    export_checkpoint(checkpoint, "hf", tmp_path / "hf")
    return tmp_path / "hf"


def import_again(folder: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    import_checkpoint("hf", folder, out)


def test_it_is_imported(marian: Path, tmp_path: Path) -> None:
    import_again(marian, tmp_path / "out")


@FEW
@given(data=st.data())
def test_any_json_is_imported_or_refused(
    data: st.DataObject, marian: Path, tmp_path: Path, spoilt_value: Any, only_refused: Any
) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in marian.glob("*.json"))))
    before = (marian / name).read_bytes()
    (marian / name).write_text(json.dumps(spoilt_value(data, json.loads(before))))
    only_refused(lambda: import_again(marian, tmp_path / "out"))
    (marian / name).write_bytes(before)


@FEW
@given(data=st.data())
def test_any_shapes_are_imported_or_refused(
    data: st.DataObject, marian: Path, tmp_path: Path, only_refused: Any
) -> None:
    before = (marian / "model.safetensors").read_bytes()
    tensors = load_file(marian / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(tensors)))
    shape = data.draw(st.lists(st.integers(0, 6), max_size=3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.int64, torch.bool, torch.complex64, torch.float16]))
    tensors[data.draw(st.sampled_from([name, "x", f"{name}.x"]))] = torch.zeros(shape, dtype=dtype)
    save_file(tensors, marian / "model.safetensors")
    only_refused(lambda: import_again(marian, tmp_path / "out"))
    (marian / "model.safetensors").write_bytes(before)


@FEW
@given(data=st.data())
def test_any_pieces_are_imported_or_refused(
    data: st.DataObject, marian: Path, tmp_path: Path, spoilt_bytes: Any, only_refused: Any
) -> None:
    before = (marian / "source.spm").read_bytes()
    (marian / "source.spm").write_bytes(spoilt_bytes(data, before[:700]) + before[700:])
    only_refused(lambda: import_again(marian, tmp_path / "out"))
    (marian / "source.spm").write_bytes(before)


def test_positions_that_would_take_all_memory(marian: Path, tmp_path: Path) -> None:
    """A table of 65,536 positions 70,000 wide has 18 GiB; the file has 9 MiB."""
    config = json.loads((marian / "config.json").read_text())
    (marian / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 65536}))
    tensors = {name: t for name, t in load_file(marian / "model.safetensors").items() if "embed_positions" not in name}
    for name in list(tensors):
        if "embed_tokens" in name or name in ("model.shared.weight", "lm_head.weight"):
            tensors[name] = torch.zeros(len(tensors[name]), 70_000)
    save_file(tensors, marian / "model.safetensors")
    with pytest.raises(DataError, match="max_position_embeddings=65536 is too large for a width of 70000"):
        import_again(marian, tmp_path / "out")


# --- files of torch.save ----------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans())
def test_any_torch_file_is_read_or_refused(
    data: st.DataObject, zipped: bool, tmp_path: Path, spoilt_bytes: Any, only_refused: Any
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(2, 3), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(spoilt_bytes(data, path.read_bytes()))

    def read() -> None:
        file = TorchFile(path)
        for stored in file.tensors(file.value, "it").values():
            file.read(stored)

    only_refused(read)


def test_names_in_an_archive_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/é", b"")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"x\.pt: truncated or not a file of torch\.save"):
        TorchFile(path)


def test_offsets_in_an_archive_beyond_any_file(tmp_path: Path) -> None:
    """A zip64 field may claim 2^64 - 1."""
    path = tmp_path / "x.pt"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 0, 0, 8, 12, 0, 0, 0, 0, 2**32 - 1)
    entry += b"x/data/0" + struct.pack("<HHQ", 1, 8, 2**64 - 1)
    last = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0) + b"x/data.pkl"
    head = b"PK\3\4" + bytes(40)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(entry + last), len(head), 0)
    path.write_bytes(head + entry + last + end)
    with pytest.raises(DataError, match=r"x\.pt: truncated or not a file of torch\.save"):
        TorchFile(path)


def test_many_names_of_one_large_storage(tmp_path: Path) -> None:
    """Two elements far apart in one storage: reading all names would read the file a thousand times."""
    path = tmp_path / "x.pt"
    storage = torch.zeros(100_000)
    torch.save({f"t{i}": storage.as_strided((2,), (99_999,)) for i in range(1000)}, path)
    file = TorchFile(path)
    with pytest.raises(DataError, match="its tensors claim more than the file holds"):
        file.tensors(file.value, "it")


# --- files of Marian --------------------------------------------------------------------------------------------------


@FEW
@given(data=st.data())
def test_any_weights_are_imported_or_refused(
    data: st.DataObject, tmp_path: Path, texts: Any, only_refused: Any
) -> None:
    folder = tmp_path / "marian"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.spm").write_bytes(train_spm(texts[0], 27))
    model = Marian((27, 27), **data.draw(st.sampled_from([{}, SSRU, {"tied-embeddings-all": False}])))
    name = data.draw(st.sampled_from(sorted(model.weights)))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 16, 27]), max_size=3))
    dtype = data.draw(st.sampled_from([np.float32, np.float16, np.int8, np.float64]))
    model.weights[data.draw(st.sampled_from([name, name, "x", f"{name}x"]))] = np.zeros(shape, dtype)
    model.save(folder / "model.npz")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    only_refused(lambda: import_checkpoint("marian", folder, tmp_path / "out"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_archive_of_numbers_is_read_or_refused(
    data: st.DataObject, tmp_path: Path, spoilt_bytes: Any, only_refused: Any
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros((2, 3), np.float32), b=np.ones((1, 4), np.float16), c=np.zeros(0, np.int8))
    path.write_bytes(spoilt_bytes(data, path.read_bytes()))
    only_refused(lambda: read_npz(path, "it"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_list_of_words_is_read_or_refused(
    data: st.DataObject, tmp_path: Path, spoilt_bytes: Any, only_refused: Any
) -> None:
    path = tmp_path / "vocab.yml"
    good = "</s>: 0\n<unk>: 1\n\"\\\"\\x41\\u00e4\\n\": 2\n'it''s': 3\n? word\n: 4\n~: 5\n"
    path.write_bytes(spoilt_bytes(data, good.encode()))
    only_refused(lambda: read_words(path, 9))
