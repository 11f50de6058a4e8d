"""The schema of ``nmt-reproduce`` and of a recipe (``conf/recipe/NAME.yaml``); see docs/reproduction.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from nmt.config import ConfigError, option, suggest
from nmt.device import Device
from nmt.limits import MAX_BEAM, MAX_COUNT, MAX_LENGTH, MAX_LENGTH_PENALTY, MAX_PROCESSES, MAX_SEED, MAX_THREADS


class Scale(Enum):
    """How large and how long."""

    tiny = "tiny"
    small = "small"
    base = "base"


SEEDS: dict[str, list[int]] = {"tiny": [1, 2, 3], "small": [1], "base": [1]}
"""Seeds of the trainings where neither the recipe nor the user names any: a single one is no test."""


class RecipeMetric(Enum):
    """What quality is: ``bleu`` of the translated test set, or ``ppl`` of the validation set."""

    bleu = "bleu"
    ppl = "ppl"


class Measure(Enum):
    """What an expectation is about: a difference of BLEU, or a ratio of anything else."""

    bleu = "bleu"
    ppl = "ppl"
    speed = "speed"
    update_seconds = "update_seconds"
    parameters = "parameters"
    bytes = "bytes"


@dataclass
class DeriveOptions:
    """A variant that a command makes out of another variant's checkpoint."""

    of: str = option(help="the variant that it is made from")
    command: str = option("prune", "nmt-COMMAND, which takes checkpoint= and out=; the variant's overrides are its own")


@dataclass
class VariantOptions:
    """A model of the comparison."""

    what: str = option(help="what is different, in a few words")
    overrides: list[str] = option([], "options of nmt-train, or of the command that derives it")
    scales: dict[str, list[str]] = option({}, "further ones, by scale")
    choices: dict[str, dict[str, list[str]]] = option(
        {}, "by scale: named settings, further options each, of which the validation set chooses one"
    )
    paper: dict[str, float] = option(
        {}, "the paper's figures of this model, by name", minimum=-MAX_COUNT, maximum=MAX_COUNT
    )
    derive: DeriveOptions | None = option(None, "made from another variant instead of trained")


@dataclass
class ExpectationOptions:
    """What should be seen: a variant against another one."""

    metric: Measure = option(help="bleu (difference); ppl, speed, update_seconds, parameters, bytes (ratios)")
    variant: str = option(help="which")
    against: str | None = option(None, "beside which; default: the baseline")
    at_least: float | None = option(None, "smallest difference or ratio", minimum=-MAX_COUNT, maximum=MAX_COUNT)
    at_most: float | None = option(None, "largest difference or ratio", minimum=-MAX_COUNT, maximum=MAX_COUNT)
    beam: int | None = option(
        None, "of bleu and speed; default: the first of the benchmark", minimum=1, maximum=MAX_BEAM
    )
    batch: int | None = option(
        None, "of bleu and speed; default: the first of the benchmark", minimum=1, maximum=MAX_COUNT
    )


@dataclass
class RecipeBenchOptions:
    """How the models are measured, as by ``nmt-bench``."""

    beams: list[int] = option([5], "beams", minimum=1, maximum=MAX_BEAM)
    batches: list[int] = option([1, 32], "sentences translated together", minimum=1, maximum=MAX_COUNT)
    precision: str = option("fp32", "fp32 or bf16")
    length_penalty: float = option(1.0, "of the search", minimum=-MAX_LENGTH_PENALTY, maximum=MAX_LENGTH_PENALTY)
    forced_length: int | None = option(
        None, "speed is measured with exactly this many tokens a line", minimum=1, maximum=MAX_LENGTH
    )
    lines: int | None = option(200, "lines that speed is measured on; null = all", minimum=1, maximum=MAX_COUNT)
    repeats: int = option(3, "timed passes", minimum=1, maximum=MAX_COUNT)


@dataclass
class RecipeOptions:
    """A paper's reproduction."""

    name: str = option(help="name of the file")
    title: str = option(help="title of the report")
    paper: str = option(help="Authors year, arXiv:id")
    claim: str = option(help="what the paper says, in words")
    note: str = option("", "what to know when reading the report")
    metric: RecipeMetric = option(RecipeMetric.bleu, "bleu (translation) or ppl")
    baseline: str = option(help="the variant that the others are compared with")
    min_bleu: float = option(
        10.0, "BLEU that every training of the baseline must reach, or nothing is judged", minimum=0, maximum=100
    )
    max_ppl: float = option(
        0.25,
        "with metric=ppl: its largest perplexity, as a share of that of word frequencies alone",
        above=0,
        maximum=1,
    )
    seeds: list[int] | None = option(
        None, "one training each; default: 1, 2 and 3 at tiny, else 1", minimum=0, maximum=MAX_SEED
    )
    overrides: list[str] = option([], "options of all trainings")
    scales: dict[str, list[str]] = option({}, "further ones, by scale")
    variants: dict[str, VariantOptions] = option({}, "models by name")
    benchmark: RecipeBenchOptions = field(default_factory=RecipeBenchOptions)
    expectations: list[ExpectationOptions] = option([], "what should be seen")

    def __post_init__(self) -> None:
        if self.baseline == "???":
            return  # the schema itself, not yet filled
        for name, variant in self.variants.items():
            if not re.fullmatch(r"\w+", name):
                raise ConfigError(f"recipe.variants.{name}: a name has letters, digits and _ only")
            _check_scales(f"recipe.variants.{name}.scales", variant.scales)
            _check_choices(f"recipe.variants.{name}", variant)
            if variant.derive is not None:
                self._check_name(f"recipe.variants.{name}.derive.of", variant.derive.of)
        _check_scales("recipe.scales", self.scales)
        self._check_name("recipe.baseline", self.baseline)
        self._check_order()
        _check_seeds("recipe.seeds", self.seeds)
        for number, expected in enumerate(self.expectations):
            self._check_expectation(f"recipe.expectations[{number}]", expected)

    def trained(self, name: str) -> str:
        """The variant whose training a model goes back to: itself unless it is derived."""
        while (derive := self.variants[name].derive) is not None:
            name = derive.of
        return name

    def _check_name(self, key: str, name: str) -> None:
        if name not in self.variants:
            valid = ", ".join(self.variants)
            raise ConfigError(f"{key}={name}: no such variant; valid options: {valid}{suggest(name, self.variants)}")

    def _check_order(self) -> None:
        """A derived variant stands below what it is made from, so that there are no circles."""
        seen: set[str] = set()
        for name, variant in self.variants.items():
            if variant.derive is not None and variant.derive.of not in seen:
                raise ConfigError(
                    f"recipe.variants.{name}.derive.of={variant.derive.of}: must stand above {name} in the recipe"
                )
            seen.add(name)

    def _check_expectation(self, key: str, expected: ExpectationOptions) -> None:
        self._check_name(f"{key}.variant", expected.variant)
        expected.against = self.baseline if expected.against is None else expected.against
        self._check_name(f"{key}.against", expected.against)
        if expected.at_least is None and expected.at_most is None:
            raise ConfigError(f"{key}: give at_least or at_most")
        translated = (Measure.bleu, Measure.speed, Measure.bytes)
        if self.metric is RecipeMetric.ppl and expected.metric in translated:
            raise ConfigError(f"{key}.metric={expected.metric.value}: nothing is translated where recipe.metric=ppl")
        for name, values in (("beam", self.benchmark.beams), ("batch", self.benchmark.batches)):
            value = getattr(expected, name)
            if value is not None and value not in values:
                raise ConfigError(f"{key}.{name}={value} is not measured; valid options: {', '.join(map(str, values))}")


def _check_scales(key: str, scales: Mapping[str, Any]) -> None:
    valid = [scale.name for scale in Scale]
    for name in scales:
        if name not in valid:
            raise ConfigError(f"{key}.{name}: no such scale; valid options: {', '.join(valid)}{suggest(name, valid)}")


def _check_choices(key: str, variant: VariantOptions) -> None:
    """Choices are between trainings, and there are at least two."""
    _check_scales(f"{key}.choices", variant.choices)
    if variant.choices and variant.derive is not None:
        raise ConfigError(f"{key}.choices: a derived model is not trained; declare them on {variant.derive.of}")
    for scale, named in variant.choices.items():
        if len(named) < 2:
            raise ConfigError(f"{key}.choices.{scale}: give at least two settings to choose from")
        for name in named:
            if not re.fullmatch(r"\w[\w.]*", name):
                raise ConfigError(f"{key}.choices.{scale}.{name}: a name has letters, digits, _ and . only")


def _check_seeds(key: str, seeds: list[int] | None) -> None:
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
        raise ConfigError(f"{key}={seeds}: give at least one, and different ones")


@dataclass
class ReproduceOptions:
    """The configuration of ``nmt-reproduce``; ``conf/reproduce.yaml`` says what each key means."""

    corpus: str = option()
    split: str = option()
    scale: Scale = option()
    out: str = option()
    runs: str | None = option()
    seeds: list[int] | None = option(minimum=0, maximum=MAX_SEED)
    jobs: int = option(minimum=1, maximum=MAX_PROCESSES)
    train_overrides: list[str] = option()
    plan: bool = option()
    device: Device = option()
    threads: int | None = option(minimum=1, maximum=MAX_THREADS)
    plugins: list[str] = option()
    scales: dict[str, list[str]] = option()
    recipe: RecipeOptions = field(default_factory=RecipeOptions)

    def __post_init__(self) -> None:
        if isinstance(self.scales, dict):
            _check_scales("scales", self.scales)
        if isinstance(self.seeds, list):
            _check_seeds("seeds", self.seeds)

    @property
    def all_seeds(self) -> list[int]:
        """Seeds of the trainings: the user's, the recipe's, or the scale's."""
        return self.seeds or self.recipe.seeds or SEEDS[self.scale.name]

    @property
    def runs_folder(self) -> Path:
        """Where the models lie."""
        return Path(self.out) / "runs" if self.runs is None else Path(self.runs)

    def choices_of(self, variant: str) -> dict[str, list[str]]:
        """Settings of a variant, at this scale, of which the validation set chooses one; often none."""
        return self.recipe.variants[variant].choices.get(self.scale.name, {})
