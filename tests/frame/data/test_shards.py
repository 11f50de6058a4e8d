import contextlib
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nmt.config import DataError
from nmt.data.shards import KINDS, SIDES, Shard, file_name, id_dtype, map_array, offsets_of, write_array


def write_shard(folder, index, source, target, dtype=np.uint16, vocab_size=100):
    """A shard of (ids, text) rows of both sides."""
    files = {}
    for side, rows in zip(SIDES, (source, target)):
        texts = [text.encode() for _, text in rows]
        arrays = {
            "ids": np.array([i for ids, _ in rows for i in ids], dtype=dtype),
            "ids_offsets": offsets_of([len(ids) for ids, _ in rows]),
            "text": np.frombuffer(b"".join(texts), dtype=np.uint8),
            "text_offsets": offsets_of([len(text) for text in texts]),
        }
        for kind in KINDS:
            name = file_name(side, index, kind)
            files[name] = write_array(folder / name, arrays[kind])["bytes"]
    return Shard(folder, index, len(source), files, {"source": vocab_size, "target": vocab_size})


SOURCE = [([5, 6, 7], "drei"), ([], ""), ([8], "größe"), ([9, 10], "zwei\u2028")]
TARGET = [([20], "a"), ([21, 22], "b c"), ([], " "), ([23], "d")]


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path, 3, SOURCE, TARGET)


def test_offsets_by_hand():
    assert_array_equal(offsets_of([3, 0, 2]), [0, 3, 3, 5])
    assert offsets_of([]).tolist() == [0]
    assert offsets_of([1]).dtype == np.int64


def test_ids_take_two_bytes_where_they_fit():
    assert id_dtype(2**16) is np.uint16
    assert id_dtype(2**16 + 1) is np.uint32


def test_lines_come_back(shard):
    shard.open()
    assert [shard.ids("source", i).tolist() for i in range(4)] == [ids for ids, _ in SOURCE]
    assert [shard.text("source", i) for i in range(4)] == [text for _, text in SOURCE]
    assert [shard.text("target", i) for i in range(4)] == [text for _, text in TARGET]
    assert shard.lengths("source").tolist() == [3, 0, 1, 2]
    assert shard.lengths("source").dtype == np.int32


@pytest.mark.parametrize("lines", [[0, 1, 2, 3], [3, 0, 0], [1], []])
def test_gathering_equals_reading_line_by_line(shard, lines):
    flat, lengths = shard.gather("source", np.array(lines, dtype=np.int64))
    assert flat.tolist() == [i for line in lines for i in SOURCE[line][0]]
    assert lengths.tolist() == [len(SOURCE[line][0]) for line in lines]


def test_arrays_are_mapped_and_not_copied_to_other_processes(shard):
    assert isinstance(shard.array("source", "ids").base, np.memmap)
    assert not shard.array("source", "ids").flags.writeable
    again = pickle.loads(pickle.dumps(shard))
    assert len(pickle.dumps(shard)) < 2000
    assert again.ids("source", 3).tolist() == [9, 10]


def test_a_shard_without_tokens(tmp_path):
    shard = write_shard(tmp_path, 0, [([], "")], [([], "")])
    shard.open()
    assert shard.ids("target", 0).tolist() == []
    assert shard.text("target", 0) == ""


def test_ids_beyond_two_bytes(tmp_path):
    shard = write_shard(tmp_path, 0, [([70000], "x")], [([1], "y")], dtype=np.uint32, vocab_size=70001)
    shard.open()
    assert shard.ids("source", 0).tolist() == [70000]


def test_missing_file(shard):
    (shard.folder / "target.00003.ids.npy").unlink()
    with pytest.raises(DataError, match=r"target\.00003\.ids\.npy: missing file of the corpus"):
        shard.open()


def test_truncated_file(shard):
    path = shard.folder / "source.00003.ids.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"source\.00003\.ids\.npy: 139 bytes, but corpus\.json says 140"):
        shard.open()


def replaced(path, array):
    path.unlink(missing_ok=True)
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=True)
    return path.stat().st_size


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, np.float32), r"holds <f4 of shape \(3,\), but one row of uint16 or uint32 is needed"),
        (np.zeros((2, 2), np.uint16), r"holds <u2 of shape \(2, 2\)"),
        (np.zeros(2, ">u2"), "holds >u2 of shape"),
        (np.array([{"a": 1}], dtype=object), r"holds \|O of shape"),
        (np.zeros(2, [("a", "u2")]), "not an array file of this corpus"),
        (np.array(5, np.uint16), r"holds <u2 of shape \(\)"),
    ],
)
def test_foreign_arrays_are_refused(tmp_path, array, message):
    path = tmp_path / "x.npy"
    with pytest.raises(DataError, match=message):
        map_array(path, "ids", replaced(path, array))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"PK\x03\x04 something else entirely")
    with pytest.raises(DataError, match=r"x\.npy: not an array file of this corpus"):
        map_array(path, "ids", path.stat().st_size)


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    path = tmp_path / "x.npy"
    size = replaced(path, np.zeros(10, np.uint16))
    path.write_bytes(path.read_bytes().replace(b"(10,)", b"(90,)"))
    with pytest.raises(DataError, match="bytes do not hold the 90 items of its header"):
        map_array(path, "ids", size)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 127), value=st.integers(0, 255))
def test_a_damaged_header_never_gets_further_than_a_clear_message(tmp_path, place, value):
    path = tmp_path / "x.npy"
    size = replaced(path, np.arange(10, dtype=np.uint16))
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(bytes(content))
    with contextlib.suppress(DataError):  # anything else that is raised fails the test
        array = map_array(path, "ids", size)
        assert array.dtype in (np.uint16, np.uint32)
        assert len(array) * array.itemsize <= size


@pytest.mark.parametrize("offsets", [[0, 3, 3, 4], [0, 3, 3, 4, 5], [1, 3, 3, 4, 6], [0, 3, 3, 4, 6, 6]])
def test_offsets_that_do_not_fit(shard, offsets):
    name = file_name("source", 3, "ids_offsets")
    shard.files[name] = replaced(shard.folder / name, np.array(offsets, np.int64))
    with pytest.raises(DataError, match=r"source\.00003\.ids_offsets\.npy: does not fit the 4 lines of its shard"):
        shard.open()


def test_offsets_that_run_backwards(shard):
    name = file_name("source", 3, "ids_offsets")
    shard.files[name] = replaced(shard.folder / name, np.array([0, 5, 3, 4, 6], np.int64))
    with pytest.raises(DataError, match=r"source\.00003\.ids_offsets\.npy: damaged \(offsets run backwards\)"):
        shard.lengths("source")


def test_text_that_is_not_utf8(shard):
    name = file_name("source", 3, "text")
    raw = np.array(shard.array("source", "text"))
    raw[0] = 0xFF
    shard.files[name] = replaced(shard.folder / name, raw)
    again = pickle.loads(pickle.dumps(shard))
    with pytest.raises(DataError, match=r"source\.00003\.text\.npy: damaged \(line 1 is not UTF-8\)"):
        again.text("source", 0)
