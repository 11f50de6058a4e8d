"""``nmt-average``: the mean of several checkpoints as a checkpoint of its own."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.config import Texts, option
from nmt.limits import MAX_COUNT


@dataclass
class AverageOptions:
    """The configuration of ``nmt-average``."""

    checkpoint: Texts = option()
    last: int | None = option(minimum=1, maximum=MAX_COUNT)
    out: str = option()


def average(options: AverageOptions, config: DictConfig) -> None:
    """Average and say what was averaged."""
    from nmt.checkpoints.average import average_checkpoints

    paths = options.checkpoint if isinstance(options.checkpoint, list) else [options.checkpoint]
    folders = average_checkpoints(paths, options.last, options.out)
    print(f"{options.out}: average of {', '.join(folder.name for folder in folders)}")


def main() -> None:
    """Entry point of the console command."""
    run_app("average", AverageOptions, average)


if __name__ == "__main__":
    main()
