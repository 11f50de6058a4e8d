"""A plug-in: a task with metrics of its own, of which one is better when lower."""

from __future__ import annotations

from typing import ClassVar

from nmt.registry import NoOptions, register
from nmt.tasks.interfaces import Evaluation
from nmt.tasks.translation import Translation


@register("task", "counted")
class Counted(Translation):
    """Translation that is judged by what a list says."""

    metrics: ClassVar = {"distance": False, "closeness": True, "loss": False}
    values = (5.0, 3.0, 4.0)

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self.evaluated = 0

    def evaluate(self, given: Evaluation) -> dict[str, float]:
        assert given.options.beam == 3
        value = self.values[self.evaluated]
        self.evaluated += 1
        return {"distance": value, "closeness": value}
