"""What all commands share: messages in one line, no litter, help, Hydra's options. Most run in this process."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nmt.commands import app
from nmt.config import ConfigError, compose
from nmt.metrics.scoring import ScoreOptions

ROOT = Path(__file__).parents[3]


def process(cwd: Path, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"nmt.commands.{command}", *arguments],
        capture_output=True, text=True, cwd=cwd, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


GIVEN = ["corpus={digits}", "run=r", "train.max_updates=1", "validate.metric=loss", "validate.translate=false"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", [], "corpus is required: give corpus=VALUE"),
        ("train", ["corpus=nowhere", "run=r", "train.max_updates=1"], "nowhere"),
        ("train", ["train.max_update=3"], "unknown key train.max_update; valid keys here: accumulate, "),
        ("train", ["train.max_updates=many"], "train.max_updates: Value 'many' of type 'str' could not be converted"),
        ("train", ["seed=-1", "corpus=a", "run=b"], "seed=-1 is out of range: it must be at least 0"),
        ("train", ["model=tny"], "model=tny: no such preset; valid options: base, base_6_1, "),
        ("train", ["corpus"], "corpus: not an option; options are given as KEY=VALUE"),
        ("train", ["corpus=a=b", "run=r"], "a=b is not a corpus (no corpus.json in it)"),
        ("train", ["corpus=größe", "run=r"], "größe is not a corpus (no corpus.json in it)"),
        ("train", ["corpus=a,b", "run=r"], "a,b is not a corpus (no corpus.json in it)"),
        ("train", ["corpus=[a,b]", "run=r"], "a is not a corpus (no corpus.json in it)"),
        (
            "train",
            ["optimizer.lr=a=b"],
            "lr=a=b: not a plain value; as a text it needs quotes of its own: 'opt",
        ),
        ("train", ["seed=größe"], """needs quotes of its own: 'seed="größe"'"""),
        ("train", ["seed=it's"], """needs quotes of its own: 'seed="it'\\''s"'"""),
        ("train", ["seed=1,2"], "as a list brackets: seed=[1,2], for a sweep --multirun"),
        ("train", ["--mulitrun"], "--mulitrun: no such option; options are given as KEY=VALUE (did you mean '--multi"),
        ("train", ["optimizer.lr=nan", *GIVEN], "optimizer.lr=nan is out of range: it must be a finite number"),
        ("train", ["corpus={digits}", "run=/proc/x/y", "train.max_updates=1"], "run=/proc/x/y: cannot be written ("),
        ("train", ["corpus={digits}", "run={digits}/corpus.json", "train.max_updates=1"], "json is not a folder"),
        ("train", [*GIVEN, "plugins=[a/b.py]"], "plugins: 'a/b.py' is a path; give the name of an importable module"),
        ("train", [*GIVEN, "model.norm.name=layernorm"], "model.norm.name='layernorm' is not a registered norm; valid"),
        ("train", [*GIVEN, "criterion=mse"], "criterion.name='mse' is not a registered criterion; valid options: "),
        ("train", [*GIVEN, "model.norm.epsilon=1"], "unknown key model.norm.epsilon; valid keys here: eps (did you"),
        (
            "train",
            ["-m", "seed=1,2", "corpus=a", "run=b"],
            "a is not a corpus (no corpus.json in it)",
        ),
        ("train", ["-m", "corpus=1.10,2.0", "run=r"], "1.10 is not a corpus (no corpus.json in it)"),
        ("average", ["checkpoint=nowhere", "out=o"], "checkpoint=nowhere: no such folder; give a run or a checkpoint"),
        ("average", ["checkpoint=[]", "out=o"], "checkpoint=[]: give a run or a list of checkpoint folders"),
        ("prune", ["checkpoint=nowhere", "out=o"], "checkpoint=nowhere: no such folder; give a run or a checkpoint"),
        (
            "prune",
            ["checkpoint=a", "out=o", "method.encoder=odd"],
            "method.encoder=odd is neither a list of layers nor",
        ),
        ("prune", ["checkpoint=a", "out=o", "method.encoders=all"], "unknown key method.encoders; valid keys here: "),
        ("components", ["slot=norms"], "slot=norms: no such slot; valid options: callback, "),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    command: str, arguments: list[str], message: str, cli, digits: Path, tmp_path: Path
) -> None:
    done = cli(command, *(argument.format(digits=digits) for argument in arguments))
    assert done.code == 1
    assert done.err.startswith(f"nmt-{command}: error: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_traceback_on_demand(cli) -> None:
    with pytest.raises(ConfigError, match=r"^unknown key train\.max_update;"):
        cli("train", "train.max_update=3", full_error="1")


def test_process_reports_alike(tmp_path: Path) -> None:
    short = process(tmp_path, "train", "train.max_update=3")
    assert (short.returncode, short.stdout, short.stderr.count("\n")) == (1, "", 1)
    long = process(tmp_path, "train", "train.max_update=3", HYDRA_FULL_ERROR="1")
    assert long.returncode == 1
    assert "Traceback (most recent call last)" in long.stderr
    assert "unknown key train.max_update" in long.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["preprocess", "train", "generate", "score", "average", "components", "prune"])
def test_help_shows_every_key_with_its_meaning(command: str, cli) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: nmt-{command} key=value ...\n")
    assert (ROOT / "conf" / f"{command}.yaml").read_text(encoding="utf-8").rstrip() in done.out
    assert "--multirun" in done.out
    if command == "train":
        assert "# model=NAME, one of: base, base_6_1, base_9_2, big, deep_shallow, fast, iwslt, small, tiny" in done.out


def test_cfg_job_prints_the_configuration(cli, tmp_path: Path) -> None:
    done = cli("train", "corpus=a", "run=b", "model=tiny", "train.max_updates=7", "optimizer=adamw", "--cfg", "job")
    config = OmegaConf.create(done.out)
    assert (config.corpus, config.train.max_updates, config.optimizer.name) == ("a", 7, "adamw")
    assert config.model.encoder.layers == 2
    assert list(tmp_path.iterdir()) == []


def test_own_presets(cli, tmp_path: Path) -> None:
    (tmp_path / "mine" / "criterion").mkdir(parents=True)
    (tmp_path / "mine" / "criterion" / "smooth.yaml").write_text("name: cross_entropy\nlabel_smoothing: 0.3\n")
    done = cli("train", "--config-dir", str(tmp_path / "mine"), "criterion=smooth", "--cfg", "job")
    assert OmegaConf.create(done.out).criterion == {"name": "cross_entropy", "label_smoothing": 0.3}


def test_own_model_preset_states_what_differs(cli, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    preset = "# @package _global_\ndefaults: [small, _self_]\nmodel: {decoder: {layers: 1}}\noptimizer: {lr: 0.5}\n"
    (tmp_path / "mine" / "model" / "shallow.yaml").write_text(preset)
    done = cli("train", "--config-dir", str(tmp_path / "mine"), "model=shallow", "--cfg", "job")
    expected = compose("train", ["model=small", "model.decoder.layers=1", "optimizer.lr=0.5"])
    assert OmegaConf.create(done.out) == expected


def test_shell_completion(cli) -> None:
    done = cli("train", "--shell-completion", "install=bash")
    assert done.code == 0
    assert "complete" in done.out


def test_sweep_over_seeds(cli, digits: Path, tmp_path: Path, read_metrics) -> None:
    small = ["model=tiny", "batch.max_tokens=128", "train.log_every=1"]
    given = [argument.format(digits=digits).replace("run=r", "run=runs/s${seed}") for argument in GIVEN]
    done = cli("train", "--multirun", "seed=1,2", *small, *given)
    assert done.code == 0, done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]
    losses = [read_metrics(tmp_path / "runs" / name)[0]["loss"] for name in ("s1", "s2")]
    assert losses[0] != losses[1]


def test_scratch_folder_is_removed(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    cli("components", "slot=norm")
    cli("components", "slot=norms")
    assert list(scratch.iterdir()) == []


def test_components(cli) -> None:
    done = cli("components", "slot=norm")
    assert done.out.startswith("norm   (model.norm.name=...)\n  layer_norm: Zero mean and unit variance")
    everything = cli("components").out
    assert done.out.strip() in everything
    assert "  cross_entropy: " in everything
    assert "arXiv:1706.03762" in everything


def test_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nmt.commands.components"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 1


def test_quotes_make_any_text_a_value(cli) -> None:
    done = cli("train", """corpus="größe, it's a=b (1)\"""", "run=r", "--cfg", "job")
    assert OmegaConf.create(done.out).corpus == "größe, it's a=b (1)"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_without_a_trace(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """The half-written output goes, and nothing is said."""
    given = [f"checkpoint={ROOT}/tests/golden/checkpoint", "input=-", "output=out", "threads=1"]
    command = [sys.executable, "-m", "nmt.commands.generate", *given]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # background jobs of a shell ignore SIGINT
    ) as started:
        for _ in range(1200):
            if list(tmp_path.iterdir()) or started.poll() is not None:
                break
            time.sleep(0.05)
        started.send_signal(number)
        assert started.stderr is not None
        assert started.stderr.read() == ""
    assert started.returncode == code
    assert list(tmp_path.iterdir()) == []


READS_SPIN_COUNT = """
import ctypes
from importlib.util import find_spec
from pathlib import Path
from nmt.device import share_cores

share_cores()
for library in Path(find_spec("torch").origin).parent.glob("lib/libgomp*"):
    ctypes.CDLL(str(library))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings libgomp on Linux only")
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
    ids=["default", "count", "policy"],
)
def test_waiting_threads_give_up_their_core_soon(given: dict[str, str], spins: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", READS_SPIN_COUNT],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **given},
    )
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {spins}


def test_commands_set_it(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert cli("score", "--help").code == 0
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_no_command_loads_torch_before_it_runs() -> None:
    """Otherwise libgomp would have read the environment already; and ``--help`` would take seconds."""
    names = sorted(p.stem for p in (ROOT / "nmt" / "commands").glob("[a-z]*.py"))
    check = f"import sys, {', '.join(f'nmt.commands.{name}' for name in names)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("given", [None, "", "1"])
def test_the_wish_for_tracebacks_stays_the_users(
    given: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hydra needs the variable while it composes; commands that a command starts must not find it set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nmt-score", "hypothesis=a", "reference=b"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", given or "")
    if given is None:
        monkeypatch.delenv("HYDRA_FULL_ERROR")
    seen = []
    app.run_app("score", ScoreOptions, lambda options, config: seen.append(os.environ.get("HYDRA_FULL_ERROR")))
    assert seen == [given] == [os.environ.get("HYDRA_FULL_ERROR")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "writing: No space left on device"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_an_error_without_a_name_is_one_of_writing_only_where_it_can_be_nothing_else(
    error: OSError, message: str
) -> None:
    assert app._message(error) == message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named(cli, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\n")
    given = [f"checkpoint={ROOT}/tests/golden/checkpoint", f"input={tmp_path}/in", "device=cpu"]
    done = cli("generate", *given, "output=/dev/full")
    assert (done.code, done.err.splitlines()[-1]) == (1, "nmt-generate: error: /dev/full: No space left on device")
    words = [sys.executable, "-m", "nmt.commands.generate", *given, "output=-"]
    environment = {**os.environ, "HYDRA_FULL_ERROR": ""}
    with open("/dev/full", "wb") as full:
        started = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert started.returncode == 1
    assert started.stderr.splitlines()[-1] == "nmt-generate: error: standard output: No space left on device"
