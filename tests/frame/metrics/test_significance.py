"""P-values and intervals are what they say they are: checked in simulations where the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from nmt.metrics.significance import Difference, FloatArray, compare_statistics, holm

SENTENCES, RUNS, SAMPLES = 40, 400, 99


@dataclass(frozen=True)
class World:
    """How systems come to be; a system's score is the mean of its sentences' values.

    Attributes:
        trainings: of each system.
        training: standard deviation of what a training adds to all its sentences.
        method: of what a method adds to a sentence, in all its trainings.
        noise: of what a training adds to a sentence.
        made: whether the trainings of the second system are made from those of the first.
    """

    trainings: int
    training: float
    method: float
    noise: float
    made: bool = False

    def compare(self, draw: np.random.Generator, gain: float = 0.0) -> Difference:
        """Two systems of which the second is better by ``gain``."""
        shape = (self.trainings, SENTENCES)
        sentences, lucky = draw.normal(size=(1, SENTENCES)), draw.normal(size=(self.trainings, 1)) * self.training
        systems: list[FloatArray] = []
        for _ in range(2):
            own = lucky if self.made else draw.normal(size=(self.trainings, 1)) * self.training
            values = sentences + draw.normal(size=(1, SENTENCES)) * self.method + draw.normal(size=shape) * self.noise
            systems.append((values + own)[..., None])
        return compare_statistics(
            systems[1] + gain,
            systems[0],
            lambda sums: sums[0] / SENTENCES,
            samples=SAMPLES,
            seed=int(draw.integers(1 << 30)),
            paired=self.made,
        )


WORLDS = [
    pytest.param(World(1, 0.0, 0.5, 1.0), id="one training"),
    pytest.param(World(3, 0.0, 0.5, 1.0), id="three trainings that differ by chance alone"),
    pytest.param(World(3, 0.5, 0.5, 1.0), id="three trainings, some better than others"),
    pytest.param(World(3, 2.0, 0.3, 0.5), id="three trainings that differ most"),
    pytest.param(World(3, 2.0, 0.5, 0.5, made=True), id="made from the same three trainings"),
]


@pytest.mark.parametrize("world", WORLDS)
def test_systems_that_do_not_differ(world: World) -> None:
    """P is below 0.05 in about 5 % of the runs, and the 95 % interval holds zero in about 95 %."""
    draw = np.random.default_rng(1)
    found = [world.compare(draw) for _ in range(RUNS)]
    small = np.mean([f.p_value < 0.05 for f in found])
    assert 0.02 <= small <= 0.08  # 5 % ± three standard errors
    assert 0.89 <= np.mean([f.low <= 0 <= f.high for f in found]) <= 0.99
    assert 0.38 <= np.mean([f.p_value for f in found]) <= 0.6  # 0.5 where p is uniform: it is no half of a p-value
    assert max(f.p_value for f in found) > 0.95


def test_interval_holds_a_true_difference_and_p_sees_it() -> None:
    draw = np.random.default_rng(2)
    found = [World(3, 0.3, 0.3, 0.5).compare(draw, gain=1.5) for _ in range(100)]
    assert np.mean([f.low <= 1.5 <= f.high for f in found]) >= 0.85
    assert np.mean([f.p_value < 0.05 for f in found]) >= 0.9
    assert np.mean([f.delta for f in found]) == pytest.approx(1.5, abs=0.2)


def test_p_by_hand() -> None:
    """Two sentences, 1 and 2 better: of the four swaps two differ as much (3 and -3), the others by 1."""
    ours, theirs = np.array([[[1.0], [2.0]]]), np.zeros((1, 2, 1))
    found = compare_statistics(ours, theirs, lambda sums: sums[0], samples=4000, seed=1)
    assert found.delta == 3
    assert found.p_value == pytest.approx(0.5, abs=0.03)
    assert (found.low, found.high) == (2, 4)  # the first sentence twice, the second twice


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="do not belong to the same sentences"):
        compare_statistics(np.zeros((1, 2, 1)), np.zeros((1, 3, 1)), sum, samples=1, seed=1)


def test_holm_by_hand() -> None:
    # In order 0.01, 0.02, 0.03, 0.4: times 4, 3, 2, 1, and never less than the one before.
    assert holm([0.02, 0.4, 0.01, 0.03]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
