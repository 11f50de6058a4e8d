"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig, OmegaConf

from nmt.config import ConfigError
from nmt.data.batch import Batch
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches, training_splits
from nmt.device import peak_memory_mib, torch_device
from nmt.files import remove_leftovers
from nmt.models.encoder_decoder import EncoderDecoder, num_parameters
from nmt.registry import build, discover, find
from nmt.training.average import average_tensors
from nmt.training.checkpoint import describe, load_tensors, model_files, model_tensors
from nmt.training.ema import MovingAverage
from nmt.training.interfaces import Criterion, Schedule
from nmt.training.logger import RunLogger
from nmt.training.options import Metric, Precision, TrainOptions
from nmt.training.resume import restore_newest
from nmt.training.run_folder import CheckpointStore, adopt_config, append_manifest, check_config
from nmt.training.run_lock import run_lock
from nmt.training.signals import Interrupted, StopSignals
from nmt.training.training_state import Learner, Progress
from nmt.training.update import Updater, UpdateResult
from nmt.training.validation import validation_loss, validation_quality
from nmt.training.window import Window

logger = logging.getLogger(__name__)


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
        if options.threads:
            torch.set_num_threads(options.threads)
        self._check()
        self.corpora, self.batches = self._open_data()
        self.corpus = self.corpora[0]
        self.corpus.split("valid")  # that there is none should show now
        torch.manual_seed(options.seed)
        task = build("task", options.task, key="task")
        if options.validate.metric.value not in task.metrics:
            raise ConfigError(
                f"validate.metric={options.validate.metric.value}: task {options.task['name']!r} has no such metric; "
                f"valid options: {', '.join(task.metrics)}"
            )
        model: EncoderDecoder = task.build_model(options.model, self.corpus.vocabularies).to(self.device)
        self._check_lengths(model)
        self.model = model
        self.criterion: Criterion = build("criterion", options.criterion, key="criterion").to(self.device)
        self.schedule: Schedule = build(
            "schedule", options.schedule, key="schedule", total_updates=self._total_updates()
        )
        self.learner = Learner(
            model=model,
            optimizer=build("optimizer", options.optimizer, key="optimizer", parameters=model.parameters()),
            scaler=torch.amp.GradScaler(self.device.type, enabled=options.train.precision is Precision.fp16),
            average=MovingAverage(model, options.train.ema),
            progress=Progress(),
        )
        forward: Callable[..., Any] = torch.compile(model, dynamic=True) if options.compile else model
        self.updater = Updater(self.learner, self.criterion, forward, options.train, self.device)
        self.folder = Path(options.run)
        check_config(self.folder, config, extendable=not self.schedule.uses_total)
        self.config = config
        self.store = CheckpointStore(
            self.folder / "checkpoints",
            keep_last=options.checkpoints.keep_last,
            keep_best=options.checkpoints.keep_best,
        )
        self.signals = StopSignals()
        self.window = Window()

    def _check(self) -> None:
        loop = self.options.train
        if not (loop.max_updates or loop.max_epochs or loop.patience):
            raise ConfigError("give train.max_updates, train.max_epochs or train.patience: nothing says when to stop")
        if self.options.validate.metric is not Metric.loss and not self.options.validate.translate:
            raise ConfigError(
                f"validate.metric={self.options.validate.metric.value} needs validate.translate=true; "
                "or choose validate.metric=loss"
            )
        for slot in ("criterion", "optimizer", "schedule"):
            find(slot, getattr(self.options, slot).get("name"), slot)

    def _open_data(self) -> tuple[list[Corpus], TrainBatches]:
        paths = self.options.corpus if isinstance(self.options.corpus, list) else [self.options.corpus]
        corpora = [Corpus.open(path) for path in paths]
        batches = TrainBatches(
            training_splits(corpora, self.options.mix),
            self.options.batch,
            seed=self.options.seed,
            vocabularies=corpora[0].vocabularies,
            subword=self.options.subword,
        )
        return corpora, batches

    def _check_lengths(self, model: EncoderDecoder) -> None:
        limit, longest = model.max_source_length, self.options.batch.max_length
        if limit is not None and (longest is None or longest + 1 > limit):
            raise ConfigError(
                f"batch.max_length={longest} tokens and an end of sentence do not fit "
                f"model.embedding.max_positions={limit}"
            )

    def _total_updates(self) -> int | None:
        loop = self.options.train
        if loop.max_epochs is None:
            return loop.max_updates
        per_epoch = math.ceil(self.batches.num_batches(1) / loop.accumulate)
        by_epochs = loop.max_epochs * per_epoch
        return by_epochs if loop.max_updates is None else min(by_epochs, loop.max_updates)

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
        with run_lock(self.folder):
            return self._fit()

    def _fit(self) -> dict[str, float]:
        for folder in (self.folder, self.store.folder):
            remove_leftovers(folder)
        adopt_config(self.folder, self.config, extendable=not self.schedule.uses_total)
        restore_newest(self.learner, self.store)
        progress = self.learner.progress
        parameters = num_parameters(self.model)
        append_manifest(
            self.folder,
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            parameters=parameters,
            corpora={str(c.folder): c.digest for c in self.corpora},
            update=progress.update,
        )
        if progress.finished and not self._reached_end():
            progress.finished = False  # the end was moved further away
        if progress.finished:
            logger.info("%s: already finished after %d updates", self.folder, progress.update)
            return {}
        logger.info(
            "%s: %.2f M parameters, %d training pairs, %d batches an epoch, padding %.1f %%%s",
            self.folder,
            parameters / 1e6,
            sum(len(c.split("train")) for c in self.corpora),
            self.batches.num_batches(progress.epoch),
            100 * self.batches.padding_share(progress.epoch),
            f", going on after update {progress.update}" if progress.update else "",
        )
        self.window = progress.window
        self.log = RunLogger(self.folder, progress.update, progress.lines)
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
            or (loop.patience and progress.without_better >= loop.patience)
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
        best = "" if progress.best is None else f", best {self.options.validate.metric.value} {progress.best:.4g}"
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
        updates_of_epoch = math.ceil(of_epoch / loop.accumulate)
        batches = self.batches.epoch(progress.epoch, start=progress.batch)
        self.log.start_epoch(progress.epoch, progress.batch // loop.accumulate, updates_of_epoch)
        if 0 < progress.batch < of_epoch and self._validation_due():  # a stop broke it off
            figures = self._validate()
            self._save()
            yield figures
        mark = time.monotonic()
        while group := self._next_group(batches):
            result = self._update(group)
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
            if self.signals.requested:
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
        if self.signals.requested:
            self._stop(save=not save)
        yield validated

    def _next_group(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of the next update; none at the end of the epoch."""
        try:
            return list(islice(batches, self.options.train.accumulate))
        except RuntimeError:
            if self.signals.requested:  # a signal to the whole process group has ended the workers too
                self._stop(save=True)
            raise

    def _due(self, every: int | None) -> bool:
        return every is not None and self.learner.progress.update % every == 0

    def _validation_due(self, *, end_of_epoch: bool = False) -> bool:
        every, progress = self.options.validate.every, self.learner.progress
        return (end_of_epoch if every is None else self._due(every)) and progress.validated_at != progress.update

    def _update(self, group: list[Batch]) -> UpdateResult:
        progress = self.learner.progress
        self.lr = self.learner.optimizer.defaults["lr"] * self.schedule.factor(progress.update + 1)
        result = self.updater(group, self.lr)
        progress.update += 1
        progress.batch += len(group)
        self.log.advance()
        return result

    def _log(self, window: Window, updates_of_epoch: int) -> None:
        progress = self.learner.progress
        values = window.summary()
        values.update(lr=self.lr, epoch=progress.epoch, seconds=round(progress.seconds, 3), skipped=progress.skipped)
        self.log.write("train", progress.update, values)
        done = math.ceil(progress.batch / self.options.train.accumulate)
        self.log.progress(progress.epoch, progress.update, updates_of_epoch, done, values)

    def _stop(self, *, save: bool) -> NoReturn:
        if save:
            self._save()
        logger.info("%s: stopped after update %d; the same command goes on", self.folder, self.learner.progress.update)
        raise KeyboardInterrupt

    # --- validation and saving ----------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, float]:
        """Figures of the model as it is, on the validation set."""
        options = self.options.validate
        split = self.corpus.split("valid")
        figures = validation_loss(self.model, self.criterion, split, options.max_tokens, self.device)
        if options.translate:
            self.model.eval()
            figures.update(validation_quality(self.model, self.corpus.vocabularies, split, options, self.device))
            self.model.train()
        return figures

    def _validate(self) -> dict[str, float]:
        progress = self.learner.progress
        try:
            with self.learner.average.applied(), self.signals.breakable():
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
        progress, metric = self.learner.progress, self.options.validate.metric
        value = figures[metric.value]
        sign = 1 if metric is Metric.loss else -1
        if progress.best is None or sign * value < sign * progress.best:
            progress.best, progress.without_better = value, 0
        else:
            progress.without_better += 1
        progress.ranking = [entry for entry in progress.ranking if entry[1] != name] + [(value, name)]
        progress.ranking.sort(key=lambda entry: sign * entry[0])  # stable: the older of two equals stays first
        del progress.ranking[self.options.checkpoints.keep_best :]

    def _checkpoint_config(self, **more: Any) -> DictConfig:
        node = describe(
            self.corpus.vocabularies,
            self.corpus.source_language,
            self.corpus.target_language,
            update=self.learner.progress.update,
            **more,
        )
        merged = OmegaConf.create(OmegaConf.to_container(self.config))
        merged.checkpoint = node
        return merged  # type: ignore[return-value]

    def _save(self) -> None:
        progress = self.learner.progress
        self.log.sync()
        progress.window, progress.lines = self.window.stored(), self.log.lines
        state = self.learner.state_files()
        with self.learner.average.applied():
            files = model_files(model_tensors(self.model), self._checkpoint_config(), self.corpus.vocabularies)
        self.store.save(progress.update, {**files, **state}, [name for _, name in progress.ranking])

    def _average_at_end(self, figures: dict[str, float]) -> dict[str, float]:
        """Average the newest checkpoints; the result becomes the best one if it is."""
        newest = self.store.numbered()[-self.options.checkpoints.average :]
        kept = {name: tensor.clone() for name, tensor in model_tensors(self.model).items()}
        name = f"average-{CheckpointStore.name(self.learner.progress.update)}"
        try:
            load_tensors(self.model, average_tensors(newest), self.store.folder)
            with self.signals.breakable():
                measured = self._measure()
            config = self._checkpoint_config(average_of=[p.name for p in newest])
            self.store.save_aside(name, model_files(model_tensors(self.model), config, self.corpus.vocabularies))
        except Interrupted:
            self._stop(save=False)  # all was saved before; the same command averages again
        finally:
            load_tensors(self.model, kept, self.store.folder)
        patience_used = self.learner.progress.without_better
        self._rank(measured, name)
        self.learner.progress.without_better = patience_used  # an average is no progress of the training
        self.log.write("valid", self.learner.progress.update, {"averaged": len(newest), **measured})
        logger.info("average of %d checkpoints | valid %s", len(newest), _listed(measured))
        return measured if self.learner.progress.ranking[0][1] == name else figures


def _listed(figures: dict[str, float]) -> str:
    return " | ".join(f"{name} {value:.4g}" for name, value in figures.items())
