"""Files of torch.save: torch's own reader is the reference; hostile files are refused in one line."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from nmt.config import DataError
from nmt.interchange.torch_file import StoredTensor, TorchFile


def state() -> dict[str, Tensor]:
    shared = torch.randn(6, 4)
    return {
        "plain": torch.randn(3, 5),
        "transposed": torch.randn(4, 6).t(),
        "slice": torch.randn(10, 4)[3:7, 1:],
        "half": torch.randn(7).half(),
        "bfloat16": torch.randn(2, 3).bfloat16(),
        "double": torch.randn(3).double(),
        "long": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "tied": shared,
        "tied too": shared,
        "parameter": nn.Parameter(torch.randn(2, 2)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_come_back(zipped: bool, tmp_path: Path) -> None:
    saved = {"model": state(), "epoch": 3}
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    file = TorchFile(tmp_path / "x.pt")
    assert file.value["epoch"] == 3
    expected = torch.load(tmp_path / "x.pt", weights_only=True)["model"]
    stored = file.tensors(file.value["model"], "model")
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        found = file.read(stored[name])
        assert found.dtype == tensor.dtype
        assert found.is_contiguous()
        assert_close(found, tensor.detach(), rtol=0, atol=0)


def test_state_of_a_module(tmp_path: Path) -> None:
    """An ordered dict with attributes (``_metadata``)."""
    model = nn.TransformerEncoderLayer(8, 2)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    file = TorchFile(tmp_path / "x.pt")
    found = {name: file.read(t) for name, t in file.tensors(file.value, "it").items()}
    assert_close(found, dict(model.state_dict()), rtol=0, atol=0)


def rewrite(path: Path, *, change: Any = None, compress: bool = False, drop: str = "", cut: str = "") -> None:
    """Write an archive again, with its data.pkl changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in entries.items():
            if drop and name.endswith(drop):
                continue
            if change and name.endswith("data.pkl"):
                data = change(data)
            archive.writestr(name, data[:-4] if cut and name.endswith(cut) else data)


def save(path: Path, tensor: Tensor | None = None) -> Path:
    torch.save({"w": torch.arange(12.0).view(3, 4) if tensor is None else tensor}, path)
    return path


class Rebuilt:
    """Pickles as a tensor of any claimed layout."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.args


def claim(
    path: Path, *, offset: Any = 0, shape: Any = (3, 4), stride: Any = (4, 1), numel: Any = 12, names: int = 1
) -> Path:
    """A file whose tensors claim a layout over a storage of 12 numbers, or of ``numel`` where there are many."""
    save(path, None if names == 1 else torch.zeros(numel))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if value == "STORAGE" else None

    file = io.BytesIO()
    tensor = Rebuilt("STORAGE", offset, shape, stride, False, {})
    Pickler(file, 2).dump({f"w{i}": tensor for i in range(names)})
    rewrite(path, change=lambda _: file.getvalue())
    return path


def read_all(path: Path) -> dict[str, Tensor]:
    file = TorchFile(path)
    return {name: file.read(t) for name, t in file.tensors(file.value, "it").items()}


def test_claims_that_fit_are_read(tmp_path: Path) -> None:
    found = read_all(claim(tmp_path / "x.pt", offset=1, shape=(2, 2), stride=(4, 2)))
    assert_close(found["w0"], torch.tensor([[1.0, 3.0], [5.0, 7.0]]))


@pytest.mark.parametrize(
    "layout",
    [
        {"numel": 13},
        {"numel": 1 << 40},
        {"numel": -1},
        {"numel": 12.0},
        {"offset": 1},
        {"offset": -1},
        {"shape": (1 << 20, 1 << 20), "stride": (0, 0)},
        {"shape": (4, 4)},
        {"shape": (3,)},
        {"shape": (-3, 4)},
        {"shape": (3, 4), "stride": (-4, 1)},
        {"shape": (1 << 60,), "stride": (1,)},
        {"shape": "ab", "stride": "cd"},
        {"shape": None},
    ],
    ids=str,
)
def test_claims_that_do_not_fit_are_refused(layout: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.pt: .*(fit its storage|can be read|more elements|claim more)"):
        read_all(claim(tmp_path / "x.pt", **layout))


def test_many_names_of_one_storage_are_refused(tmp_path: Path) -> None:
    path = claim(tmp_path / "x.pt", shape=(50_000,), stride=(1,), numel=50_000, names=40)
    with pytest.raises(DataError, match="its tensors claim more than the file holds"):
        read_all(path)


def test_attacks_in_a_file_do_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    for zipped in (True, False):
        torch.save({"w": Attack(), "t": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        assert set(read_all(tmp_path / "x.pt")) == {"t"}
        assert not mark.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)  # the attack is real
    assert mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_files(zipped: bool, share: float, tmp_path: Path) -> None:
    torch.save({"w": torch.randn(400)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"x\.pt: ") as caught:
        read_all(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress": True}, "is compressed; torch.save does not compress"),
        ({"drop": "data.pkl"}, "a zip archive, but not one of torch.save"),
        ({"drop": "data/0"}, "w does not fit its storage"),
        ({"cut": "data/0"}, "w does not fit its storage"),
        ({"change": lambda data: data[:-9]}, "not a pickle that can be read"),
    ],
)
def test_changed_archives(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    rewrite(save(tmp_path / "x.pt"), **changes)
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02K\x01."])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.pt: "):
        read_all(tmp_path / "x.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        TorchFile(tmp_path / "x.pt")


def test_what_is_no_state(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "x.pt")
    file = TorchFile(tmp_path / "x.pt")
    with pytest.raises(DataError, match="model is not a dict of tensors"):
        file.tensors(file.value, "model")


def test_reading_takes_no_more_than_the_storage(tmp_path: Path) -> None:
    file = TorchFile(save(tmp_path / "x.pt"))
    (stored,) = file.tensors(file.value, "it").values()
    assert stored == StoredTensor((3, 4), (4, 1), 0, torch.float32, "0", 11)
