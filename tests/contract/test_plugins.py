"""A third-party package adds a component without touching the frame: by entry point, or named in ``plugins=``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "plugin"

BUILD = """
import torch
from nmt.models.interfaces import ForwardPass, LayerContext
from nmt.models.linear import LinearMaker
from nmt.registry import build, discover

discover({plugins})
discover({plugins})  # a second call registers nothing twice
context = LayerContext(
    key="model.encoder", embed_dim=2, ffn_dim=3, num_heads=1, memory_dim=None, dropout=0.0, attention_dropout=0.0,
    activation_dropout=0.0, causal=False, layer=0, num_layers=1, make_norm=torch.nn.LayerNorm,
    make_linear=LinearMaker({{"name": "dense"}}),
)
node = {{"name": "squared_relu", "bias": False}}
part = build("feed_forward", node, key="model.encoder.feed_forward", context=context)
with torch.no_grad():
    part.inner.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    part.outer.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    print(type(part).__module__, part(torch.tensor([[[2.0, 3.0]]]), ForwardPass()).tolist())
"""
EXPECTED = "nmt_squared_relu.feed_forward [[[13.0, 4.0]]]\n"  # 2^2 + 3^2 + 0, and 2^2


def run(arguments: list[str], path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in as it is before it is installed: no metadata, so no entry point."""
    copy = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(PLUGIN, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in installed by pip into a folder of its own."""
    target, work = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("work")
    shutil.copytree(source, work / "source")
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(work / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_installed_plugin_is_discovered(installed: Path, tmp_path: Path) -> None:
    done = run(["-c", BUILD.format(plugins="")], installed, tmp_path)
    assert (done.stdout, done.returncode) == (EXPECTED, 0), done.stderr


def test_installed_plugin_is_listed(installed: Path, tmp_path: Path) -> None:
    done = run(["-c", "from nmt.commands.components import main; main()"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "squared_relu" in done.stdout
    assert "arXiv:2109.08668" in done.stdout


def test_module_named_in_plugins_is_loaded(source: Path, tmp_path: Path) -> None:
    done = run(["-c", BUILD.format(plugins="['nmt_squared_relu.feed_forward']")], source, tmp_path)
    assert (done.stdout, done.returncode) == (EXPECTED, 0), done.stderr


def test_plugin_is_unknown_unless_named(source: Path, tmp_path: Path) -> None:
    done = run(["-c", BUILD.format(plugins="")], source, tmp_path)
    assert done.returncode != 0
    assert "model.encoder.feed_forward.name='squared_relu' is not a registered feed_forward" in done.stderr


def test_command_takes_plugins(source: Path, tmp_path: Path) -> None:
    code = "from nmt.commands.components import main; main()"
    done = run(["-c", code, "plugins=[nmt_squared_relu.feed_forward]"], source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "squared_relu" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module", "no module named 'no_such_module' can be imported"),
        ("some/path.py", "'some/path.py' is a path; give the name of an importable module"),
    ],
)
def test_wrong_plugins_are_one_line(name: str, message: str, tmp_path: Path) -> None:
    code = "from nmt.commands.components import main; main()"
    done = run(["-c", code, f"plugins=[{name}]"], tmp_path, tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
