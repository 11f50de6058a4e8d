"""``nmt-score``: BLEU, chrF and TER of a file, and significance against a baseline."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.metrics.scoring import ScoreOptions, score_files


def score(options: ScoreOptions, config: DictConfig) -> None:
    """Score files."""
    score_files(options)


def main() -> None:
    """Entry point of the console command."""
    run_app("score", ScoreOptions, score)


if __name__ == "__main__":
    main()
