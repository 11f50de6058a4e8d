"""Options that describe batches and random segmentation; training and generation take them into their schemas."""

from __future__ import annotations

from dataclasses import dataclass

from nmt.config import option
from nmt.limits import MAX_COUNT, MAX_LENGTH, MAX_PROCESSES


@dataclass
class BatchOptions:
    """How sentence pairs are grouped into batches.

    Attributes:
        max_tokens: largest sentences × longest side of a batch (source or target, eos and padding counted), per device.
        max_sentences: largest number of sentence pairs of a batch; None for no limit.
        max_length: longest side of a training pair in tokens without eos; longer pairs are left out of training; None:
            those that the model has no positions for.
        workers: processes that prepare batches ahead; 0 prepares them in the training process.
    """

    max_tokens: int = option(minimum=1, maximum=MAX_COUNT)
    max_sentences: int | None = option(minimum=1, maximum=MAX_COUNT)
    max_length: int | None = option(minimum=1, maximum=MAX_LENGTH)
    workers: int = option(minimum=0, maximum=MAX_PROCESSES)


@dataclass
class SubwordOptions:
    """Random segmentation of the training text.

    Attributes:
        alpha: 0 switches it off. Unigram vocabularies: temperature of the lattice; BPE: probability of leaving a
            merge out (BPE-dropout).
        nbest: unigram vocabularies sample from this many best segmentations; -1 for all.
    """

    alpha: float = option(minimum=0, maximum=1)
    nbest: int = option(minimum=-1, maximum=512)
