"""The built wheel: complete, and it works where no checkout is near."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = {"nmt": "nmt", "modules": "nmt/modules", "criterions": "nmt/criterions", "conf": "nmt/conf"}

CHECK = """
import nmt, nmt.modules, nmt.criterions
from nmt.registry import discover, slots
discover()
print(nmt.__file__, nmt.modules.__file__, nmt.criterions.__file__, sep="\\n")
print(sum(len(slot.components) for slot in slots().values()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over from other builds gets in."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in MAPPED:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("nmt-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    flags = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(command: list[str], installed: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_source_and_configuration(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{target}/{path.relative_to(ROOT / folder)}"
        for folder, target in MAPPED.items()
        for pattern in ("*.py", "*.yaml", "py.typed")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert expected - inside == set()


def test_wheel_puts_nothing_generic_at_the_top(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not re.fullmatch(r"nmt-[\d.]+\.dist-info", top)} == {"nmt"}


def test_wheel_is_discovered_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    *files, count = run([sys.executable, "-c", CHECK], installed, tmp_path).split()
    assert all(file.startswith(str(installed)) for file in files), files
    assert int(count) > 10


def test_console_scripts_start(installed: Path, tmp_path: Path) -> None:
    scripts = sorted(path.name for path in (installed / "bin").glob("nmt-*"))
    assert "nmt-train" in scripts
    listing = run([sys.executable, str(installed / "bin/nmt-components")], installed, tmp_path)
    assert "multihead" in listing
    assert "dense" in listing
    for script in scripts:
        assert "Usage: " + script in run(
            [sys.executable, str(installed / "bin" / script), "--help"], installed, tmp_path
        )
    assert list(tmp_path.iterdir()) == [], "a command littered its working directory"
