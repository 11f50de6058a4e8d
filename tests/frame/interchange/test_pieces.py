"""Rewritten sentencepiece models: text is cut as before, and rows follow their words."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece

from nmt.interchange.pieces import Words, align
from nmt.text.vocabulary import Vocabulary


def train_pieces(text: list[str], kind: str) -> sentencepiece.SentencePieceProcessor:
    writer = io.BytesIO()
    options = {"vocab_size": 40, "model_type": kind, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=writer,
        **({**options, "vocab_size": 60} if kind == "bpe" else options),
    )
    return sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_text_is_cut_as_before(kind, texts) -> None:
    before = train_pieces(texts[0], kind)
    names = [before.id_to_piece(i) for i in range(3, len(before))]
    foreign = ["ou", "at▁t", "▁bl", "ee▁", "e" * 3, "xy"]  # words that could take part in merges
    words = ["</s>", "<unk>", *names, *(word for word in foreign if word not in names), "<pad>"]
    random.Random(3).shuffle(words)
    rows = {word: row for row, word in enumerate(words)}
    pad, eos, unk = rows["<pad>"], rows["</s>"], rows["<unk>"]
    aligned = align(
        before.serialized_model_proto(), "x", Words(rows, len(rows), pad, pad, eos, unk, "words"), produced=True
    )
    after = aligned.vocabulary
    for line in texts[0]:
        assert after.pieces(line) == before.encode(line, out_type=str)
    assert aligned.rows[:4].tolist() == [pad, pad, eos, unk]
    assert [words[row] for row in aligned.rows[4:].tolist()] == [after.piece(i) for i in range(4, len(after))]
    assert sorted(set(aligned.rows.tolist())) == list(range(len(words))), "every row is kept"
    assert aligned.never.nonzero().flatten().tolist() == [1], "only the start, which is padding at the same time"
    extra = [i for i in range(len(after)) if after.piece(i) in foreign and after.piece(i) not in names]
    assert [after.decode([i]) for i in extra] == [after.piece(i).replace("▁", " ").lstrip() for i in extra]


def test_a_model_in_our_order_is_left_as_it_is(golden) -> None:
    vocabulary = Vocabulary.load(golden / "sentencepiece.model")
    rows = {vocabulary.piece(i): i for i in range(len(vocabulary))}
    aligned = align(vocabulary.model, "x", Words(rows, len(rows), 0, 1, 2, 3, "words"), produced=True)
    assert aligned.vocabulary.model == vocabulary.model
    assert aligned.rows.tolist() == list(range(len(rows)))
    assert not aligned.never.any()
