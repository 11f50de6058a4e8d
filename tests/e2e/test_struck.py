"""A kill, a SIGTERM and an error at every rename of a command: the old or the new is there, whole.

Other commands write as these do (``tests/contract`` holds that), so they need no test of their own.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from nmt.leftovers import is_leftover, remove, settle

GOLDEN = Path(__file__).parents[1] / "golden"
RENAMES = ("os.rename", "os.rmdir")
"""Every step that puts something in its place, and every folder that goes after it."""

HOWS = [signal.SIGKILL, signal.SIGTERM, "error"]
STACKS = ("encoder", "decoder")
Tree = dict[str, bytes]


def tree(path: Path) -> Tree:
    """What is at a path; nothing where nothing is."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if is_leftover(p)]


def restore(saved: Path, out: Path) -> None:
    """Put a copy in the place of what is there."""
    remove(out)
    if saved.is_dir():
        shutil.copytree(saved, out)
    elif saved.exists():
        shutil.copy(saved, out)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """``command("average", "out=x")``: a call of what the shell would start."""

    def make(name: str, *arguments: object) -> Callable[[], None]:
        module = import_module(f"nmt.commands.{name}")

        def run() -> None:
            monkeypatch.setattr(sys, "argv", [f"nmt-{name}", *map(str, arguments)])
            module.main()

        return run

    return make


@pytest.fixture
def check(struck: Any, tmp_path: Path) -> Callable[..., None]:
    """``check(work, out, make_old, hows)``: strike ``work`` at every step; ``make_old`` writes what is there before."""

    def run(
        work: Callable[[], object], out: Path, make_old: Callable[[], object], hows: list[Any], saved: Path
    ) -> None:
        make_old()
        before = tree(out)
        if before:
            out.rename(saved)
        restore(saved, out)
        steps = struck(work, "count", 0, RENAMES)
        after = tree(out)
        assert after
        assert after != before
        assert steps >= 1
        for how in hows:
            for step in range(steps):
                restore(saved, out)
                status = struck(work, how, step, RENAMES)
                assert status != 99
                if how == signal.SIGKILL:
                    assert status == -signal.SIGKILL
                    settle(out)  # as the next run does before all else
                assert tree(out) in (before, after), (how, step)
                if tree(out) == before:  # else the old output may have been removed in part
                    assert leftovers(out.parent) == [], (how, step)
                if how == signal.SIGKILL and (before or not tree(out)):  # else it is there, and is not written again
                    assert struck(work, how, steps, RENAMES) == 0
                    assert tree(out) == after, step
                    assert leftovers(out.parent) == []

    return partial(run, saved=tmp_path / "saved")


@pytest.fixture(params=["exchange", "renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder is replaced: in one step, or as on a file system that cannot do that."""
    if request.param == "renames":
        monkeypatch.setattr("nmt.files._exchange", lambda *_: False)
    return str(request.param)


# --- replaced ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [HOWS[0], *(pytest.param(how, marks=pytest.mark.slow) for how in HOWS[1:])])
def test_preprocess(how: Any, swap: str, command: Any, check: Any, tmp_path: Path) -> None:
    for name, size in (("train", 200), ("valid", 20)):
        for language in ("en", "eo"):
            lines = (GOLDEN / f"{name}.{language}").read_text().splitlines(keepends=True)
            (tmp_path / f"{name}.{language}").write_text("".join(lines[:size]))
    out = tmp_path / "out"
    texts = ["source=en", "target=eo", f"train={tmp_path / 'train'}", f"valid={tmp_path / 'valid'}", f"out={out}"]
    old = command("preprocess", *texts, "vocab_size=30")
    check(command("preprocess", *texts, "vocab_size=31", "overwrite=true"), out, old, [how])


def test_generate(command: Any, check: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    (tmp_path / "in.txt").write_text("".join((GOLDEN / "valid.en").read_text().splitlines(keepends=True)[:3]))
    work = command(
        "generate", f"checkpoint={GOLDEN}/checkpoint", f"input={tmp_path}/in.txt", f"output={out}", "device=cpu"
    )
    check(work, out, lambda: out.write_text("old\n"), HOWS)


# --- written once -----------------------------------------------------------------------------------------------------

ONCE = {
    "average": [f"checkpoint=[{GOLDEN}/checkpoint,{GOLDEN}/checkpoint]"],
    "export": [f"checkpoint={GOLDEN}/checkpoint", "to=hf"],
    "prune": [f"checkpoint={GOLDEN}/checkpoint", "method.encoder=[1]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ONCE)
def test_written_once(name: str, command: Any, check: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    check(command(name, *ONCE[name], f"out={out}"), out, lambda: None, HOWS)


@pytest.mark.slow
def test_import(command: Any, check: Any, train: Any, tmp_path: Path) -> None:
    train(f"run={tmp_path}/run", "train.max_updates=1", *(f"model.{s}.layer.norm_position=post" for s in STACKS))
    command("export", f"checkpoint={tmp_path}/run", "to=hf", f"out={tmp_path}/hf")()
    out = tmp_path / "out"
    check(command("import_", "format=hf", f"path={tmp_path}/hf", f"out={out}"), out, lambda: None, HOWS)
