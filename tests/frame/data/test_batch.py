import numpy as np
import pytest
import torch

from nmt.data.batch import collate, flatten, make_batch, pad_flat, pad_rows
from nmt.text.vocabulary import BOS, EOS, PAD, UNK


def test_batch_by_hand():
    batch = collate(flatten([[5, 6, 7], [8]]), flatten([[9], [10, 11]]), np.array([40, 2]))
    assert batch.src_tokens.tolist() == [[5, 6, 7, EOS], [8, EOS, PAD, PAD]]
    assert batch.prev_output_tokens.tolist() == [[BOS, 9, PAD], [BOS, 10, 11]]
    assert batch.target.tolist() == [[9, EOS, PAD], [10, 11, EOS]]
    assert batch.num_tokens == 5
    assert batch.ids == [40, 2]
    assert len(batch) == 2
    assert {t.dtype for t in (batch.src_tokens, batch.prev_output_tokens, batch.target)} == {torch.int64}


def test_empty_sentences_are_an_end_of_sentence():
    batch = collate(flatten([[], [4]]), flatten([[], []]), np.array([0, 1]))
    assert batch.src_tokens.tolist() == [[EOS, PAD], [4, EOS]]
    assert batch.prev_output_tokens.tolist() == [[BOS], [BOS]]
    assert batch.target.tolist() == [[EOS], [EOS]]
    assert batch.num_tokens == 2


def test_rows_without_marks():
    assert pad_rows([[4, 5], [], [6]]).tolist() == [[4, 5], [PAD, PAD], [6, PAD]]
    assert pad_rows([], last=EOS).shape == (0, 1)
    assert pad_rows([[7]], first=BOS, last=EOS).tolist() == [[BOS, 7, EOS]]


def test_ids_of_two_bytes_become_int64():
    padded = pad_flat(np.array([60000], np.uint16), np.array([1]), last=EOS)
    assert padded.tolist() == [[60000, EOS]]
    assert padded.dtype == torch.int64


def test_a_batch_of_a_split_holds_its_lines(corpus):
    split = corpus.split("train")
    lines = [299, 0, 150, 71]
    batch = make_batch(split, lines)
    assert batch.ids == lines
    for row, line in enumerate(lines):
        source = [*split.source_ids(line), EOS]
        target = [*split.target_ids(line), EOS]
        assert batch.src_tokens[row].tolist() == source + [PAD] * (batch.src_tokens.shape[1] - len(source))
        assert batch.target[row].tolist() == target + [PAD] * (batch.target.shape[1] - len(target))
    assert batch.num_tokens == int((batch.target != PAD).sum())
    assert corpus.vocabularies.source.decode(batch.src_tokens[1].tolist()) == split.source_text(0)
    assert UNK not in batch.target


@pytest.mark.parametrize("lines", [[300], [-1]])
def test_lines_outside_of_the_split(corpus, lines):
    with pytest.raises(IndexError, match="of split 'train', which has 300"):
        make_batch(corpus.split("train"), lines)


def test_moving_keeps_everything():
    batch = collate(flatten([[5]]), flatten([[9]]), np.array([7]))
    moved = batch.to("meta")
    assert moved.src_tokens.device.type == moved.target.device.type == moved.prev_output_tokens.device.type == "meta"
    assert (moved.num_tokens, moved.ids) == (2, [7])
    assert batch.src_tokens.device.type == "cpu"
