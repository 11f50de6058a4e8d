"""From a recipe to the commands that make its models."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from nmt.config import ConfigError, compose, parse_options
from nmt.overrides import literal
from nmt.registry import discover
from nmt.reproduction.options import ReproduceOptions, VariantOptions
from nmt.training.options import TrainOptions


@dataclass(frozen=True)
class Job:
    """One model to make.

    Attributes:
        variant: its name in the recipe.
        seed: of the training.
        folder: the run or checkpoint.
        command: name without ``nmt-``.
        overrides: what the command is given.
        source: folder of the model that it is made from; None for a training.
        epochs: of a training, where that is when it ends.
    """

    variant: str
    seed: int
    folder: Path
    command: str
    overrides: tuple[str, ...]
    source: Path | None = None
    epochs: int | None = None

    @property
    def words(self) -> list[str]:
        """The command for a process of its own, by this interpreter."""
        return [sys.executable, "-m", module_of(self.command), *self.overrides]

    def __str__(self) -> str:
        return shlex.join([f"nmt-{self.command}", *self.overrides])


def module_of(command: str) -> str:
    """Importable name of a command's module."""
    return f"nmt.commands.{command}{'_' * iskeyword(command)}"


def plan(options: ReproduceOptions) -> list[Job]:
    """Every model of a recipe, each training's configuration checked.

    Raises:
        ConfigError: an option of a training is wrong, or a command does not exist; names the variant.
    """
    discover(options.plugins)
    recipe = options.recipe
    jobs: list[Job] = []
    for seed in options.seeds or recipe.seeds:
        for name, variant in recipe.variants.items():
            folder = run_folder(options, name, seed)
            if variant.derive is None:
                jobs.append(_training(options, name, variant, seed, folder))
                continue
            command, source = variant.derive.command, run_folder(options, variant.derive.of, seed)
            if not command.isidentifier() or find_spec(module_of(command)) is None:
                raise ConfigError(f"recipe.variants.{name}.derive.command={command}: there is no command nmt-{command}")
            own = (*variant.overrides, *variant.scales.get(options.scale.name, []))
            given = (f"checkpoint={literal(str(source))}", f"out={literal(str(folder))}", *own)
            jobs.append(Job(name, seed, folder, command, given, source))
    return jobs


def run_folder(options: ReproduceOptions, variant: str, seed: int) -> Path:
    """Where a model lies."""
    runs = Path(options.out) / "runs" if options.runs is None else Path(options.runs)
    return runs / f"{variant}-{options.scale.name}-seed{seed}"


def train_overrides(options: ReproduceOptions, variant: VariantOptions) -> list[str]:
    """What decides a variant's model and training: later ones win over earlier ones."""
    scale = options.scale.name
    layers = [options.scales.get(scale, []), options.recipe.overrides, options.recipe.scales.get(scale, [])]
    layers += [variant.overrides, variant.scales.get(scale, []), options.train_overrides]
    return [text for layer in layers for text in layer]


def _training(options: ReproduceOptions, name: str, variant: VariantOptions, seed: int, folder: Path) -> Job:
    places = [f"corpus={literal(options.corpus)}", f"run={literal(str(folder))}"]
    given = [*places, *train_overrides(options, variant)]
    given += [f"seed={seed}", f"device={options.device.value}"]
    if options.threads is not None:
        given.append(f"threads={options.threads}")
    if options.plugins:
        given.append(f"plugins={literal(options.plugins)}")
    try:
        typed = parse_options(TrainOptions, compose("train", given))
    except ValueError as error:
        raise ConfigError(f"recipe.variants.{name}: {error}") from error
    return Job(name, seed, folder, "train", tuple(given), epochs=typed.train.max_epochs)
