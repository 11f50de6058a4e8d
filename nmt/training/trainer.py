"""The training loop."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nmt.config import ConfigError
from nmt.data.batch import Batch
from nmt.data.corpus import Corpus
from nmt.data.iteration import TrainBatches, training_splits
from nmt.device import peak_memory_mib, torch_device
from nmt.models.encoder_decoder import EncoderDecoder, num_parameters
from nmt.ranks import Ranks
from nmt.registry import build, discover, find
from nmt.training.average import average_tensors
from nmt.training.checkpoint import describe, model_files
from nmt.training.ema import MovingAverage
from nmt.training.interfaces import Criterion, Schedule
from nmt.training.logger import RunLogger, SilentLogger
from nmt.training.options import Metric, Parallel, Precision, TrainOptions
from nmt.training.parallel import distribute
from nmt.training.randomness import seed_process
from nmt.training.run_folder import CheckpointStore, adopt_config, append_manifest
from nmt.training.training_state import Learner, Progress
from nmt.training.update import Updater, UpdateResult
from nmt.training.validation import sum_by_name, validation_loss, validation_quality

logger = logging.getLogger(__name__)


@dataclass
class Window:
    """Figures since the last line of the log."""

    sums: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    num_tokens: int = 0
    num_padded: int = 0
    num_updates: int = 0
    grad_norm: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, result: UpdateResult) -> None:
        """Take in an update."""
        for name, value in result.sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.figures.update(result.figures)
        self.num_tokens += result.num_tokens  # of all processes; the other sums are this process's
        self.num_padded += result.num_padded
        self.num_updates += 1
        self.grad_norm = result.grad_norm

    def summary(self, ranks: Ranks) -> dict[str, float]:
        """Means per target token, and rates; the only place where training reads tensors back.

        Figures that are no sums are means over the processes that have them.
        """
        sums = {name: float(total) for name, total in self.sums.items()}
        parts = ranks.all_gather([sums, {name: float(value) for name, value in self.figures.items()}, self.num_padded])
        values = {name: total / self.num_tokens for name, total in sum_by_name(part[0] for part in parts).items()}
        values["ppl"] = math.exp(min(values["nll"], 100.0))
        having = sum_by_name(dict.fromkeys(part[1], 1) for part in parts)
        values.update({k: total / having[k] for k, total in sum_by_name(part[1] for part in parts).items()})
        num_padded = sum(part[2] for part in parts)
        seconds = max(1e-9, time.monotonic() - self.started)
        values.update(
            grad_norm=self.grad_norm,
            tokens=self.num_tokens,
            tokens_per_second=self.num_tokens / seconds,
            updates_per_second=self.num_updates / seconds,
            target_padding=1 - self.num_tokens / max(1, num_padded),
        )
        return values


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
        model: EncoderDecoder = task.build_model(options.model, self.corpus.vocabularies)
        self._check_lengths(model)
        self.parallel = distribute(options.train.parallel, model, self.ranks, self.device)
        self.model = model
        self.criterion: Criterion = build("criterion", options.criterion, key="criterion").to(self.device)
        self.schedule: Schedule = build(
            "schedule", options.schedule, key="schedule", total_updates=self._total_updates()
        )
        self.learner = Learner(
            parallel=self.parallel,
            optimizer=build("optimizer", options.optimizer, key="optimizer", parameters=self.parallel.parameters),
            scaler=torch.amp.GradScaler(self.device.type, enabled=options.train.precision is Precision.fp16),
            average=MovingAverage(self.parallel.parameters, options.train.ema),
            progress=Progress(),
        )
        forward: Callable[..., Any] = torch.compile(model, dynamic=True) if options.compile else model
        self.updater = Updater(self.learner, self.criterion, forward, options.train, self.device)
        self.folder = Path(options.run)
        if self.ranks.first:
            adopt_config(self.folder, config, extendable=not self.schedule.uses_total, processes=self.ranks.world)
        self.config = config
        self.store = CheckpointStore(
            self.folder / "checkpoints",
            keep_last=options.checkpoints.keep_last,
            keep_best=options.checkpoints.keep_best,
        )
        self.stop_requested = self.stop_agreed = False
        seed_process(options.seed, self.ranks.rank)

    def _check(self) -> None:
        loop = self.options.train
        if not (loop.max_updates or loop.max_epochs or loop.patience):
            raise ConfigError("give train.max_updates, train.max_epochs or train.patience: nothing says when to stop")
        if self.options.validate.metric is not Metric.loss and not self.options.validate.translate:
            raise ConfigError(
                f"validate.metric={self.options.validate.metric.value} needs validate.translate=true; "
                "or choose validate.metric=loss"
            )
        if loop.parallel is Parallel.shard and (loop.precision is Precision.fp16 or self.options.compile):
            what = "train.precision=fp16" if loop.precision is Precision.fp16 else "compile=true"
            raise ConfigError(f"train.parallel=shard does not go with {what}; valid option: train.parallel=replicate")
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
        per_epoch = math.ceil(self.batches.num_batches(1) / self._group)
        by_epochs = loop.max_epochs * per_epoch
        return by_epochs if loop.max_updates is None else min(by_epochs, loop.max_updates)

    @property
    def _group(self) -> int:
        """Batches of an update, of all processes together."""
        return self.ranks.world * self.options.train.accumulate

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        if self.ranks.first:
            self.store.clean()
        last = self.store.last()
        last = self.ranks.broadcast(last.name if last else None)  # as the first process sees the folder
        if last is not None:
            self.learner.restore(self.store.folder / last)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, float]:
        """Train to the end.

        Returns:
            The figures of the last validation.
        """
        self._resume()
        progress = self.learner.progress
        parameters = num_parameters(self.model)
        if self.ranks.first:
            append_manifest(
                self.folder,
                device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
                processes=self.ranks.world,
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
        self.log = RunLogger(self.folder, progress.update) if self.ranks.first else SilentLogger()
        previous = {s: signal.signal(s, self._request_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._epochs()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.log.close()

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True

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
        updates_of_epoch = math.ceil(of_epoch / self._group)
        batches = self.batches.epoch(progress.epoch, start=progress.batch, rank=self.ranks.rank, world=self.ranks.world)
        self.log.start_epoch(progress.epoch, progress.batch // self._group, updates_of_epoch)
        window, mark = Window(), time.monotonic()
        while progress.batch < of_epoch:
            result = self._update(list(islice(batches, loop.accumulate)))
            window.add(result)
            progress.seconds += time.monotonic() - mark
            mark = time.monotonic()
            if progress.update % loop.log_every == 0 or progress.batch >= of_epoch:
                self._log(window, updates_of_epoch)
                window = Window()
            if progress.batch >= of_epoch:
                break
            if self._reached_end():
                return
            validated = self._validate() if self._due(self.options.validate.every) else None
            if validated is not None or self._due(self.options.checkpoints.every):
                self._save()
            self._stop_if_requested()
            if validated is not None:
                yield validated
            window.started += time.monotonic() - mark  # rates leave validation and saving out
            mark = time.monotonic()
        self.log.end_epoch()
        every = self.options.validate.every
        validated = self._validate() if every is None or self._due(every) else None
        progress.epoch, progress.batch = progress.epoch + 1, 0
        if validated is not None or self.options.checkpoints.every is None or self._due(self.options.checkpoints.every):
            self._save()
        self._stop_if_requested()
        yield validated

    def _due(self, every: int | None) -> bool:
        return every is not None and self.learner.progress.update % every == 0

    def _update(self, batches: list[Batch]) -> UpdateResult:
        """Update with the next batches of the epoch, of which these are for this process."""
        progress = self.learner.progress
        self.lr = self.learner.optimizer.defaults["lr"] * self.schedule.factor(progress.update + 1)
        size = min(self._group, self.batches.num_batches(progress.epoch) - progress.batch)
        rounds = math.ceil(size / self.ranks.world)
        result = self.updater(batches, self.lr, rounds=rounds, stop=self.stop_requested)
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

    def _stop_if_requested(self) -> None:
        # Several processes stop where all know of it; one needs not wait for that.
        if self.stop_agreed or (self.stop_requested and self.ranks.world == 1):
            self._save()
            logger.info(
                "%s: stopped after update %d; the same command goes on", self.folder, self.learner.progress.update
            )
            raise KeyboardInterrupt

    # --- validation and saving ----------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, float]:
        """Figures of the model as it is, on the validation set; the same on all processes."""
        options = self.options.validate
        split = self.corpus.split("valid")
        place = (self.device, self.ranks)
        with self.parallel.evaluated() as model:
            figures = validation_loss(model, self.criterion, split, options.max_tokens, *place)
            if options.translate:
                model.eval()
                figures.update(validation_quality(model, self.corpus.vocabularies, split, options, *place))
                model.train()
        return figures

    def _validate(self) -> dict[str, float]:
        progress = self.learner.progress
        with self.learner.average.applied():
            figures = self._measure()
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
        state = self.learner.state_files()
        with self.learner.average.applied():
            files = self._model_files(self.parallel.tensors())
        if self.ranks.first:
            self.store.save(progress.update, {**files, **state}, [name for _, name in progress.ranking])
        self.ranks.wait()  # who ends before the checkpoint is there would have torchrun end the others

    def _model_files(self, tensors: dict[str, Tensor], **more: Any) -> dict[str, Any]:
        return model_files(tensors, self._checkpoint_config(**more), self.corpus.vocabularies)

    def _average_at_end(self, figures: dict[str, float]) -> dict[str, float]:
        """Average the newest checkpoints; the result becomes the best one if it is."""
        names = self.ranks.broadcast([p.name for p in self.store.numbered()[-self.options.checkpoints.average :]])
        newest = [self.store.folder / name for name in names]
        local = self.parallel.local()
        kept = {name: tensor.clone() for name, tensor in local.items()}
        average = average_tensors(newest)
        self.parallel.load(average, self.store.folder)
        measured = self._measure()
        name = f"average-{CheckpointStore.name(self.learner.progress.update)}"
        if self.ranks.first:
            self.store.save_aside(name, self._model_files(average, average_of=names))
        for key, tensor in local.items():
            tensor.copy_(kept[key])
        patience_used = self.learner.progress.without_better
        self._rank(measured, name)
        self.learner.progress.without_better = patience_used  # an average is no progress of the training
        self.log.write("valid", self.learner.progress.update, {"averaged": len(newest), **measured})
        logger.info("average of %d checkpoints | valid %s", len(newest), _listed(measured))
        return measured if self.learner.progress.ranking[0][1] == name else figures


def _listed(figures: dict[str, float]) -> str:
    return " | ".join(f"{name} {value:.4g}" for name, value in figures.items())
