"""Whether two systems differ: approximate randomisation, bootstrap intervals, and the spread of several trainings.

Everything works on what a metric adds up over sentences, so that any metric of a corpus can be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ScoreOf = Callable[[Sequence[float]], float]
"""A corpus's score from the sums of its sentences' statistics."""

TIE = 1e-9
"""Differences of scores that are nearer to each other are equal: they are the same sums in another order."""
CHUNK_VALUES = 1 << 22
"""Values held at a time while sentences are drawn."""


@dataclass(frozen=True)
class Difference:
    """A difference between two systems.

    Attributes:
        delta: mean score of the system's trainings minus that of the baseline's.
        low: lower end of the 95 % interval.
        high: upper end.
        p_value: how likely a difference at least as large, of either sign, is between systems that do not differ.
    """

    delta: float
    low: float
    high: float
    p_value: float


def compare_statistics(
    ours: FloatArray, theirs: FloatArray, score: ScoreOf, *, samples: int, seed: int, paired: bool = False
) -> Difference:
    """Test a difference by approximate randomisation (Riezler & Maxwell 2005), with a bootstrap interval (Koehn 2004).

    For the p-value a coin decides for each sentence whether the two systems swap their outputs: training by training,
    and in all trainings alike, since a sentence that suits one method suits it in every training. For the interval
    sentences are drawn with replacement, the same ones for all trainings.

    Neither says that another training would come out differently. With several trainings that spread is estimated:
    the variance of their scores less what the choice of sentences contributes to it. A deviation of that size, from
    Student's t-distribution for so few trainings, is added to every random difference. With one training the result
    is about these two models alone.

    Args:
        ours: statistics of the system's sentences (trainings, sentences, statistics).
        theirs: those of the baseline, of the same shape.
        score: see `ScoreOf`.
        samples: random differences for each of p-value and interval.
        seed: of the random numbers.
        paired: each training of the system belongs to that of the baseline, for instance as a smaller model made from
            it: what a training was lucky with is in both.

    Raises:
        ValueError: the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"statistics of shapes {ours.shape} and {theirs.shape} do not belong to the same sentences")
    draw = np.random.default_rng(seed)
    both = np.stack([ours, theirs])  # (2, trainings, sentences, statistics)
    found = _scores(both.sum(2)[None], score)[0]
    delta = float(found[0].mean() - found[1].mean())
    if np.array_equal(ours, theirs):
        return Difference(0.0, 0.0, 0.0, 1.0)
    swapped, resampled = _swap(both, score, samples, draw), _resample(both, score, samples, draw)
    deviation, degrees = _training_deviation(found, resampled, paired)
    noise = deviation * draw.standard_t(max(degrees, 1), size=(2, samples))
    by_chance = _mean_difference(swapped) + noise[0]
    extreme = int((np.abs(by_chance) >= abs(delta) - TIE).sum())
    low, high = np.percentile(_mean_difference(resampled) + noise[1], [2.5, 97.5])
    return Difference(delta, float(low), float(high), (extreme + 1) / (samples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm 1979): each may be compared with the level of all together."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def _mean_difference(scores: FloatArray) -> FloatArray:
    """Mean over the trainings, first system minus second, of scores (samples, 2, trainings)."""
    difference: FloatArray = scores[:, 0].mean(1) - scores[:, 1].mean(1)
    return difference


def _scores(sums: FloatArray, score: ScoreOf) -> FloatArray:
    """Scores (samples, 2, trainings) of sums (samples, 2, trainings, statistics)."""
    return np.array([[[score(training) for training in system] for system in sample] for sample in sums.tolist()])


def _chunks(samples: int, sentences: int) -> Iterator[int]:
    """Sizes of the parts in which samples are drawn."""
    size = max(1, CHUNK_VALUES // max(1, sentences))
    while samples > 0:
        yield min(size, samples)
        samples -= size


def _swap(both: FloatArray, score: ScoreOf, samples: int, draw: np.random.Generator) -> FloatArray:
    """Scores (samples, 2, trainings) after each sentence's outputs were swapped or not."""
    sums, sentences, found = both.sum(2), both.shape[2], []
    gain = both[1] - both[0]  # what the system gains by a swap (trainings, sentences, statistics)
    for size in _chunks(samples, sentences):
        coins = draw.integers(0, 2, size=(size, sentences)).astype(np.float64)
        moved = np.einsum("rn,tnf->rtf", coins, gain, optimize=True)
        found.append(_scores(sums + np.stack([moved, -moved], 1), score))
    return np.concatenate(found)


def _resample(both: FloatArray, score: ScoreOf, samples: int, draw: np.random.Generator) -> FloatArray:
    """Scores (samples, 2, trainings) of sentences drawn with replacement."""
    sentences, found = both.shape[2], []
    for size in _chunks(samples, sentences):
        times = draw.multinomial(sentences, [1 / sentences] * sentences, size=size).astype(np.float64)
        found.append(_scores(np.einsum("rn,stnf->rstf", times, both, optimize=True), score))
    return np.concatenate(found)


def _training_deviation(found: FloatArray, resampled: FloatArray, paired: bool) -> tuple[float, int]:
    """Standard deviation of the mean difference that is due to the choice of trainings, and its degrees of freedom.

    Args:
        found: scores (2, trainings).
        resampled: scores (samples, 2, trainings).
        paired: see `compare_statistics`.
    """
    trainings = found.shape[1]
    if trainings == 1:
        return 0.0, 0
    if paired:
        found, resampled = found[:1] - found[1:], resampled[:, :1] - resampled[:, 1:]
    errors: Any = resampled - found  # what the choice of sentences does to each training
    of_sentences = float(errors.var(axis=2, ddof=1).mean(0).sum())
    variance = max(0.0, float(found.var(axis=1, ddof=1).sum()) - of_sentences)
    return float(np.sqrt(variance / trainings)), len(found) * (trainings - 1)
