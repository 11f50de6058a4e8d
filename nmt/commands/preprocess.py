"""``nmt-preprocess``: parallel text to a corpus of memory-mapped ids."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.data.prepare import PreprocessOptions, prepare_corpus
from nmt.data.report import report


def run(options: PreprocessOptions, config: DictConfig) -> None:
    """Prepare a corpus and print what it holds."""
    print(report(prepare_corpus(options)))


def main() -> None:
    """Entry point."""
    run_app("preprocess", PreprocessOptions, run)


if __name__ == "__main__":
    main()
