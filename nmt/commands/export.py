"""``nmt-export``: a checkpoint as a folder of another toolkit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.config import option


@dataclass
class ExportOptions:
    """The configuration of ``nmt-export``."""

    checkpoint: str = option()
    to: str = option()
    out: str = option()


def export(options: ExportOptions, config: DictConfig) -> None:
    """Export and say where it is."""
    from nmt.interchange.export import export_checkpoint

    export_checkpoint(options.checkpoint, options.to, Path(options.out))
    print(f"{options.out}: {options.checkpoint} for {options.to}")


def main() -> None:
    """Entry point of the console command."""
    run_app("export", ExportOptions, export)


if __name__ == "__main__":
    main()
