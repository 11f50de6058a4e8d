"""What all tests share: discovered components, one thread, small models, a corpus of digits, and training on it."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from nmt import registry
from nmt.checkpoints.checkpoint import load_model, model_files
from nmt.config import (
    ConfigError,
    DataError,
    command_groups,
    command_schema,
    compose,
    parse_options,
    reset_switched,
    to_hydra,
)
from nmt.data.prepare import PreprocessOptions, prepare_corpus
from nmt.models.encoder_decoder import EncoderDecoder, build_model
from nmt.models.tensors import model_tensors
from nmt.registry import discover, slots
from nmt.training.options import TrainOptions
from nmt.training.trainer import Trainer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start
torch.set_num_threads(1)
discover()

# The same examples every time, so that a failure is a change's doing; `make fuzz` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# What a stranger may write where a file has something else.
EXTREMES = [2**63, -(2**63), 10**30, 10**9, 1, 0, -1, 1e308, float("inf"), float("nan"), True, None]
EXTREMES += [
    "",
    "..",
    "/",
    "a/../../b",
    "\0",
    "\ud800",
    "${oc.env:HOME}",
    "???",
    "x" * 5000,
    [],
    {},
    [[1]],
    {"name": "os"},
]
ODD_VALUES = st.sampled_from(EXTREMES).map(copy.deepcopy) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)

Corpora: TypeAlias = Callable[..., Path]
Train: TypeAlias = Callable[..., Trainer]
Models: TypeAlias = Callable[..., EncoderDecoder]

SMALL_MODEL = [
    "model=tiny",
    *(
        f"model.{side}.{key}"
        for side in ("encoder", "decoder")
        for key in ("embed_dim=16", "ffn_dim=24", "num_heads=2")
    ),
    "model.embedding.max_positions=64",
]
SHORT_TRAINING = [
    *SMALL_MODEL,
    "batch.max_length=32",
    "batch.max_tokens=128",
    "train.log_every=1",
    "validate.metric=loss",
    "validate.translate=false",
    "optimizer.lr=1e-3",
    "schedule.warmup_updates=4",
    "train.ema=0",
    "device=cpu",
]


_groups = cache(command_groups)


@cache
def _presets(command: str, chosen: tuple[str, ...]) -> DictConfig:
    return compose(command, chosen)


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """What ``compose`` returns, many times as fast: the files of a choice of presets are read once."""
    if any(text.startswith("~") for text in overrides):  # what goes must go in its turn
        return compose(command, overrides)
    groups = _groups(command)
    rewritten = [to_hydra(text, command_schema(command), groups=groups) for text in overrides]
    values = [text for text in rewritten if text.startswith("++")]
    config = copy.deepcopy(_presets(command, tuple(text for text in rewritten if text not in values)))
    for given in OverridesParser.create().parse_overrides(values):
        OmegaConf.update(config, given.key_or_group, given.value(), merge=True, force_add=True)
    return reset_switched(config, rewritten)


@pytest.fixture(scope="session", name="composed")
def _composed() -> Callable[..., DictConfig]:
    """``composed("train", [*overrides])``: as ``nmt.config.compose``, only faster."""
    return composed


@cache
def model_node(overrides: tuple[str, ...]) -> Any:
    """The node ``model`` of a small model; composing takes longer than building."""
    return composed("train", [*SMALL_MODEL, *overrides]).model


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_model() -> Models:
    """``make_model(*overrides, dtype=, joint=)``: a model 16 wide with 2 + 2 layers over 25 words."""

    def make(*overrides: str, dtype: torch.dtype = torch.float32, joint: bool = True) -> EncoderDecoder:
        torch.manual_seed(1)
        return build_model(model_node(overrides), source_size=25, target_size=25, joint=joint).to(dtype)

    return make


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    """``make_corpus(train=200, target=sorted, ...)``: rows of digits and what becomes of them, prepared."""

    def make(
        train: int = 200,
        *,
        target: Callable[[Sequence[str]], Sequence[str]] = list,
        length: tuple[int, int] = (2, 8),
        seed: int = 1,
        **options: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp("digits")
        rng = random.Random(seed)
        for name, size in {"train": train, "valid": 20, "test": 40}.items():
            rows = [rng.choices("0123456789", k=rng.randint(*length)) for _ in range(size)]
            for language, lines in (("in", rows), ("out", [target(row) for row in rows])):
                text = "".join(" ".join(line) + "\n" for line in lines)
                (folder / f"{name}.{language}").write_text(text, encoding="utf-8")
        texts = {name: str(folder / name) for name in ("train", "valid", "test")}
        values = {"source": "in", "target": "out", "vocab_size": 25, "out": str(folder / "corpus"), **texts, **options}
        given = composed("preprocess", [f"{key}={value}" for key, value in values.items()])
        prepare_corpus(parse_options(PreprocessOptions, given))
        return folder / "corpus"

    return make


@pytest.fixture(scope="session")
def digits(make_corpus: Corpora) -> Path:
    """A corpus of 200 rows of digits to copy; read only."""
    return make_corpus()


@pytest.fixture(scope="session")
def make_trainer(digits: Path) -> Train:
    """``make_trainer(*overrides)``: a trainer of a small model on the digits."""

    def make(*overrides: str) -> Trainer:
        config = composed("train", [*SHORT_TRAINING, f"corpus={digits}", *overrides])
        return Trainer(parse_options(TrainOptions, config), config)

    return make


@pytest.fixture(scope="session")
def train(make_trainer: Train) -> Train:
    """``train(*overrides)``: the same, trained to its end."""

    def run(*overrides: str) -> Trainer:
        trainer = make_trainer(*overrides)
        trainer.fit()
        return trainer

    return run


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``plugin("hinted")``: a module of ``tests/helpers`` whose components are there for the length of a test."""

    def load(name: str) -> ModuleType:
        discover()
        copies = {n: dataclasses.replace(s, components=dict(s.components)) for n, s in slots().items()}
        monkeypatch.setattr(registry, "_slots", copies)
        monkeypatch.delitem(sys.modules, name, raising=False)
        discover([name])
        return sys.modules[name]

    return load


@pytest.fixture
def torchrun(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``torchrun("-m", "nmt.commands.train", "run=x")``: two processes in an empty folder, ended after four minutes."""

    def start(*program: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *program]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            launcher, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240, env=environment
        )

    return start


CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "open")
"""Audit events of what changes the file system; of ``open`` only those count that open a file for writing."""


@pytest.fixture(scope="session")
def struck() -> Callable[..., int]:
    """``struck(work, how, step, events=CHANGES)``: do it in a process that is struck before its step-th change.

    ``how`` is SIGKILL, SIGTERM (which the work may handle), "error" (the change fails) or "count". Returns the exit
    status: 0 where the work was done, minus the signal's number, 77 after an error; or the number of changes.
    """

    def strike(work: Callable[[], object], how: object, step: int, events: Sequence[str] = CHANGES) -> int:
        if child := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = step

        def watch(event: str, arguments: Any) -> None:
            nonlocal left
            writes = isinstance(arguments[-1], int) and arguments[-1] & (os.O_WRONLY | os.O_RDWR)
            if event not in events or (event == "open" and not writes):
                return
            left -= 1
            if left != -1 or how == "count":
                return
            if how == "error":
                raise OSError(errno.EIO, "Input/output error")
            os.kill(os.getpid(), how)

        sys.addaudithook(watch)
        try:
            work()
            os._exit(step - left if how == "count" else 0)
        except SystemExit as error:
            os._exit(error.code if isinstance(error.code, int) else 1)
        except OSError:
            os._exit(77)
        except BaseException:
            traceback.print_exc()
            os._exit(99)

    return strike


@pytest.fixture(scope="session")
def read_metrics() -> Callable[..., list[dict[str, Any]]]:
    """``read_metrics(run, event="train")``: lines of a run's ``metrics.jsonl``."""

    def read(run: Path, event: str = "train") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["event"] == event]

    return read


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of dicts and lists."""
    found, todo = [], [value]
    while todo:
        item = todo.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else []
        found += [(item, key) for key in keys]
        todo += [item[key] for key in keys]
    return found


@pytest.fixture(scope="session")
def spoilt_value() -> Callable[[st.DataObject, Any], Any]:
    """``spoilt_value(data, value)``: a copy of plain values in which some were replaced, removed or added."""

    def spoil(data: st.DataObject, value: Any) -> Any:
        value = copy.deepcopy(value)
        for _ in range(data.draw(st.integers(1, 2))):
            places = _places(value)
            if not places:
                break
            container, key = data.draw(st.sampled_from(range(len(places))).map(places.__getitem__))
            what = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if what == "replace":
                container[key] = data.draw(ODD_VALUES)
            elif what == "remove":
                del container[key]
            elif isinstance(container, dict):
                container[data.draw(st.text() | st.sampled_from(["..", "name", "plugins"]))] = data.draw(ODD_VALUES)
            else:
                container.append(data.draw(ODD_VALUES))
        return value

    return spoil


@pytest.fixture(scope="session")
def spoilt_bytes() -> Callable[[st.DataObject, bytes], bytes]:
    """``spoilt_bytes(data, content)``: bytes changed, cut, doubled or put in."""

    def spoil(data: st.DataObject, content: bytes) -> bytes:
        found = bytearray(content)
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(found)))
            end = data.draw(st.integers(start, min(len(found), start + 40)))
            what = data.draw(st.sampled_from(["change", "cut", "double", "end"]))
            if what == "change":
                found[start:end] = data.draw(st.binary(min_size=end - start, max_size=end - start))
            elif what == "cut":
                del found[start:end]
            elif what == "double":
                found[start:start] = found[start:end]
            else:
                del found[start:]
        return bytes(found)

    return spoil


@pytest.fixture(scope="session")
def only_refused() -> Callable[[Callable[[], object]], None]:
    """``only_refused(call)``: the call succeeds, or is refused in one line; any other error is let through."""

    def check(call: Callable[[], object]) -> None:
        try:
            call()
        except (ConfigError, DataError) as error:
            text = str(error)
            assert "\n" not in text
            assert len(text) < 3000

    return check


@pytest.fixture(scope="session")
def copy_checkpoint() -> Callable[..., Path]:
    """``copy_checkpoint(checkpoint, out, nan=, **search)``: the same model with search defaults, or without numbers."""

    def copy_to(checkpoint: Path, out: Path, *, nan: bool = False, **search: Any) -> Path:
        loaded = load_model(checkpoint)
        tensors = model_tensors(loaded.model)
        if nan:
            tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}
        config = OmegaConf.merge(loaded.config, {"search": search} if search else {})
        assert isinstance(config, DictConfig)
        model_files(tensors, config, loaded.vocabularies).write(out)
        return out

    return copy_to


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real text; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("NMT_SHARED", default)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set NMT_SHARED)")
    return folder
