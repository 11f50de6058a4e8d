"""The largest values that mean anything, for options of several parts; `option` says which apply.

A number beyond them is a slip, or an attempt to take all memory: neither should get further than one line.
"""

from __future__ import annotations

MAX_COUNT = 10**9
"""Of updates, epochs, lines, and of what a batch holds: more than fits a life, a file or a memory."""

MAX_SEED = 2**32 - 1
"""What every generator of random numbers takes, sacrebleu's and numpy's among them."""

MAX_THREADS = 1024
"""Of the CPU. Far beyond, the operating system has no more of them and the process dies."""

MAX_PROCESSES = 256
"""At the same time, each with its own memory."""

MAX_LAYERS = 1024
"""Of a stack: the deepest Transformers have 1,000 in all (Wang et al. 2022, arXiv:2203.00555)."""

MAX_WIDTH = 2**17
"""Of a vector in a model."""

MAX_HEADS = 1024
"""Of an attention."""

MAX_LENGTH = 100_000
"""Of a sentence, in tokens: far beyond the positions of any model."""

MAX_VOCABULARY = 2**24
"""Types of a vocabulary."""

MAX_BEAM = 1000
"""Hypotheses of a sentence: each has a decoding state of its own, and beams of some tens already translate worse."""

MAX_LENGTH_PENALTY = 5.0
"""The power of a length: with more, the length alone decides."""

MAX_WEIGHT = 1000.0
"""Of a term beside others of the size of 1."""
