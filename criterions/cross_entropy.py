"""Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nmt.config import option
from nmt.data.batch import Batch
from nmt.models.encoder_decoder import ModelOutput, SequenceModel
from nmt.registry import register
from nmt.training.interfaces import Criterion, real_tokens


@dataclass
class CrossEntropyOptions:
    """Options of ``cross_entropy`` (criterion)."""

    label_smoothing: float = option(
        0.1,
        "epsilon: targets are (1 - epsilon) one-hot + epsilon / vocabulary size, as in torch "
        "(fairseq spreads epsilon over V - 1 words, so its epsilon is larger by V / (V - 1))",
        minimum=0,
        below=1,
    )


@register("criterion", "cross_entropy", options=CrossEntropyOptions, paper="Szegedy et al. 2016, arXiv:1512.00567")
class CrossEntropy(Criterion):
    """Cross-entropy against the reference, with label smoothing."""

    def __init__(self, options: CrossEntropyOptions) -> None:
        super().__init__()
        self.label_smoothing = options.label_smoothing

    def main(self, model: SequenceModel, output: ModelOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, target = real_tokens(output.hidden, batch.target)
        loss, nll = model.output.loss(hidden, target, self.label_smoothing)
        return loss, {"loss": loss.detach(), "nll": nll}
