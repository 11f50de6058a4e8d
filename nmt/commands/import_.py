"""``nmt-import``: a model of another toolkit as a checkpoint. (``import`` itself is a word of the language.)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.config import Texts, option


@dataclass
class ImportOptions:
    """The configuration of ``nmt-import``."""

    format: str = option()
    path: str = option()
    out: str = option()
    vocabulary: Texts | None = option()
    subwords: Texts | None = option()


def import_model(options: ImportOptions, config: DictConfig) -> None:
    """Import and say where it is."""
    from nmt.interchange.importing import import_checkpoint

    import_checkpoint(
        options.format, options.path, Path(options.out), vocabulary=options.vocabulary, subwords=options.subwords
    )
    print(f"{options.out}: checkpoint from {options.path}")


def main() -> None:
    """Entry point of the console command."""
    run_app("import", ImportOptions, import_model)


if __name__ == "__main__":
    main()
