"""A plug-in whose criterion makes the second process fail, once, in its third training pass: ``FAULT`` says how.

``validation``: it is asked to stop in its first validation.
"""

from __future__ import annotations

import math
import os
import signal

from nmt.criterions.cross_entropy import CrossEntropy, CrossEntropyOptions
from torch import Tensor

from nmt.data.batch import Batch
from nmt.models.encoder_decoder import EncoderDecoder, ModelOutput
from nmt.registry import register


@register("criterion", "faulty", options=CrossEntropyOptions)
class Faulty(CrossEntropy):
    """Cross-entropy until the fault."""

    passes = 0

    def main(self, model: EncoderDecoder, output: ModelOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.passes += self.training
        loss, sums = super().main(model, output, batch)
        in_validation = os.environ.get("FAULT") == "validation"
        if os.environ.get("RANK") != "1" or (self.training if in_validation else self.passes != 3):
            return loss, sums
        fault = os.environ.pop("FAULT", "")
        if fault == "error":
            raise ValueError("the second process cannot go on")
        if fault == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        if fault in ("SIGTERM", "SIGKILL", "validation"):
            os.kill(os.getpid(), signal.SIGKILL if fault == "SIGKILL" else signal.SIGTERM)
        if fault == "nan":
            return loss * math.nan, {name: value * math.nan for name, value in sums.items()}
        return loss, sums
