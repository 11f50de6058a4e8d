"""``nmt-generate``: translate text."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.generation.options import GenerateOptions


def generate(options: GenerateOptions, config: DictConfig) -> None:
    """Translate, or score given translations."""
    from nmt.generation.generate import generate as run

    run(options)


def main() -> None:
    """Entry point of the console command."""
    run_app("generate", GenerateOptions, generate)


if __name__ == "__main__":
    main()
