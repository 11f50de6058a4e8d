"""Reading weights in place, against safetensors' own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nmt.checkpoints.weights import DTYPES, read_into
from nmt.config import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {
        "matrix": torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        **{name: (torch.rand(4, 3) * 3).to(dtype) for name, dtype in DTYPES.items()},
    }
    save_file(tensors, tmp_path / "weights.safetensors", metadata={"format": "pt"})
    return tmp_path / "weights.safetensors"


def test_fills_in_place(path: Path) -> None:
    expected = load_file(path)
    targets = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    places = {name: tensor.data_ptr() for name, tensor in targets.items()}
    read_into(path, targets)
    for name, tensor in targets.items():
        assert_close(tensor, expected[name], rtol=0, atol=0)
        assert tensor.data_ptr() == places[name]


def test_casts_and_fills_views(path: Path) -> None:
    expected = load_file(path)
    targets = {"F16": torch.zeros(4, 3), "F32": torch.zeros(3, 4).t(), "matrix": torch.zeros(3, 5, dtype=torch.float64)}
    read_into(path, targets)
    for name, tensor in targets.items():
        assert_close(tensor, expected[name].to(tensor.dtype), rtol=0, atol=0)


def test_kinds_of_numbers_do_not_mix(path: Path) -> None:
    with pytest.raises(DataError, match=r"I64 holds torch\.int64, the model needs torch\.float32"):
        read_into(path, {"I64": torch.zeros(4, 3)})


def test_truncated_file(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    targets = {name: torch.zeros_like(tensor) for name, tensor in load_file_of(content, path).items()}
    with pytest.raises(DataError, match="truncated"):
        read_into(path, targets)


def load_file_of(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    whole = path.with_name("whole.safetensors")
    whole.write_bytes(content)
    return load_file(whole)
