"""A registry-based research toolkit for small and fast neural machine translation.

import nmt

model = nmt.load("runs/small")
model.translate(["A man sleeps ."], beam=5)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nmt.generation.translator import Translator

__version__ = version("nmt")
"""Of the installed package, as setup.py states it."""


def load(path: str | Path | Sequence[str | Path], device: str = "cpu", plugins: Iterable[str] = ()) -> Translator:
    """Load a trained model for translating and scoring.

    Args:
        path: a run, a checkpoint folder, or a list of these (an ensemble).
        device: ``auto``, ``cpu`` or ``cuda``.
        plugins: names of modules with components that the model needs.

    Raises:
        nmt.config.ConfigError: no checkpoint there, or an option is wrong.
        nmt.config.DataError: a file is missing, truncated or foreign.
    """
    from nmt.generation.translator import Translator

    return Translator.load(path, device=device, plugins=plugins)
