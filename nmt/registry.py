"""Slots and the components that fill them.

A *slot* is declared once, beside the interface that its components meet (``declare_slot``). A *component* registers
itself for a slot under a name, with a dataclass of typed options (``register``); the frame builds it from a
configuration node (``build``) and never imports it by name. ``discover`` loads the built-in folders, installed
plug-ins (entry-point group ``nmt.plugins``) and modules named by the user.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from importlib.metadata import entry_points
from typing import Any, TypeVar

from nmt.config import ConfigError, options_table, parse_options, suggest

INTERFACES = (
    "nmt.models.interfaces",
    "nmt.models.linear",
    "nmt.tasks.interfaces",
    "nmt.training.interfaces",
    "nmt.training.callbacks",
    "nmt.compression.interfaces",
)
"""Modules that declare the slots."""

BUILT_IN = ("nmt.tasks", "nmt.modules", "nmt.criterions")
"""Packages whose modules register the components that come with the project."""

ENTRY_POINT_GROUP = "nmt.plugins"

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Component:
    """A registered component: its factory, options and where they come from."""

    slot: str
    name: str
    factory: Callable[..., Any]
    options: type
    paper: str

    @property
    def purpose(self) -> str:
        """First line of the component's docstring."""
        return (self.factory.__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True)
class Slot:
    """A place in the frame that a component fills."""

    name: str
    key: str
    interface: type
    components: dict[str, Component] = field(default_factory=dict)
    many: bool = False


@dataclass(frozen=True)
class NoOptions:
    """For components that have none."""


_slots: dict[str, Slot] = {}


def declare_slot(name: str, *, key: str, interface: type, many: bool = False) -> None:
    """Declare a slot, beside its interface.

    Args:
        name: the slot's name, as used by ``register`` and ``build``.
        key: where users find it, for listings (``model.{encoder,decoder}.self_attention``).
        interface: base class of every component of the slot.
        many: the key holds a list of components.
    """
    if name in _slots:
        raise ValueError(f"slot {name!r} is declared twice: by {_slots[name].interface} and by {interface}")
    _slots[name] = Slot(name, key, interface, many=many)


def register(slot: str, name: str, *, options: type = NoOptions, paper: str = "") -> Callable[[T], T]:
    """Class decorator: make a component available as ``name`` in ``slot``.

    Args:
        slot: a declared slot.
        name: what users write after ``name=``.
        options: dataclass of the component's own options, all with defaults.
        paper: where the method comes from: "Authors year, arXiv:id".

    Raises:
        ValueError: the slot is unknown, the name is taken, or the class does not meet the slot's interface.
    """

    def decorator(factory: T) -> T:
        if slot not in _slots:
            raise ValueError(f"unknown slot {slot!r}; declared slots: {', '.join(sorted(_slots))}")
        interface = _slots[slot].interface
        if isinstance(factory, type) and not issubclass(factory, interface):
            raise ValueError(f"{slot} {name!r}: {factory} is not a subclass of {interface}")
        known = _slots[slot].components.get(name)
        if known is not None:
            raise ValueError(
                f"{slot} {name!r} is registered twice: by {known.factory.__module__} and by {factory.__module__}"
            )
        _slots[slot].components[name] = Component(slot, name, factory, options, paper)
        return factory

    return decorator


def find(slot: str, name: object, key: str) -> Component:
    """The component registered as ``name``.

    Raises:
        ConfigError: there is none; lists the valid names and the nearest.
    """
    components = _slots[slot].components
    if not isinstance(name, str) or name not in components:
        raise ConfigError(
            f"{key}.name={name!r} is not a registered {slot}; valid options: "
            f"{', '.join(repr(n) for n in sorted(components))}{suggest(str(name), components)}"
        )
    return components[name]


def build(slot: str, node: Mapping[str, Any], *, key: str, **context: Any) -> Any:
    """Build the component that a configuration node names.

    Args:
        slot: a declared slot.
        node: ``name`` and the component's own options.
        key: full key of the node, for messages.
        context: what the frame gives every component of this slot, passed on by keyword.

    Raises:
        ConfigError: unknown component, or an option of unknown name, wrong type or out of range.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key}={node} must be a group of keys: {key}.name={node}")
    component = find(slot, node.get("name"), key)
    own = {k: v for k, v in node.items() if k != "name"}
    return component.factory(parse_options(component.options, own, key=key), **context)


def changed_options(slot: str, node: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """The options of a configuration node that are not their component's defaults, as the node has them.

    Raises:
        ConfigError: as ``build``.
    """
    component = find(slot, node.get("name"), key)
    own = {k: v for k, v in node.items() if k != "name"}
    given: Any = parse_options(component.options, own, key=key)
    usual: Any = parse_options(component.options, {}, key=key)
    return {name: value for name, value in own.items() if getattr(given, name) != getattr(usual, name)}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of plain values in which every component's node has the options that it leaves to their defaults.

    Args:
        config: of a command or a checkpoint; what is no node of a registered component stays as it is.
    """
    whole = copy.deepcopy(dict(config))
    for slot in _slots.values():
        for key in _alternatives(slot.key):
            node: Any = whole
            for name in key.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            chosen = node.get("name") if isinstance(node, dict) else None
            if isinstance(chosen, str) and chosen in slot.components:
                for name, default in _defaults(slot.components[chosen].options).items():
                    node.setdefault(name, default)
    return whole


def _alternatives(key: str) -> list[str]:
    """The keys that ``a.{b,c}.d`` stands for."""
    start, brace, rest = key.partition("{")
    choices, _, end = rest.partition("}")
    if not brace:
        return [key]
    return [f"{start}{choice}{tail}" for choice in choices.split(",") for tail in _alternatives(end)]


def _defaults(options: type) -> dict[str, Any]:
    """The options of a component that have defaults, as a configuration would have them."""
    values = {}
    for item in fields(options):
        value = item.default if item.default_factory is MISSING else item.default_factory()
        if value is not MISSING and value != "???":
            values[item.name] = value.name if isinstance(value, Enum) else value
    return values


def slots() -> dict[str, Slot]:
    """All declared slots, by name."""
    return dict(sorted(_slots.items()))


def listing(only: str | None = None) -> str:
    """A text of every slot with its components: name, purpose, paper, options with defaults and meaning."""
    lines = []
    for slot in slots().values():
        if only is not None and slot.name != only:
            continue
        how = "=[{name: ...}]" if slot.many else ".name=..."
        lines.append(f"{slot.name}   ({slot.key}{how})")
        for component in sorted(slot.components.values(), key=lambda c: c.name):
            paper = f"   [{component.paper}]" if component.paper else ""
            lines.append(f"  {component.name}: {component.purpose}{paper}")
            for name, default, meaning in options_table(component.options):
                lines.append(f"      {name}={default}: {meaning}")
        lines.append("")
    return "\n".join(lines).rstrip()


def discover(plugins: Iterable[str] = ()) -> None:
    """Load every component: built-in folders, installed plug-ins, then the named modules. Idempotent.

    Raises:
        ConfigError: a name in ``plugins`` is not an importable module.
    """
    for interface in INTERFACES:
        importlib.import_module(interface)
    for package in BUILT_IN:
        root = importlib.import_module(package)
        for module in sorted(m.name for m in pkgutil.walk_packages(root.__path__, prefix=f"{package}.")):
            importlib.import_module(module)
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        entry.load()
    for name in plugins:
        if "/" in name or name.endswith(".py"):
            raise ConfigError(f"plugins: {name!r} is a path; give the name of an importable module (package.module)")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise  # the plug-in exists, but something that it imports does not
            raise ConfigError(f"plugins: no module named {name!r} can be imported") from error
