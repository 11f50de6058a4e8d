"""``nmt-prune``: a smaller checkpoint out of a trained one."""

from __future__ import annotations

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.compression.options import PruneOptions


def prune(options: PruneOptions, config: DictConfig) -> None:
    """Prune and say what is left."""
    from nmt.compression.prune import prune as run

    print(f"{options.out}: {run(options)}")


def main() -> None:
    """Entry point of the console command."""
    run_app("prune", PruneOptions, prune)


if __name__ == "__main__":
    main()
