"""The training loop."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nmt.checkpoints.average import average_tensors
from nmt.checkpoints.checkpoint import Checkpoint, CheckpointFiles, describe, model_files
from nmt.checkpoints.store import CheckpointStore
from nmt.checkpoints.warm_start import warm_start, weights_digest
from nmt.config import ConfigError, DataError, suggest
from nmt.data.batch import Batch
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches, training_splits
from nmt.device import peak_memory_mib, torch_device
from nmt.generation.ensemble import smallest
from nmt.leftovers import settle_all
from nmt.memory import explaining_shortage
from nmt.models.encoder_decoder import SequenceModel
from nmt.models.from_data import use_data
from nmt.models.tensors import trained_parameters
from nmt.parallel.distribute import distribute
from nmt.parallel.options import Parallel
from nmt.parallel.ranks import Ranks
from nmt.registry import build, discover, find
from nmt.tasks.interfaces import Evaluation, Task
from nmt.training.callbacks import build_callbacks
from nmt.training.ema import MovingAverage
from nmt.training.interfaces import Criterion, Schedule
from nmt.training.options import Precision, TrainOptions
from nmt.training.randomness import seed_process
from nmt.training.resume import restore_newest
from nmt.training.run.folder import adopt_config, check_config, check_links
from nmt.training.run.lock import run_lock
from nmt.training.run.logger import RunLogger, SilentLogger
from nmt.training.run.manifest import Continued, Origin, Start, append_entry
from nmt.training.run.signals import Interrupted, StopSignals
from nmt.training.training_state import Learner, Progress
from nmt.training.update import SMALLER, Updater
from nmt.training.validation import validation_loss
from nmt.training.window import UpdateResult, Window, dealt, gathered

logger = logging.getLogger(__name__)

LESS_VALIDATED = "lower validate.max_tokens or validate.beam, or give validate.translate=false"
"""What to change where validation takes too much memory."""

DEFAULT_PATIENCE = 5
"""``train.patience`` where nothing else ends a training."""


class Trainer:
    """Trains the model that a configuration describes, or goes on where an earlier start of the run stopped.

    Args:
        options: the typed configuration.
        config: the same, plain, as it is stored.

    Raises:
        ConfigError: a mistake in the configuration, or the run exists with another one.
        DataError: a mistake in the corpus or in the checkpoint to go on from.
    """

    def __init__(self, options: TrainOptions, config: DictConfig) -> None:
        self.options = options
        discover(options.plugins)
        self.device = torch_device(options.device)
        self.ranks = Ranks.join(self.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        self._check()
        self.folder = Path(options.run)
        check_links(self.folder)
        self.store = CheckpointStore(
            self.folder / "checkpoints",
            keep_last=options.checkpoints.keep_last,
            keep_best=options.checkpoints.keep_best,
        )
        self.corpora = self._open_corpora()
        self.corpus = self.corpora[0]
        begun = Continued(self.folder) if self.store.begun else None
        self.start = Start([Origin(str(c.folder), c.digest) for c in self.corpora], self._first_weights(begun))
        if begun is not None:
            begun.check(self.start)
        self.corpus.split("valid")  # that there is none should show now
        torch.manual_seed(options.seed)
        self.task: Task = build("task", options.task, key="task")
        self._check_task(self.task)
        self.metric = self._metric(self.task)
        config = config.copy()
        config.validate.metric = self.metric
        config.mix = None if set(options.mix or [1.0]) == {1.0} else options.mix
        with explaining_shortage("while the model is made", SMALLER):
            model: SequenceModel = self.task.build_model(options.model, self.corpus.vocabularies)
        self.batches = self._make_batches(self._longest(model))
        if begun is None:
            known = set[str]()
            if options.init_from is not None:
                known = warm_start(model, options.init_from, self.corpus.vocabularies, self._described(config))
            use_data(model, lambda side: torch.from_numpy(self.batches.word_counts(side)), known)
        self.criterion: Criterion = build("criterion", options.criterion, key="criterion")
        self.criterion.prepare(model)
        self.callbacks = build_callbacks(options.callbacks, model, options.train.parallel)
        with explaining_shortage(f"while the model is brought to {self.device}", SMALLER):
            beside = [p for part in (self.criterion, self.callbacks) for p in trained_parameters(part.to(self.device))]
            self.parallel = distribute(options.train.parallel, model, self.ranks, self.device, beside)
        self.model = model
        self.schedule: Schedule = build(
            "schedule", options.schedule, key="schedule", total_updates=self._total_updates()
        )
        self.learner = Learner(
            parallel=self.parallel,
            criterion=self.criterion,
            callbacks=self.callbacks,
            optimizer=build("optimizer", options.optimizer, key="optimizer", parameters=self.parallel.parameters),
            scaler=torch.amp.GradScaler(self.device.type, enabled=options.train.precision is Precision.fp16),
            average=MovingAverage(self.parallel.of_model, options.train.ema),
            progress=Progress(),
        )
        forward: Callable[..., Any] = torch.compile(model, dynamic=True) if options.compile else model
        self.updater = Updater(self.learner, forward, options.train, self.device)
        if self.ranks.first:
            check_config(self.folder, config, extendable=not self.schedule.uses_total, processes=self.ranks.world)
        self.config = config
        self.signals = StopSignals()
        self.stop_agreed = False
        self.window = Window()
        seed_process(options.seed, self.ranks.rank)

    def _check(self) -> None:
        loop = self.options.train
        if loop.parallel is not Parallel.replicate and (loop.precision is Precision.fp16 or self.options.compile):
            what = "train.precision=fp16" if loop.precision is Precision.fp16 else "compile=true"
            raise ConfigError(
                f"train.parallel={loop.parallel.value} does not go with {what}; valid option: train.parallel=replicate"
            )
        kept = self.options.checkpoints
        if kept.average > kept.keep_last:
            raise ConfigError(
                f"checkpoints.average={kept.average} needs as many checkpoints, but checkpoints.keep_last="
                f"{kept.keep_last}; raise checkpoints.keep_last, or lower checkpoints.average"
            )
        for slot in ("criterion", "optimizer", "schedule"):
            find(slot, getattr(self.options, slot).get("name"), slot)

    def _check_task(self, task: Task) -> None:
        """Refuse corpora that do not suit the task."""
        for corpus in self.corpora:
            if corpus.parallel != task.parallel:
                pairs = ("sentence pairs", "translation")
                held, other = pairs if corpus.parallel else ("one language", "language_modeling")
                raise ConfigError(
                    f"task.name={self.options.task['name']}: {corpus.folder} holds {held}; choose task={other}, or "
                    f"prepare the corpus {'with' if task.parallel else 'without'} source="
                )

    def _metric(self, task: Task) -> str:
        """What chooses the best checkpoint."""
        chosen = self.options.validate.metric or next(iter(task.metrics))
        if chosen not in task.metrics:
            raise ConfigError(
                f"validate.metric={chosen}: task {self.options.task['name']!r} has no such metric; "
                f"valid options: {', '.join(task.metrics)}{suggest(chosen, task.metrics)}"
            )
        if chosen != "loss" and not self.options.validate.translate:
            raise ConfigError(f"validate.metric={chosen} needs validate.translate=true; or choose validate.metric=loss")
        return chosen

    def _open_corpora(self) -> list[Corpus]:
        paths = self.options.corpus if isinstance(self.options.corpus, list) else [self.options.corpus]
        # One process verifies for all; the others wait for it where they first need it.
        return [Corpus.open(path, verify=self.options.verify and self.ranks.first) for path in paths]

    def _make_batches(self, longest: int | None) -> TrainBatches:
        return TrainBatches(
            training_splits(self.corpora, self.options.mix),
            replace(self.options.batch, max_length=longest),
            seed=self.options.seed,
            vocabularies=self.corpus.vocabularies,
            subword=self.options.subword,
        )

    def _first_weights(self, begun: Continued | None) -> Origin | None:
        """The weights that the run begins with, or was begun with."""
        path = self.options.init_from
        if begun is not None:
            return begun.first_weights(path, weights_digest)
        return None if path is None else Origin(path, weights_digest(path))

    def _longest(self, model: SequenceModel) -> int | None:
        """Most tokens of a training pair's side, without the end of the sentence; None = no limit."""
        limit = smallest((model.max_source_length, model.max_target_length))
        longest = self.options.batch.max_length
        if limit is None or longest is None:
            return longest if limit is None else limit - 1
        if longest + 1 > limit:
            raise ConfigError(
                f"batch.max_length={longest} tokens and an end of sentence do not fit "
                f"model.embedding.max_positions={limit}"
            )
        return longest

    def _total_updates(self) -> int | None:
        loop = self.options.train
        if loop.max_epochs is None:
            return loop.max_updates
        per_epoch = math.ceil(self.batches.num_batches(1) / self._group)
        by_epochs = loop.max_epochs * per_epoch
        return by_epochs if loop.max_updates is None else min(by_epochs, loop.max_updates)

    @property
    def _patience(self) -> int | None:
        """Validations without a better metric after which training stops."""
        loop = self.options.train
        return loop.patience or (None if loop.max_updates or loop.max_epochs else DEFAULT_PATIENCE)

    @property
    def _group(self) -> int:
        """Batches of an update, of all processes together."""
        return self.ranks.world * self.options.train.accumulate

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, float]:
        """Train to the end.

        Returns:
            The figures of the last validation.

        Raises:
            ConfigError: another process trains here.
            DataError: no checkpoint of the run can be continued.
            TrainingError: training cannot go on.
        """
        with run_lock(self.folder) if self.ranks.first else contextlib.nullcontext():
            return self._fit()

    def _fit(self) -> dict[str, float]:
        if self.ranks.first:
            for folder in (self.folder, self.store.folder):
                settle_all(folder)
            extendable = not self.schedule.uses_total
            begun = Continued(self.folder) if self.store.begun else None
            if begun is not None:
                begun.check(self.start)
            adopt_config(self.folder, self.config, extendable=extendable, processes=self.ranks.world)
            if begun is not None:
                begun.say_moved(self.start)
            self.store.restore_links()
            if begun is not None and not self.store.newest_first():
                raise DataError(
                    f"{self.store.folder}: holds no checkpoint that training can go on from; choose another run="
                )
        restore_newest(self.learner, self.store, self.ranks)
        progress = self.learner.progress
        parameters = sum(self.parallel.shape(p).numel() for p in self.parallel.of_model if p.requires_grad)
        if self.ranks.first:
            append_entry(
                self.folder,
                self.start,
                device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
                processes=self.ranks.world,
                threads=torch.get_num_threads(),
                parameters=parameters,
                update=progress.update,
            )
        if progress.finished and not self._reached_end():
            progress.finished = False  # the end was moved further away
        if progress.finished:
            logger.info("%s: already finished after %d updates", self.folder, progress.update)
            return {}
        logger.info(
            "%s: %.2f M parameters, %d training %s, %d batches an epoch, padding %.1f %%%s",
            self.folder,
            parameters / 1e6,
            sum(len(c.split("train")) for c in self.corpora),
            "pairs" if self.corpus.parallel else "lines",
            self.batches.num_batches(progress.epoch),
            100 * self.batches.padding_share(progress.epoch),
            f", going on after update {progress.update}" if progress.update else "",
        )
        self.window = dealt(progress.windows, self.ranks)
        self.log = RunLogger(self.folder, progress.update, progress.lines) if self.ranks.first else SilentLogger()
        try:
            with self.signals:
                return self._epochs()
        finally:
            self.log.close()

    def _reached_end(self) -> bool:
        loop, progress = self.options.train, self.learner.progress
        return bool(
            (loop.max_updates and progress.update >= loop.max_updates)
            or (loop.max_epochs and progress.epoch > loop.max_epochs)
            or (self._patience and progress.without_better >= self._patience)
        )

    def _epochs(self) -> dict[str, float]:
        progress = self.learner.progress
        figures: dict[str, float] = {}
        self.model.train()
        while not self._reached_end():
            for validated in self._epoch():
                figures = validated or figures
                if self._reached_end():
                    break
        if progress.validated_at != progress.update:
            figures = self._validate()
        if self.options.checkpoints.average > 1:
            self._save()
            figures = self._average_at_end(figures)
        progress.finished = True
        self._save()
        best = "" if progress.best is None else f", best {self.metric} {progress.best:.4g}"
        memory = peak_memory_mib(self.device)
        logger.info(
            "%s: finished after %d updates, %.0f s of training, peak memory %.0f MiB%s",
            self.folder,
            progress.update,
            progress.seconds,
            memory,
            best,
        )
        return figures

    def _epoch(self) -> Iterator[dict[str, float] | None]:
        """The rest of the current epoch; yields after every validation, and at its end."""
        loop, progress = self.options.train, self.learner.progress
        of_epoch = self.batches.num_batches(progress.epoch)
        updates_of_epoch = math.ceil(of_epoch / self._group)
        batches = self._batches()
        self.log.start_epoch(progress.epoch, progress.batch // self._group, updates_of_epoch)
        if 0 < progress.batch < of_epoch and self._validation_due():  # a stop broke it off
            figures = self._validate()
            self._save()
            yield figures
        mark = time.monotonic()
        while progress.batch < of_epoch:
            result = self._update(self._next_group(batches))
            seconds = time.monotonic() - mark
            self.window.add(result, seconds)
            progress.seconds += seconds
            mark = time.monotonic()
            if progress.update % loop.log_every == 0 or progress.batch >= of_epoch:
                self._log(self.window, updates_of_epoch)
                self.window = Window()
            if progress.batch >= of_epoch:
                break
            if self._reached_end():
                return
            validated = self._validate() if self._validation_due() else None
            save = validated is not None or self._due(self.options.checkpoints.every)
            if save:
                self._save()
            if self._stop_due():
                self._stop(save=not save)
            if validated is not None:
                yield validated
            mark = time.monotonic()  # rates leave validation and saving out
        self.log.end_epoch()
        validated = self._validate() if self._validation_due(end_of_epoch=True) else None
        progress.epoch, progress.batch = progress.epoch + 1, 0
        every = self.options.checkpoints.every
        save = validated is not None or every is None or self._due(every)
        if save:
            self._save()
        if self._stop_due():
            self._stop(save=not save)
        yield validated

    def _batches(self, workers: int | None = None) -> Iterator[Batch]:
        """The rest of the epoch's batches that are for this process."""
        progress, ranks = self.learner.progress, self.ranks
        return self.batches.epoch(progress.epoch, progress.batch, ranks.rank, ranks.world, workers=workers)

    def _next_group(self, batches: Iterator[Batch]) -> list[Batch]:
        """This process's batches of the next update; perhaps none at the end of the epoch."""
        try:
            return list(islice(batches, self.options.train.accumulate))
        except (RuntimeError, OSError, EOFError):
            if not self.signals.requested:
                raise
            # A signal to the whole process group has ended the workers too, one perhaps while it handed over a batch.
            # The others still count on this process.
            return list(islice(self._batches(workers=0), self.options.train.accumulate))

    def _due(self, every: int | None) -> bool:
        return every is not None and self.learner.progress.update % every == 0

    def _validation_due(self, *, end_of_epoch: bool = False) -> bool:
        every, progress = self.options.validate.every, self.learner.progress
        return (end_of_epoch if every is None else self._due(every)) and progress.validated_at != progress.update

    def _update(self, batches: list[Batch]) -> UpdateResult:
        """Update with the next batches of the epoch, of which these are for this process."""
        progress = self.learner.progress
        self.lr = self.learner.optimizer.defaults["lr"] * self.schedule.factor(progress.update + 1)
        size = min(self._group, self.batches.num_batches(progress.epoch) - progress.batch)
        rounds = math.ceil(size / self.ranks.world)
        result = self.updater(batches, self.lr, rounds=rounds, stop=self.signals.requested)
        progress.update += 1
        progress.batch += size
        self.stop_agreed = result.stop
        self.log.advance()
        return result

    def _log(self, window: Window, updates_of_epoch: int) -> None:
        progress = self.learner.progress
        values = window.summary(self.ranks)
        values.update(lr=self.lr, epoch=progress.epoch, seconds=round(progress.seconds, 3), skipped=progress.skipped)
        self.log.write("train", progress.update, values)
        done = math.ceil(progress.batch / self._group)
        self.log.progress(progress.epoch, progress.update, updates_of_epoch, done, values)

    def _stop_due(self) -> bool:
        """Several processes stop where all know of it; one need not wait for that."""
        return self.stop_agreed or (self.signals.requested and self.ranks.world == 1)

    def _stop(self, *, save: bool) -> NoReturn:
        if save:
            self._save()
        logger.info("%s: stopped after update %d; the same command goes on", self.folder, self.learner.progress.update)
        raise KeyboardInterrupt

    # --- validation and saving ----------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, float]:
        """Figures of the model as it is, on the validation set; the same on all processes.

        Raises:
            Interrupted: in all processes, when one was asked to stop.
        """
        options = self.options.validate
        split = self.corpus.split("valid")
        place = (self.device, self.ranks, self.signals)
        with explaining_shortage("while validating", LESS_VALIDATED), self.parallel.evaluated() as model:
            figures = validation_loss(model, self.criterion, split, options.max_tokens, *place)
            if options.translate:
                shared = partial(self.signals.shared, self.ranks)
                given = Evaluation(model, self.corpus.vocabularies, split, options, self.device, self.ranks, shared)
                figures.update(self.task.evaluate(given))
        return figures

    def _validate(self) -> dict[str, float]:
        progress = self.learner.progress
        try:
            with self.learner.average.applied():
                figures = self._measure()
        except Interrupted:
            self._stop(save=True)  # the validation comes first when the run goes on
        progress.validated_at = progress.update
        self._rank(figures, CheckpointStore.name(progress.update))
        memory = round(peak_memory_mib(self.device))
        self.log.write("valid", progress.update, {"epoch": progress.epoch, **figures, "peak_mib": memory})
        logger.info("update %d | valid %s", progress.update, _listed(figures))
        return figures

    def _rank(self, figures: dict[str, float], name: str) -> None:
        """Enter a validated checkpoint into the ranking."""
        progress, metric = self.learner.progress, self.metric
        value = figures[metric]
        sign = -1 if self.task.metrics[metric] else 1
        if progress.best is None or sign * value < sign * progress.best:
            progress.best, progress.without_better = value, 0
        else:
            progress.without_better += 1
        progress.ranking = [entry for entry in progress.ranking if entry[1] != name] + [(value, name)]
        progress.ranking.sort(key=lambda entry: sign * entry[0])  # stable: the older of two equals stays first
        del progress.ranking[self.options.checkpoints.keep_best :]

    def _described(self, config: DictConfig, **facts: Any) -> DictConfig:
        """The configuration with what a checkpoint says of itself."""
        merged = OmegaConf.create(OmegaConf.to_container(config))
        merged.checkpoint = describe(
            self.corpus.vocabularies, self.corpus.source_language or "", self.corpus.target_language, **facts
        )
        return merged  # type: ignore[return-value]

    def _save(self) -> None:
        progress = self.learner.progress
        self.log.sync()
        progress.windows, progress.lines = gathered(self.window, self.ranks), self.log.lines
        state = self.learner.state_files()
        with self.learner.average.applied():
            files = self._model_files(self.parallel.tensors(), state)
        if self.ranks.first:
            self.store.save(progress.update, files, [name for _, name in progress.ranking])
        self.ranks.wait()  # who ends before the checkpoint is there would have torchrun end the others

    def _model_files(
        self, tensors: dict[str, Tensor], state: dict[str, Any] | None = None, **facts: Any
    ) -> CheckpointFiles:
        config = self._described(self.config, update=self.learner.progress.update, **facts)
        return model_files(tensors, config, self.corpus.vocabularies, state)

    def _average_at_end(self, figures: dict[str, float]) -> dict[str, float]:
        """Average the newest checkpoints; the result becomes the best one if it is."""
        names = self.ranks.broadcast([p.name for p in self.store.numbered()[-self.options.checkpoints.average :]])
        name = f"average-{CheckpointStore.name(self.learner.progress.update)}"
        local = self.parallel.local()
        kept = {key: tensor.clone() for key, tensor in local.items()}
        reason, average = None, dict[str, Tensor]()
        try:
            average = average_tensors([Checkpoint(self.store.folder / name) for name in names])
        except DataError as error:
            reason = str(error)
        if reasons := [found for found in self.ranks.all_gather(reason) if found]:
            logger.warning("checkpoints.average=%d is left out: %s", self.options.checkpoints.average, reasons[0])
            return figures
        try:
            self.parallel.load(average, self.store.folder)
            measured = self._measure()
            if self.ranks.first:
                self.store.save_aside(name, self._model_files(average, average_of=names))
        except Interrupted:
            self._stop(save=False)  # all was saved before; the same command averages again
        finally:
            for key, tensor in local.items():
                tensor.copy_(kept[key])
        patience_used = self.learner.progress.without_better
        self._rank(measured, name)
        self.learner.progress.without_better = patience_used  # an average is no progress of the training
        self.log.write("valid", self.learner.progress.update, {"averaged": len(names), **measured})
        logger.info("average of %d checkpoints | valid %s", len(names), _listed(measured))
        return measured if self.learner.progress.ranking[0][1] == name else figures


def _listed(figures: dict[str, float]) -> str:
    return " | ".join(f"{name} {value:.4g}" for name, value in figures.items())
