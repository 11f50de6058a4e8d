"""From a recipe to the commands that make its models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
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
        updates: of a training, likewise.
        choice: which of the variant's choices; None where it has none, and for derived models.
    """

    variant: str
    seed: int
    folder: Path
    command: str
    overrides: tuple[str, ...]
    source: Path | None = None
    epochs: int | None = None
    updates: int | None = None
    choice: str | None = None

    @property
    def words(self) -> list[str]:
        """The command for a process of its own, by this interpreter."""
        return [sys.executable, "-m", module_of(self.command), *self.overrides]

    def __str__(self) -> str:
        return shlex.join([f"nmt-{self.command}", *self.overrides])


def module_of(command: str) -> str:
    """Importable name of a command's module."""
    return f"nmt.commands.{command}{'_' * iskeyword(command)}"


def trials(options: ReproduceOptions) -> list[Job]:
    """The trainings that the validation set chooses from: every choice of every variant, with the first seed.

    Raises:
        ConfigError: see `plan`.
    """
    discover(options.plugins)
    seed = options.all_seeds[0]
    names = [(name, choice) for name in options.recipe.variants for choice in options.choices_of(name)]
    return [_training(options, name, seed, choice) for name, choice in names]


def plan(options: ReproduceOptions, chosen: Mapping[str, str]) -> list[Job]:
    """Every model that is measured, each training's configuration checked.

    Args:
        options: of the command.
        chosen: the choice of each variant that has choices; models of variants that are not in it are left out.

    Raises:
        ConfigError: an option of a training is wrong, or a command does not exist; names the variant.
    """
    discover(options.plugins)
    jobs: list[Job] = []
    for seed in options.all_seeds:
        for name, variant in options.recipe.variants.items():
            origin = options.recipe.trained(name)
            if options.choices_of(origin) and origin not in chosen:
                continue
            if variant.derive is None:
                jobs.append(_training(options, name, seed, chosen.get(name)))
            else:
                jobs.append(_derived(options, name, variant, seed, chosen))
    return jobs


def run_folder(options: ReproduceOptions, variant: str, seed: int, choice: str | None = None) -> Path:
    """Where a model lies."""
    return options.runs_folder / "-".join([variant, *([choice] if choice else []), options.scale.name, f"seed{seed}"])


def train_overrides(options: ReproduceOptions, variant: VariantOptions, choice: str | None = None) -> list[str]:
    """What decides a variant's model and training: later ones win over earlier ones."""
    scale = options.scale.name
    layers = [options.scales.get(scale, []), options.recipe.overrides, options.recipe.scales.get(scale, [])]
    layers += [variant.overrides, variant.scales.get(scale, [])]
    layers += [variant.choices[scale][choice] if choice else [], options.train_overrides]
    return [text for layer in layers for text in layer]


def _derived(
    options: ReproduceOptions, name: str, variant: VariantOptions, seed: int, chosen: Mapping[str, str]
) -> Job:
    assert variant.derive is not None, "only derived variants are made by a command of their own"
    command, of = variant.derive.command, variant.derive.of
    folder, source = run_folder(options, name, seed), run_folder(options, of, seed, chosen.get(of))
    if not command.isidentifier() or find_spec(module_of(command)) is None:
        raise ConfigError(f"recipe.variants.{name}.derive.command={command}: there is no command nmt-{command}")
    own = (*variant.overrides, *variant.scales.get(options.scale.name, []))
    given = (f"checkpoint={literal(str(source))}", f"out={literal(str(folder))}", *own)
    return Job(name, seed, folder, command, given, source)


def _training(options: ReproduceOptions, name: str, seed: int, choice: str | None) -> Job:
    folder = run_folder(options, name, seed, choice)
    given = [f"corpus={literal(options.corpus)}", f"run={literal(str(folder))}"]
    given += train_overrides(options, options.recipe.variants[name], choice)
    given += [f"seed={seed}", f"device={options.device.value}"]
    if options.threads is not None:
        given.append(f"threads={options.threads}")
    if options.plugins:
        given.append(f"plugins={literal(options.plugins)}")
    try:
        typed = parse_options(TrainOptions, compose("train", given))
    except ValueError as error:
        raise ConfigError(f"recipe.variants.{name}: {error}") from error
    epochs, updates = typed.train.max_epochs, typed.train.max_updates
    return Job(name, seed, folder, "train", tuple(given), epochs=epochs, updates=updates, choice=choice)
