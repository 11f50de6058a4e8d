"""Training batches: an epoch's plan is a pure function of seed and epoch, so any moment of it can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch.utils.data

from nmt.config import ConfigError, DataError
from nmt.data.arrays import IntArray
from nmt.data.batch import Batch, collate, flatten, make_batch
from nmt.data.corpus import Corpus, ParallelSplit
from nmt.data.epoch import EpochPlan, EpochPlanner
from nmt.data.options import BatchOptions, SubwordOptions
from nmt.data.plan import plan_batches
from nmt.text.subword import SubwordSampler
from nmt.text.vocabulary import VocabularyPair

GROWTH_PAIRS = 500
"""Pairs on which it is measured how much longer random segmentation makes a sentence."""

GROWTH_QUANTILE = 0.95
"""Share of the pairs whose growth the plan leaves room for; the few beyond it keep their usual segmentation."""


class TrainBatches:
    """Batches of the training pairs of one or several corpora.

    Every epoch takes weight × lines of each split (a fraction is drawn anew each epoch) in batches of close lengths
    (`nmt.data.epoch`). Pairs whose longer side exceeds ``max_length``, or the budget alone, are left out.

    Attributes:
        num_pairs: pairs that can be seen.
        num_left_out: pairs that are too long.

    Args:
        splits: training splits with their weights; see `training_splits`.
        options: budget and workers.
        seed: of the order and of the segmentation.
        vocabularies: needed for random segmentation.
        subword: random segmentation; None or ``alpha=0`` uses the ids of the corpus.

    Raises:
        ConfigError: every pair is too long.
    """

    def __init__(
        self,
        splits: Sequence[tuple[ParallelSplit, float]],
        options: BatchOptions,
        seed: int,
        vocabularies: VocabularyPair,
        subword: SubwordOptions | None = None,
    ) -> None:
        self.options = options
        self.seed = seed
        self._splits = [split for split, _ in splits]
        self._weights = [weight for _, weight in splits]
        self._limit = options.max_tokens - 1
        if options.max_length is not None:
            self._limit = min(self._limit, options.max_length)
        self._vocabularies = vocabularies
        self._sampler: SubwordSampler | None = None
        growth = 1.0
        if subword is not None and subword.alpha > 0:
            self._sampler = SubwordSampler(alpha=subword.alpha, nbest=subword.nbest)
            growth = self._growth(self._sampler)
        self._planner = EpochPlanner(splits, options, seed, limit=self._limit, growth=growth)
        self._plan: EpochPlan | None = None
        self.num_pairs, self.num_left_out = self._planner.num_pairs, self._planner.num_left_out
        if self.num_pairs == 0:
            raise ConfigError(
                f"no training pair is left: batch.max_tokens={options.max_tokens} and "
                f"batch.max_length={options.max_length} leave out all {self.num_left_out}"
            )
        if self._planner.num_drawn == 0:
            raise ConfigError(f"mix={self._weights}: an epoch takes none of the {self.num_pairs} training pairs")

    def plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch, for all ranks together; the same however many there are.

        Args:
            epoch: number of the epoch.

        Returns:
            Per batch the numbers of its pairs, ascending; pairs of all splits are numbered one after the other.
        """
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = self._planner.plan(epoch)
        return self._plan

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch, of all ranks together."""
        return len(self.plan(epoch))

    def padding_share(self, epoch: int) -> float:
        """Share of padding among the cells of an epoch's batches; see `EpochPlan.padding_share`."""
        return self.plan(epoch).padding_share

    def word_counts(self, side: str) -> IntArray:
        """How often every id of ``source`` or ``target`` occurs in the training splits, by their weights.

        Pairs that are left out count too, and random segmentation does not (vocab_size,) float64.
        """
        return np.sum([weight * split.counts(side) for split, weight in zip(self._splits, self._weights)], axis=0)

    def epoch(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1, *, workers: int | None = None
    ) -> Iterator[Batch]:
        """Batches of an epoch on one rank.

        Args:
            epoch: number of the epoch.
            start: batches of the plan to skip: those that all ranks saw before an interruption.
            rank: this process; of the others it takes every ``world``-th.
            world: number of processes.
            workers: processes that prepare batches, other than ``batch.workers``.
        """
        workers = self.options.workers if workers is None else workers
        view = _EpochView(self, self.plan(epoch))
        numbers = range(start + rank, len(view.plan), world)
        if workers == 0:
            return map(view.__getitem__, numbers)
        loader = torch.utils.data.DataLoader(
            view,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=4,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else it draws from the global one, and dropout would depend on workers
        )
        return _prefetched(loader)

    def make(self, pairs: IntArray, epoch: int, number: int) -> Batch:
        """Read one batch of the plan.

        Args:
            pairs: indices over all splits.
            epoch: number of the epoch.
            number: place of the batch in the plan; with seed and epoch it fixes the random segmentation.

        Returns:
            The batch; its ``ids`` are line numbers in their splits.
        """
        starts = self._planner.starts
        which = np.searchsorted(starts, pairs, side="right") - 1
        lines = pairs - starts[which]
        runs = np.split(np.arange(len(pairs)), np.flatnonzero(np.diff(which)) + 1)
        parts = [(self._splits[which[run[0]]], lines[run]) for run in runs]
        source, target = (
            _join([s.gather("source", n) for s, n in parts]),
            _join([s.gather("target", n) for s, n in parts]),
        )
        for side, (ids, _) in (("source", source), ("target", target)):
            if len(ids) and ids.max() >= len(getattr(self._vocabularies, side)):
                raise DataError(f"corpus: damaged ({side} id {ids.max()} of a training pair is not in the vocabulary)")
        if self._sampler is not None:
            seed = int(np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0])
            sampled = self._sampled(self._sampler, parts, seed)
            limit = min(self._limit, self.options.max_tokens // len(pairs) - 1)
            source, target = _prefer(sampled[0], source, limit), _prefer(sampled[1], target, limit)
        return collate(source, target, lines)

    def _sampled(
        self, sampler: SubwordSampler, parts: Sequence[tuple[ParallelSplit, IntArray]], seed: int
    ) -> list[list[list[int]]]:
        """Random segmentations of some lines of splits: per side, per line the ids."""
        sides = {"source": self._vocabularies.source, "target": self._vocabularies.target}
        jobs = [(v, [text for split, lines in parts for text in split.texts(side, lines)]) for side, v in sides.items()]
        return sampler.encode(jobs, seed)

    def _growth(self, sampler: SubwordSampler) -> float:
        """How many times longer random segmentation makes the longer side of most pairs (at least 1)."""
        ratios = []
        for split in self._splits:
            lines = np.unique(np.linspace(0, len(split) - 1, min(GROWTH_PAIRS, len(split))).astype(np.int64))
            stored = np.maximum(*(split.gather(side, lines)[1] for side in ("source", "target")))
            source, target = self._sampled(sampler, [(split, lines)], self.seed)
            sampled = np.maximum([len(row) for row in source], [len(row) for row in target])
            ratios.append(sampled / np.maximum(stored, 1))
        return max(1.0, float(np.quantile(np.concatenate(ratios), GROWTH_QUANTILE)))


class _EpochView(torch.utils.data.Dataset[Batch]):
    """The batches of one epoch by number, for prefetching processes."""

    def __init__(self, batches: TrainBatches, plan: EpochPlan) -> None:
        self.batches = batches
        self.plan = plan

    def __getitem__(self, number: int) -> Batch:
        return self.batches.make(self.plan[number], self.plan.epoch, number)


def _prefetched(loader: torch.utils.data.DataLoader[Batch]) -> Iterator[Batch]:
    """The batches of a loader with workers; that a worker died is an error of the next batch.

    PyTorch would raise it from a handler of SIGCHLD, wherever the program is: within a save, say, when a batch system
    sends SIGTERM to all processes of a job.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)  # no handlers there
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return batches


def _unchanged(batch: Any) -> Any:
    return batch


def _join(parts: Sequence[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([flat for flat, _ in parts]), np.concatenate([lengths for _, lengths in parts])


def _prefer(
    sampled: Sequence[Sequence[int]], stored: tuple[IntArray, IntArray], limit: int
) -> tuple[IntArray, IntArray]:
    """Sampled rows, but the stored ones where a sampled row is longer than ``limit`` tokens."""
    flat, lengths = stored
    rows = np.split(flat, np.cumsum(lengths)[:-1])
    return flatten([new if len(new) <= limit else old for new, old in zip(sampled, rows)])


def evaluation_batches(split: ParallelSplit, options: BatchOptions, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """All pairs of a split once, shortest first, none left out.

    Args:
        split: a validation or test split.
        options: budget.
        rank: this process; it takes every ``world``-th batch.
        world: number of processes.
    """
    plan = plan_batches(
        split.source_lengths,
        split.target_lengths,
        max_tokens=options.max_tokens,
        max_sentences=options.max_sentences,
    )
    return (make_batch(split, batch) for batch in plan[rank::world])


def training_splits(corpora: Sequence[Corpus], mix: Sequence[float] | None) -> list[tuple[ParallelSplit, float]]:
    """Training splits of several corpora with their weights.

    Args:
        corpora: at least one.
        mix: a weight for each; None gives every corpus weight 1.

    Raises:
        ConfigError: the corpora have different vocabularies, or there is not one positive weight for each.
    """
    weights = [1.0] * len(corpora) if mix is None else list(mix)
    if len(weights) != len(corpora):
        raise ConfigError(f"mix={weights} has {len(weights)} weights for {len(corpora)} corpora: give one for each")
    if any(weight <= 0 for weight in weights):
        raise ConfigError(f"mix={weights}: every weight must be greater than 0")
    first = corpora[0]
    for other in corpora[1:]:
        if other.vocabularies.digest != first.vocabularies.digest:
            raise ConfigError(
                f"corpus: {other.folder} and {first.folder} have different vocabularies; "
                f"prepare the second with vocabulary={first.folder}"
            )
    return [(corpus.split("train"), weight) for corpus, weight in zip(corpora, weights)]
