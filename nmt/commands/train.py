"""``nmt-train``: learn a model from a prepared corpus."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.training.options import TrainOptions


def train(options: TrainOptions, config: DictConfig) -> None:
    """Train, or go on with a run."""
    from nmt.training.trainer import Trainer

    Trainer(options, config).fit()


def main() -> None:
    """Entry point of the console command."""
    run_app("train", TrainOptions, train)


if __name__ == "__main__":
    main()
