"""``nmt-similarity``: how alike the attention of a model's layers is, and which of them can share it."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.compression.similarity_options import SimilarityOptions


def similarity(options: SimilarityOptions, config: DictConfig) -> None:
    """Measure, and show the report."""
    from nmt.compression.learn_policy import learn_policy

    print(learn_policy(options))


def main() -> None:
    """Entry point of the console command."""
    run_app("similarity", SimilarityOptions, similarity)


if __name__ == "__main__":
    main()
