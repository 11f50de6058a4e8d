"""``nmt-components``: every slot and component, with options, purpose and paper."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from nmt.commands.app import run_app
from nmt.config import ConfigError, option, suggest


@dataclass
class ComponentsOptions:
    """The configuration of ``nmt-components``."""

    slot: str | None = option()
    plugins: list[str] = option()


def components(options: ComponentsOptions, config: DictConfig) -> None:
    """Print the listing."""
    from nmt.registry import discover, listing, slots

    discover(options.plugins)
    if options.slot is not None and options.slot not in slots():
        raise ConfigError(
            f"slot={options.slot}: no such slot; valid options: {', '.join(slots())}{suggest(options.slot, slots())}"
        )
    print(listing(options.slot))


def main() -> None:
    """Entry point of the console command."""
    run_app("components", ComponentsOptions, components)


if __name__ == "__main__":
    main()
