"""``nmt-reproduce``: a paper's claim beside what is measured here."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.reproduction.options import ReproduceOptions


def reproduce(options: ReproduceOptions, config: DictConfig) -> None:
    """Train what is missing, measure, and show the report; or the plan only."""
    from nmt.reproduction.run import run_recipe

    print(run_recipe(options))


def main() -> None:
    """Entry point of the console command."""
    run_app("reproduce", ReproduceOptions, reproduce)


if __name__ == "__main__":
    main()
