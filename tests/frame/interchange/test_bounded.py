"""What is built of a foreign file is bounded by its bytes: no operation may repeat what another one made."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.config import DataError
from nmt.interchange import archive, inert
from nmt.interchange.archive import read_directory
from nmt.interchange.importing import import_checkpoint
from nmt.interchange.inert import Record, read_pickle, show
from nmt.interchange.pieces import check_words
from nmt.interchange.torch_file import TorchFile
from nmt.untrusted import MAX_JSON_VALUES, parse_json

SIZE = 500
"""Of what is memoised, and how often it is used: repeated, it would be 250,000 items, 2 MB and more."""

PEAK = 1_000_000
ORDERED, LIST, TUPLE, DICT, TEXT, BYTES, PAIRS, NAME = (b"h" + bytes([i]) for i in range(8))


def memoised() -> bytes:
    """A pickle's beginning: large values in the memo, nothing on the stack."""
    numbers = b"".join(b"M" + struct.pack("<H", i) for i in range(SIZE))
    items = b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(SIZE))
    pairs = b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(SIZE))
    size = struct.pack("<I", 4 * SIZE)
    parts = [
        b"ccollections\nOrderedDict\n",
        b"](" + numbers + b"e",
        b"(" + numbers + b"t",
        b"}(" + items + b"u",
        b"X" + size + b"a" * 4 * SIZE,
        b"B" + size + b"a" * 4 * SIZE,
        b"](" + pairs + b"e",
        b"cos\nsystem\n",
    ]
    return b"\x80\x04" + b"".join(part + b"\x940" for part in parts)


LARGE = {"list": LIST, "tuple": TUPLE, "dict": DICT, "text": TEXT, "bytes": BYTES, "pairs": PAIRS}
OPERATIONS: dict[str, Callable[[bytes], bytes]] = {
    "get": lambda x: x,
    "dup": lambda x: x + b"2",
    "memoise": lambda x: x + b"\x94",
    "put": lambda x: x + b"p7777\n",
    "tuple of one": lambda x: x + b"\x85",
    "tuple of two": lambda x: x + x + b"\x86",
    "tuple of three": lambda x: x + x + x + b"\x87",
    "tuple": lambda x: b"(" + x + b"t",
    "list": lambda x: b"(" + x + b"l",
    "dict": lambda x: b"(" + x + x + b"d",
    "set item": lambda x: b"}" + x + x + b"s",
    "set items": lambda x: b"}(" + x + x + b"u",
    "append": lambda x: b"]" + x + b"a",
    "append to itself": lambda x: LIST + x + b"a",
    "appends": lambda x: b"](" + x + b"e",
    "add items": lambda x: b"\x8f(" + x + b"\x90",
    "frozen set": lambda x: b"(" + x + b"\x91",
    "call": lambda x: NAME + x + b"R",
    "call of one": lambda x: NAME + x + b"\x85R",
    "call of it": lambda x: x + b")R",
    "new object": lambda x: NAME + x + b"\x81",
    "new object with keywords": lambda x: NAME + x + x + b"\x92",
    "object": lambda x: b"(" + NAME + x + b"o",
    "instance": lambda x: b"(" + x + b"ios\nsystem\n",
    "build": lambda x: NAME + b")R" + x + b"b",
    "persistent id": lambda x: x + b"Q",
    "global": lambda x: x + x + b"\x93",
    "ordered dict": lambda x: ORDERED + x + b"\x85R",
    "ordered dict of arguments": lambda x: ORDERED + x + b"R",
    "new ordered dict": lambda x: ORDERED + x + b"\x85\x81",
    "ordered dict as object": lambda x: b"(" + ORDERED + x + b"o",
    "ordered dict as instance": lambda x: b"(" + x + b"icollections\nOrderedDict\n",
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_no_operation_repeats_what_is_memoised(operation: Callable[[bytes], bytes], monkeypatch: Any) -> None:
    # What an ordered dict copies counts as operations: as many as this file has are allowed here.
    monkeypatch.setattr(inert, "MAX_ITEMS", 16 * SIZE)
    for name, place in LARGE.items():
        data = memoised() + b"(" + operation(place) * SIZE + b"l."
        tracemalloc.start()
        with contextlib.suppress(DataError):
            read_pickle(io.BytesIO(data), "x.pkl")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < PEAK, f"{name}: {peak} bytes for a pickle of {len(data)}"


def test_every_operation_is_carried_out_or_refused() -> None:
    """An operation that a later Python adds is looked at before it is let in."""
    import pickletools

    known = inert._PUSH | inert._ACTIONS.keys() | inert._NOTHING
    assert {op.name for op in pickletools.opcodes} - known == {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}


@pytest.mark.parametrize("long", [b"X", b"B"], ids=["text", "bytes"])
def test_long_keys_are_not_compared(long: bytes) -> None:
    """Two equal keys of 1 MB, in turn: each use would compare them."""
    text = long + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    data = b"\x80\x04" + text + b"\x940" + text + b"\x940}" + b"h\x00Nsh\x01Ns" * 10_000 + b"."
    assert all(isinstance(key, Record) for key in read_pickle(io.BytesIO(data), "x.pkl"))


def test_values_in_messages_are_short() -> None:
    doubled: list[Any] = ["x"]
    for _ in range(100):
        doubled = [doubled, doubled]
    assert [show(v) for v in ("a" * 999, 7, 10**6000, None, doubled)] == [
        f"'{'a' * 79}...",
        "7",
        "a int",
        "None",
        "a list",
    ]


# --- files of torch.save ----------------------------------------------------------------------------------------------


def torch_file(path: Path, value: Any, storage: bytes = b"") -> Path:
    """An archive with a storage "0"."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", len(storage) // 4) if value == "STORAGE" else None

    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x/data.pkl", file.getvalue())
        made.writestr("x/data/0", storage)
    return path


class Rebuilt:
    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.args


def test_one_shape_of_many_tensors_is_not_copied(tmp_path: Path) -> None:
    """1,000 dimensions of size 1 fit any storage."""
    tensor = Rebuilt("STORAGE", 0, [1] * 1000, [0] * 1000, False, {})
    file = TorchFile(torch_file(tmp_path / "x.pt", {f"w{i}": tensor for i in range(1000)}, bytes(4)))
    with pytest.raises(DataError, match="w0 is not a tensor that can be read"):
        file.tensors(file.value, "it")


def test_tensors_that_are_one_are_read_once(tmp_path: Path) -> None:
    """Tied matrices stand under several names."""
    shared = torch.randn(1000, 10)
    torch.save({"a": shared, "b": shared, "c": torch.randn(10)}, tmp_path / "x.pt")
    file = TorchFile(tmp_path / "x.pt")
    found = file.weights(file.value, "it")
    assert found["a"] is found["b"]
    assert torch.equal(found["a"], shared)


def test_small_numbers_that_become_large_ones_are_refused(tmp_path: Path) -> None:
    """A storage of truth values under three names is twelve times as large in float32."""
    shared = torch.zeros(100_000, dtype=torch.bool)
    torch.save(dict.fromkeys("abc", shared), tmp_path / "x.pt")
    file = TorchFile(tmp_path / "x.pt")
    with pytest.raises(DataError, match="its tensors claim more than the file holds"):
        file.weights(file.value, "it")


def test_long_lists_of_members_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        for i in range(300):
            made.writestr(str(i), b"")
    with (
        open(tmp_path / "x.zip", "rb") as file,
        pytest.raises(DataError, match=r"x\.zip: truncated or not a file of it \(a list of members of \d+ bytes\)"),
    ):
        read_directory(file, tmp_path / "x.zip", "it")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Many names of one place: to compare each with its checksum would read the file as often."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("w", bytes(10_000))
        first = made.filelist[0]
        for i in range(20):
            again = zipfile.ZipInfo(f"w{i}")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            made.filelist.append(again)
    with (
        open(tmp_path / "x.zip", "rb") as file,
        pytest.raises(DataError, match=r"x\.zip: its members claim more than the file holds"),
    ):
        read_directory(file, tmp_path / "x.zip", "it")


def test_damage_is_found(tmp_path: Path) -> None:
    """One flipped bit in a weight."""
    torch.save({"a": torch.arange(1000.0), "b": torch.zeros(3)}, tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 2002] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    file = TorchFile(tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"x\.pt: data/0 is damaged"):
        file.weights(file.value, "it")


def test_a_crafted_checkpoint_does_not_take_all_memory(tmp_path: Path) -> None:
    """Half a megabyte: a list of 60,000 pairs, of which 70,000 ordered dicts are made."""
    pairs = b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(60_000))
    data = b"\x80\x02ccollections\nOrderedDict\nq\x00](" + pairs + b"e\x85q\x01("
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as made:
        made.writestr("x/data.pkl", data + b"h\x00h\x01R" * 70_000 + b"t.")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from pathlib import Path; from nmt.config import DataError\n"
        "from nmt.interchange.torch_file import TorchFile\n"
        f"try: TorchFile(Path({str(tmp_path / 'model.pt')!r}))\n"
        "except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.endswith("not a pickle that can be read (more than 1048576 operations)\n")


# --- the files beside -------------------------------------------------------------------------------------------------


def test_lists_in_json_are_counted_before_they_are_made() -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=r"x\.json: not JSON \(more than 4194304 values\)"):
        parse_json(b"[" + b"[]," * MAX_JSON_VALUES + b"[]]", "x.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


def test_a_sentencepiece_model_of_empty_pieces(monkeypatch: Any) -> None:
    monkeypatch.setattr("nmt.text.model_proto.MAX_PIECES", 1000)
    words: Any = None
    with pytest.raises(DataError, match=r"x\.spm: 1001 pieces, but 1000 are the most that are read"):
        check_words(words, {"x.spm": b"\x0a\x00" * 1001})


def test_a_folder_of_many_layers(tmp_path: Path) -> None:
    """Names take 30 bytes each, the parts of a layer thousands."""
    settings = {"arch": "transformer", "source_lang": "en", "target_lang": "de", "encoder_attention_heads": 1}
    state = {f"encoder.layers.{i}.fc1.weight": torch.zeros(1, 4) for i in range(1001)}
    state |= {f"{side}.embed_tokens.weight": torch.zeros(4, 4) for side in ("encoder", "decoder")}
    settings |= {"share_all_embeddings": True}
    torch.save({"args": settings, "model": state}, tmp_path / "model.pt")
    (tmp_path / "dict.en.txt").write_text("")
    (tmp_path / "dict.de.txt").write_text("")
    (tmp_path / "x.model").write_bytes(_pieces())
    with pytest.raises(DataError, match="1001 layers in the encoder; 1000 are the most that are read"):
        import_checkpoint("fairseq", tmp_path, tmp_path / "out")


def _pieces() -> bytes:
    import sentencepiece

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b"]), model_writer=writer, vocab_size=6, minloglevel=2, hard_vocab_limit=False
    )
    return writer.getvalue()


@pytest.mark.parametrize(
    ("arch", "message"),
    [([["x"]], "arch=a list"), (10**5000, "arch=a int"), ("y" * 9999, "arch='yyy")],
    ids=["list", "int", "text"],
)
def test_settings_in_messages_are_short(arch: Any, message: str, tmp_path: Path) -> None:
    torch.save({"args": {"arch": arch}, "model": {}}, tmp_path / "model.pt")
    with pytest.raises(DataError, match=message) as caught:
        import_checkpoint("fairseq", tmp_path, tmp_path / "out")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_dictionary_longer_than_the_matrix(tmp_path: Path) -> None:
    state = {f"{side}.embed_tokens.weight": torch.zeros(9, 4) for side in ("encoder", "decoder")}
    settings = {"arch": "transformer", "source_lang": "en", "target_lang": "de", "share_all_embeddings": True}
    torch.save({"args": settings, "model": state}, tmp_path / "model.pt")
    (tmp_path / "x.model").write_bytes(_pieces())
    for language in ("en", "de"):
        (tmp_path / f"dict.{language}.txt").write_bytes(b"a 1\n" * 2_000_000)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"dict\.en\.txt: 2000000 words, but the checkpoint has 9"):
        import_checkpoint("fairseq", tmp_path, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
