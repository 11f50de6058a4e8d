"""One update: forward and backward passes of some batches, then a step of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nmt.data.batch import Batch
from nmt.memory import explaining_shortage
from nmt.parallel.ranks import exchanging
from nmt.training.callbacks import each
from nmt.training.options import LoopOptions, Precision
from nmt.training.training_state import Learner
from nmt.training.window import UpdateResult

LESS_AT_ONCE = (
    "lower batch.max_tokens (and raise train.accumulate to keep the updates as large), batch.max_sentences or "
    "batch.max_length, or give train.precision=bf16"
)
SMALLER = "choose a smaller model, train.ema=0, or several processes that share it (torchrun, train.parallel=shard)"
"""What to change where memory runs out."""

AUTOCAST = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}


class TrainingError(ValueError):
    """Training cannot go on; one line says where and why."""


class Updater:
    """Makes updates in the precision that was asked for.

    Args:
        learner: model, criterion, callbacks, optimiser and what goes with them.
        forward: the model's forward pass, perhaps compiled.
        options: ``train.*``.
        device: where the model is.
    """

    def __init__(
        self,
        learner: Learner,
        forward: Callable[..., object],
        options: LoopOptions,
        device: torch.device,
    ) -> None:
        self.learner = learner
        self.forward = forward
        self.options = options
        self.device = device
        self.parallel = learner.parallel

    def autocast(self) -> torch.autocast:
        """The number format of a forward pass."""
        dtype = AUTOCAST.get(self.options.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def __call__(self, batches: Sequence[Batch], lr: float, *, rounds: int = 0, stop: bool = False) -> UpdateResult:
        """Update the model with the mean loss per target token of all batches of all processes together.

        Args:
            batches: those of this process; perhaps none.
            lr: the learning rate.
            rounds: the most batches that any process has.
            stop: this process was asked to stop; all learn of it in the result.

        Raises:
            TrainingError: the loss is not finite; names the update and the sentences.
            MemoryShortage: names the update and the shape of the batch, and what to change.
        """
        for callback in each(self.learner.callbacks):
            callback.before_step(self.learner.model, self.learner.progress.update + 1)
        num_tokens = sum(batch.num_tokens for batch in batches)
        sums: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        divisor = self.parallel.divisor(num_tokens)
        self.learner.scaler.scale(torch.zeros((), device=self.device))  # the scale must be there without batches too
        for batch in self.parallel.filled(batches, rounds):
            with explaining_shortage(self._at(batch), LESS_AT_ONCE):
                output = self._backward(batch.to(self.device), divisor)
            if not batch.num_tokens:
                continue  # it only kept the others company
            for name, value in output[0].items():
                sums[name] = sums[name] + value if name in sums else value
            figures.update(output[1])
        with explaining_shortage(f"in the optimiser's step of update {self.learner.progress.update + 1}", SMALLER):
            num_tokens, stop = self.parallel.reduce(num_tokens, stop)
            grad_norm = self._step(lr, batches, sums)
        padded = sum(batch.target.numel() for batch in batches)
        return UpdateResult(sums, figures, num_tokens, padded, grad_norm, not math.isfinite(grad_norm), stop)

    def _step(self, lr: float, batches: Sequence[Batch], sums: dict[str, Tensor]) -> float:
        """Change the parameters by the gradient, unless it is not finite; its norm."""
        self.learner.scaler.unscale_(self.learner.optimizer)
        norm = self.parallel.grad_norm()
        torch.nn.utils.clip_grads_with_norm_(self.parallel.parameters, self.options.clip_norm or math.inf, norm)
        grad_norm = float(norm)
        skipped = not math.isfinite(grad_norm)
        if skipped:
            self._count_skipped(batches, sums)
        for group in self.learner.optimizer.param_groups:
            group["lr"] = lr
        self.learner.scaler.step(self.learner.optimizer)  # itself leaves the step out where gradients overflowed
        self.learner.scaler.update()
        self.parallel.zero_grad()
        if not skipped:
            self.learner.progress.skipped_in_a_row = 0
            self._constrain(self.learner.progress.update + 1)
        return grad_norm

    @torch.no_grad()
    def _constrain(self, update: int) -> None:
        """Let callbacks act on the new weights, the moving average follow, and callbacks act on that."""
        average, names = self.learner.average, [name for name, _ in self.learner.model.named_parameters()]
        for callback in each(self.learner.callbacks):
            callback.constrain(dict(zip(names, self.parallel.of_model)), update)
        average.update(update)
        for callback in each(self.learner.callbacks) if average.decay else ():
            callback.constrain(dict(zip(names, average.average)), update)

    def _backward(self, batch: Batch, divisor: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with exchanging():  # layers that are sharded are gathered as they run
            with self.autocast():
                output = self.learner.criterion(self.learner.model, batch, self.forward)
                for callback in each(self.learner.callbacks):
                    for name, term in callback.terms(self.learner.model).items():
                        output.loss = output.loss + term * batch.num_tokens
                        output.figures[name] = term.detach()
            self.learner.scaler.scale(output.loss / divisor).backward()
        return output.sums, output.figures

    def _count_skipped(self, batches: Sequence[Batch], sums: dict[str, Tensor]) -> None:
        """Overflow is part of training with loss scaling, within bounds; otherwise it ends the run."""
        progress = self.learner.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        scaling = self.learner.scaler.is_enabled()
        if scaling and progress.skipped_in_a_row <= self.options.max_skipped:
            return
        loss, ids = self._suspects(batches, sums)
        listed = ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        what = f"{progress.skipped_in_a_row} updates in a row with" if scaling else "a"
        raise TrainingError(
            f"{what} non-finite gradient at update {progress.update + 1} "
            f"(epoch {progress.epoch}), loss {loss:.4g}, training sentences {listed}; "
            "lower optimizer.lr or train.clip_norm, lengthen schedule.warmup_updates, "
            "or use train.precision=bf16 or fp32"
        )

    def _suspects(self, batches: Sequence[Batch], sums: dict[str, Tensor]) -> tuple[float, list[int]]:
        """Loss and sentences of the processes whose own loss is not finite; of all where there is no such process."""
        own = {
            "loss": float(sums["loss"]) if "loss" in sums else math.nan,
            "num_tokens": sum(batch.num_tokens for batch in batches),
            "ids": [i for batch in batches for i in batch.ids],
        }
        parts = [part for part in self.parallel.ranks.all_gather(own) if part["ids"]]
        parts = [part for part in parts if not math.isfinite(part["loss"])] or parts
        num_tokens = max(1, sum(part["num_tokens"] for part in parts))
        return sum(part["loss"] for part in parts) / num_tokens, [i for part in parts for i in part["ids"]]

    def _at(self, batch: Batch) -> str:
        """Where training is, for messages."""
        bsz, src_len = batch.src_tokens.shape
        return (
            f"at update {self.learner.progress.update + 1} with a batch of {bsz} sentences, source length {src_len}, "
            f"target length {batch.target.size(1)}"
        )
