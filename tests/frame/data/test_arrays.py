import errno
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from nmt.config import DataError
from nmt.data import arrays
from nmt.data.arrays import KINDS, Side, dtype_of, file_name, map_array, offsets_of


def write_side(folder, rows, vocab_size=100):
    """The source of a split: (ids, text) of every line."""
    texts = [f"{text}\n".encode() for _, text in rows]
    content = {
        "ids": np.array([i for ids, _ in rows for i in ids], dtype=dtype_of("ids", vocab_size)),
        "ids_offsets": offsets_of([len(ids) for ids, _ in rows]),
        "text": np.frombuffer(b"".join(texts), dtype=np.uint8),
        "text_offsets": offsets_of([len(text) for text in texts]),
    }
    files = {}
    for kind in KINDS:
        files[file_name("source", kind)] = replace(folder, kind, content[kind])
    return Side(folder, "source", len(rows), files, vocab_size)


def replace(folder, kind, array):
    """Write a file anew (the old one may be mapped) and return its size."""
    path = folder / file_name("source", kind)
    path.unlink(missing_ok=True)
    path.write_bytes(array.tobytes())
    return array.nbytes


LINES = [([5, 6, 7], "drei"), ([], ""), ([8], "größe"), ([9, 10], "zwei\u2028")]


@pytest.fixture
def side(tmp_path):
    return write_side(tmp_path, LINES)


def test_offsets_by_hand():
    assert_array_equal(offsets_of([3, 0, 2]), [0, 3, 3, 5])
    assert_array_equal(offsets_of([3, 0, 2], start=7), [7, 10, 10, 12])
    assert offsets_of([]).tolist() == [0]
    assert offsets_of([1]).dtype == np.int64


def test_ids_take_two_bytes_where_they_fit():
    assert dtype_of("ids", 2**16) == np.dtype("<u2")
    assert dtype_of("ids", 2**16 + 1) == np.dtype("<u4")


def test_what_the_files_hold_does_not_depend_on_the_machine():
    assert [dtype_of(kind, 100).str for kind in KINDS] == ["<u2", "<i8", "|u1", "<i8"]


def test_lines_come_back(side):
    side.open()
    assert [side.ids(i).tolist() for i in range(4)] == [ids for ids, _ in LINES]
    assert [side.text(i) for i in range(4)] == [text for _, text in LINES]
    assert side.lengths().tolist() == [3, 0, 1, 2]
    assert side.lengths().dtype == np.int32


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_lengths_of_some_lines(side, block, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_ITEMS", block)
    assert side.lengths().tolist() == [3, 0, 1, 2]
    assert side.lengths(1, 3).tolist() == [0, 1]
    assert side.lengths(2, 2).tolist() == []


@pytest.mark.parametrize("block", [1, 4, 100])
def test_counts(side, block, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_ITEMS", block)
    counts = side.counts()
    assert counts.shape == (100,)
    assert {i: int(n) for i, n in enumerate(counts) if n} == {2: 4, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1}


@pytest.mark.parametrize("lines", [[0, 1, 2, 3], [3, 0, 0], [1], []])
def test_gathering_equals_reading_line_by_line(side, lines):
    flat, lengths = side.gather(np.array(lines, dtype=np.int64))
    assert flat.tolist() == [i for line in lines for i in LINES[line][0]]
    assert lengths.tolist() == [len(LINES[line][0]) for line in lines]


def test_arrays_are_mapped_and_not_copied_to_other_processes(side):
    assert isinstance(side.array("ids").base, np.memmap)
    assert not side.array("ids").flags.writeable
    again = pickle.loads(pickle.dumps(side))
    assert len(pickle.dumps(side)) < 1000
    assert again.ids(3).tolist() == [9, 10]


def test_lines_without_tokens(tmp_path):
    side = write_side(tmp_path, [([], "")])
    side.open()
    assert side.ids(0).tolist() == []
    assert side.text(0) == ""


def test_a_side_without_files_is_empty(tmp_path):
    side = Side(tmp_path, "source", 3, {}, 100)
    side.open()
    assert side.lengths().tolist() == [0, 0, 0]
    assert side.text(2) == ""
    assert side.ids(1).tolist() == []
    assert side.gather(np.array([0, 2]))[1].tolist() == [0, 0]


def test_ids_beyond_two_bytes(tmp_path):
    side = write_side(tmp_path, [([70000], "x")], vocab_size=70001)
    side.open()
    assert side.ids(0).tolist() == [70000]


def test_missing_file(side):
    (side.folder / "source.ids").unlink()
    with pytest.raises(DataError, match=r"source\.ids: missing file of the corpus"):
        side.open()


def test_truncated_file(side):
    path = side.folder / "source.ids"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"source\.ids: 11 bytes, but corpus\.json says 12"):
        side.open()


def test_half_an_item(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(11))
    with pytest.raises(DataError, match=r"x: 11 bytes, but corpus\.json says 11 \(truncated or foreign\)"):
        map_array(path, np.dtype("<u2"), 11)


def test_what_cannot_be_mapped_is_named(side, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", fail)
    with pytest.raises(DataError, match=r"source\.ids: cannot be read \(No such device\)"):
        side.open()


@pytest.mark.parametrize("offsets", [[0, 3, 3, 4], [0, 3, 3, 4, 5], [1, 3, 3, 4, 6], [0, 3, 3, 4, 6, 6]])
def test_offsets_that_do_not_fit(side, offsets):
    side.files["source.ids_offsets"] = replace(side.folder, "ids_offsets", np.array(offsets, np.int64))
    with pytest.raises(DataError, match=r"source\.ids_offsets: does not fit the 4 lines of its split"):
        side.open()


def test_offsets_that_run_backwards(side):
    replace(side.folder, "ids_offsets", np.array([0, 5, 3, 4, 6], np.int64))
    for read in (side.lengths, lambda: side.ids(1), lambda: side.gather(np.array([0, 1]))):
        with pytest.raises(DataError, match=r"source\.ids_offsets: damaged \(offsets run backwards\)"):
            read()


def test_text_that_is_not_utf8(side):
    raw = np.array(side.array("text"))
    raw[0] = 0xFF
    replace(side.folder, "text", raw)
    again = pickle.loads(pickle.dumps(side))
    with pytest.raises(DataError, match=r"source\.text: damaged \(line 1 is not UTF-8\)"):
        again.text(0)


@pytest.mark.parametrize(("old", "new"), [(b"drei\n", b"dr\nei"), (b"drei\n", b"drei "), (b"drei\n", b"dre\n\n")])
def test_text_that_is_not_one_line(side, old, new):
    raw = side.array("text").tobytes().replace(old, new)
    replace(side.folder, "text", np.frombuffer(raw, np.uint8))
    again = pickle.loads(pickle.dumps(side))
    with pytest.raises(DataError, match=r"source\.text: damaged \(line 1 is not one line\)"):
        again.text(0)
