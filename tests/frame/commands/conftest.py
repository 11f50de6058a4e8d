"""A command in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from keyword import iskeyword
from pathlib import Path
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    code: object
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """``cli("train", "run=x")``: the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str, full_error: str = "") -> Done:
        monkeypatch.setenv("HYDRA_FULL_ERROR", full_error)
        monkeypatch.setattr(sys, "argv", [f"nmt-{command}", *arguments])
        code: object = 0
        try:
            importlib.import_module(f"nmt.commands.{command}{'_' * iskeyword(command)}").main()
        except SystemExit as stop:
            code = stop.code
        finally:
            assert Path.cwd() == tmp_path
        return Done(code, *capsys.readouterr())

    return run
