"""Training of sub-word vocabularies, and random segmentation for training (sub-word regularisation, BPE-dropout)."""

from __future__ import annotations

import io
import logging
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import sentencepiece

from nmt.config import ConfigError
from nmt.text.reserved import TRAINING_NAMES, cut_long, exchange_marks, restore_marks
from nmt.text.vocabulary import BOS, EOS, PAD, SPECIAL_IDS, UNK, Vocabulary

logger = logging.getLogger(__name__)

TRAINER_THREADS = 4
"""Fixed, since sentencepiece adds its counts up by thread: another number can give another vocabulary."""

MAX_SENTENCE_BYTES = 16384
"""Longer lines are cut while a vocabulary is trained (they are still encoded as a whole)."""


class VocabularyType(Enum):
    """Kind of sub-word model."""

    unigram = "unigram"  # Kudo 2018, arXiv:1804.10959
    bpe = "bpe"  # Sennrich et al. 2016, arXiv:1508.07909
    word = "word"  # the most frequent words, as white space separates them


class Normalisation(Enum):
    """Character normalisation before segmentation; ``_cf`` also folds case."""

    nmt_nfkc = "nmt_nfkc"
    nfkc = "nfkc"
    nmt_nfkc_cf = "nmt_nfkc_cf"
    nfkc_cf = "nfkc_cf"
    identity = "identity"


@dataclass(frozen=True)
class VocabularyTraining:
    """How a vocabulary is trained.

    Attributes:
        size: pieces, special ones included; fewer where the text does not support as many.
        kind: unigram, bpe or word.
        character_coverage: share of the characters' occurrences that get a piece; the rest is unknown.
        byte_fallback: spell unknown characters as bytes (256 extra pieces), so that nothing is unknown; not for words.
        normalisation: ``identity`` keeps every character and space, so that decoding gives the text back.
    """

    size: int
    kind: VocabularyType = VocabularyType.unigram
    character_coverage: float = 0.9995
    byte_fallback: bool = False
    normalisation: Normalisation = Normalisation.nmt_nfkc


def train_vocabulary(lines: Iterable[str], training: VocabularyTraining, *, text: str = "this text") -> Vocabulary:
    """Train a sentencepiece model on lines; the same lines give the same bytes.

    Where the text supports fewer pieces than asked for, the vocabulary has as many as there are, and a note says so.

    Args:
        lines: the text; sentencepiece holds it in memory.
        training: size and kind.
        text: what the lines are, for messages.

    Raises:
        ConfigError: there is no text, words are to be spelt as bytes, or the size is too small for the characters.
    """
    if training.kind is VocabularyType.word and training.byte_fallback:
        raise ConfigError("byte_fallback=true: vocab_type=word has no bytes; valid options: unigram, bpe")
    exchanged, stands_for = exchange_marks(list(lines), training.normalisation.value)
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=cut_long(exchanged, MAX_SENTENCE_BYTES),
            model_writer=writer,
            vocab_size=training.size,
            hard_vocab_limit=False,
            model_type=training.kind.value,
            character_coverage=training.character_coverage,
            byte_fallback=training.byte_fallback,
            normalization_rule_name=training.normalisation.value,
            remove_extra_whitespaces=training.normalisation is not Normalisation.identity,
            max_sentence_length=MAX_SENTENCE_BYTES,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            **TRAINING_NAMES,
            num_threads=TRAINER_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(_explain(str(error), training, text)) from error
    vocabulary = Vocabulary(restore_marks(writer.getvalue(), stands_for))
    if len(vocabulary) <= len(SPECIAL_IDS):
        raise ConfigError(f"there is nothing to train a vocabulary on: no character of {text} can be a piece")
    if len(vocabulary) < training.size:
        logger.warning(
            "vocab_size=%d is more than %s supports: the vocabulary has %d pieces", training.size, text, len(vocabulary)
        )
    return vocabulary


def _explain(message: str, training: VocabularyTraining, text: str) -> str:
    """One line for what sentencepiece says about a size that does not fit the text."""
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size={training.size} is too small for {text}: its characters need at least {match[1]} "
            f"(or lower character_coverage={training.character_coverage})"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return f"there is nothing to train a vocabulary on: {text} has no lines, or empty ones only"
    return f"training a vocabulary on {text} failed: {message}"


class SubwordSampler:
    """Random segmentations that depend on a seed alone, in whatever process.

    A unigram model samples from its lattice at temperature ``alpha`` (Kudo 2018, arXiv:1804.10959, section 3); a BPE
    model leaves merges out with probability ``alpha`` (BPE-dropout, Provilkov et al. 2020, arXiv:1910.13267).

    Args:
        alpha: smoothing of the unigram model (0: uniform) or dropout probability of BPE.
        nbest: how many best segmentations a unigram model samples from; -1 for all. BPE ignores it.
    """

    def __init__(self, *, alpha: float, nbest: int = -1) -> None:
        if nbest != -1 and not 2 <= nbest <= 512:
            raise ConfigError(f"subword.nbest={nbest} is out of range: it must be -1 (all) or from 2 to 512")
        self.alpha = alpha
        self.nbest = nbest

    def encode(self, jobs: Sequence[tuple[Vocabulary, Sequence[str]]], seed: int) -> list[list[list[int]]]:
        """Segment the lines of each job.

        Args:
            jobs: vocabulary and lines, segmented in this order.
            seed: of the random numbers.

        Returns:
            Per job and line the ids, without bos and eos.
        """
        draw = random.Random(seed).random
        return [[v.sample(line, alpha=self.alpha, nbest=self.nbest, draw=draw) for line in lines] for v, lines in jobs]
