"""Options of tasks; importing them does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from nmt.config import option
from nmt.limits import MAX_BEAM, MAX_COUNT


@dataclass
class EvaluationOptions:
    """How much of a validation set is worked on, and how."""

    beam: int = option(help="width of the search, where there is one", minimum=1, maximum=MAX_BEAM)
    max_tokens: int = option(help="padded source tokens of a batch", minimum=1, maximum=MAX_COUNT)
    max_sentences: int | None = option(help="only the first so many", minimum=1, maximum=MAX_COUNT)
