"""Slots and components: registration, lookup, building, discovery, and what each refuses."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from nmt import registry
from nmt.config import ConfigError, option
from nmt.registry import NoOptions, build, completed, declare_slot, discover, find, listing, register, slots


class Animal:
    """The interface."""


@dataclass
class CatOptions:
    lives: int = option(9, "how often it lands on its feet", minimum=1)


@pytest.fixture(autouse=True)
def _own_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot with one component, instead of those of the project."""
    monkeypatch.setattr(registry, "_slots", {})
    declare_slot("animal", key="zoo.animal", interface=Animal)

    @register("animal", "cat", options=CatOptions, paper="Schroedinger 1935")
    class Cat(Animal):
        """Purrs.

        And sleeps.
        """

        def __init__(self, options: CatOptions, *, house: str) -> None:
            self.lives, self.house = options.lives, house


def test_build_gives_typed_options_and_the_context() -> None:
    cat = build("animal", {"name": "cat", "lives": "7"}, key="zoo.animal", house="barn")
    assert (cat.lives, cat.house) == (7, "barn")
    assert build("animal", {"name": "cat"}, key="zoo.animal", house="barn").lives == 9


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"name": "cta"},
            "zoo.animal.name='cta' is not a registered animal; valid options: 'cat' (did you mean 'cat'?)",
        ),
        ({"name": "unicorn"}, "zoo.animal.name='unicorn' is not a registered animal; valid options: 'cat'"),
        ({}, "zoo.animal.name=None is not a registered animal; valid options: 'cat'"),
        ({"name": 3}, "zoo.animal.name=3 is not a registered animal; valid options: 'cat'"),
        ("cat", "zoo.animal=cat must be a group of keys: zoo.animal.name=cat"),
        (
            {"name": "cat", "live": 1},
            "unknown key zoo.animal.live; valid keys here: lives (did you mean 'lives'?)",
        ),
        ({"name": "cat", "lives": 0}, "zoo.animal.lives=0 is out of range: it must be at least 1"),
    ],
)
def test_mistakes_name_the_key_and_the_valid_options(node: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("animal", node, key="zoo.animal", house="barn")  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_registering_twice_names_both_modules() -> None:
    class Tiger(Animal):
        """Roars."""

    Tiger.__module__ = "somewhere.tiger"
    with pytest.raises(
        ValueError, match=re.escape(f"animal 'cat' is registered twice: by {__name__} and by somewhere")
    ):
        register("animal", "cat")(Tiger)
    assert find("animal", "cat", "k").options is CatOptions  # the first one stays


def test_unknown_slot_lists_the_declared_ones() -> None:
    with pytest.raises(ValueError, match="unknown slot 'plant'; declared slots: animal"):
        register("plant", "fern")(Animal)


def test_component_must_meet_the_interface() -> None:
    with pytest.raises(ValueError, match=r"animal 'stone': .* is not a subclass of .*Animal"):
        register("animal", "stone")(int)


def test_slot_is_declared_once() -> None:
    with pytest.raises(ValueError, match="slot 'animal' is declared twice"):
        declare_slot("animal", key="zoo.pet", interface=Animal)


def test_listing() -> None:
    @register("animal", "ant")
    class Ant(Animal):
        """Carries."""

    declare_slot("plant", key="zoo.plant", interface=Animal)
    assert listing("animal") == (
        "animal   (zoo.animal.name=...)\n"
        "  ant: Carries.\n"
        "  cat: Purrs.   [Schroedinger 1935]\n"
        "      lives=9: how often it lands on its feet"
    )
    assert listing() == listing("animal") + "\n\nplant   (zoo.plant.name=...)"
    assert find("animal", "ant", "k").options is NoOptions
    declare_slot("herd", key="zoo.herds", interface=Animal, many=True)
    assert listing("herd") == "herd   (zoo.herds=[{name: ...}])"


# --- discovery --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real slots again, in a copy that a test may change."""
    monkeypatch.undo()
    copies = {n: dataclasses.replace(s, components=dict(s.components)) for n, s in registry._slots.items()}
    monkeypatch.setattr(registry, "_slots", copies)


@pytest.mark.usefixtures("_built_in")
def test_discovery_finds_the_slots_of_the_design_and_is_idempotent() -> None:
    discover()
    before = {name: dict(slot.components) for name, slot in slots().items()}
    discover()
    assert {name: dict(slot.components) for name, slot in slots().items()} == before
    model = {
        "embedding",
        "self_attention",
        "cross_attention",
        "feed_forward",
        "norm",
        "linear",
        "layer",
        "stack",
        "output",
    }
    assert model | {"decoder", "task", "criterion", "optimizer", "schedule"} <= before.keys()


PLUGIN = """
from nmt.registry import register
from nmt.models.interfaces import FeedForward

@register("feed_forward", "from_a_plugin")
class Plugin(FeedForward):
    "Registers."
"""


@pytest.mark.usefixtures("_built_in")
def test_plugins_are_modules_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_for_tests.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "needs_another.py").write_text("import not_installed_here", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    discover(["plugin_for_tests"])
    discover(["plugin_for_tests"])
    assert "from_a_plugin" in slots()["feed_forward"].components
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):  # not taken for a missing plug-in
        discover(["needs_another"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/b.py", "plugins: 'a/b.py' is a path; give the name of an importable module"),
        ("plugin.py", "plugins: 'plugin.py' is a path; give the name of an importable module"),
        ("no_such_module", "plugins: no module named 'no_such_module' can be imported"),
        ("no_such_package.part", "plugins: no module named 'no_such_package.part' can be imported"),
    ],
)
def test_wrong_plugins(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        discover([name])
    assert str(caught.value).startswith(message)


def test_import_errors_are_let_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", ("broken_built_in_that_is_missing",))
    with pytest.raises(ModuleNotFoundError, match="broken_built_in_that_is_missing"):
        discover()


def test_importing_the_frame_loads_no_component() -> None:
    code = (
        "import sys, nmt, nmt.registry, nmt.config, nmt.models.encoder_decoder\n"
        "print([m for m in sys.modules if m.startswith(('nmt.modules.', 'nmt.criterions.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_configuration_with_the_defaults_of_its_components() -> None:
    class Fur(Enum):
        short = "s"
        long = "l"

    @dataclass
    class DogOptions:
        fur: Fur = option(Fur.short)
        tricks: list[str] = option(["sit"])
        owner: str = option()

    declare_slot("pet", key="zoo.{left,right}.pet", interface=Animal)
    register("pet", "dog", options=DogOptions)(type("Dog", (Animal,), {}))
    given = {"zoo": {"left": {"pet": {"name": "dog", "fur": "long"}}, "right": {"pet": {"name": "wolf"}}}, "n": 1}
    whole = completed(given)
    assert whole["zoo"]["left"]["pet"] == {"name": "dog", "fur": "long", "tricks": ["sit"]}
    assert whole["zoo"]["right"]["pet"] == {"name": "wolf"}
    assert given["zoo"] == {"left": {"pet": {"name": "dog", "fur": "long"}}, "right": {"pet": {"name": "wolf"}}}
    assert completed({"zoo": {"left": {"pet": {"name": "dog"}}}})["zoo"]["left"]["pet"]["fur"] == "short"
    for odd in ({"zoo": 3}, {"zoo": {"left": [1]}}, {"zoo": {"left": {"pet": {"name": ["dog"]}}}}, {}):
        assert completed(odd) == odd
