"""Checkpoints from anyone: whatever is in the files, they load or are refused in one line, without taking memory."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nmt.checkpoints.average import average_checkpoints
from nmt.checkpoints.checkpoint import load_model, read_tensors, resolve_checkpoint, tensor_shapes
from nmt.checkpoints.checksums import SUMS_FILE, read_sums, write_sums
from nmt.config import ConfigError, DataError
from nmt.models.tensors import model_tensors
from nmt.training.run.logger import RunLogger
from nmt.training.run.manifest import Continued, Origin, Start, append_entry

FEW = settings(
    max_examples=settings.default.max_examples // 5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SOME = settings(
    max_examples=settings.default.max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def change(checkpoint: Path, key: str, value: object) -> None:
    """Set a key of config.yaml, whatever the value is."""
    path = checkpoint / "config.yaml"
    config = node = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    for name in parents:
        node = node[name]
    if isinstance(value, dict) and "both sides" in value:
        node["model"]["encoder"]["embed_dim"] = node["model"]["decoder"]["embed_dim"] = value["both sides"]
    else:
        node[last] = value
    path.write_text(yaml.safe_dump(config))
    reseal(checkpoint)


def reseal(checkpoint: Path) -> None:
    """Make the digests anew: whoever writes the files writes them too."""
    write_sums(checkpoint / SUMS_FILE)


CONFIGS: list[tuple[str, object, str]] = [
    ("model", {"both sides": 2**17}, "the model needs"),
    ("model", {"both sides": 10**7}, "is out of range: it must be at most 131072"),
    ("model", {"both sides": 10**30}, "is out of range"),
    ("model.encoder.ffn_dim", 2**17, "the model needs"),
    ("model.encoder.ffn_dim", 2**62, "is out of range: it must be at most 131072"),
    ("model.encoder.layers", 1024, "a model with more than the"),
    ("model.decoder.layers", 10**9, "is out of range: it must be at most 1024"),
    ("model.embedding.max_positions", 10**10, "is out of range: it must be at most 100000"),
    ("model.encoder.num_heads", 1024, "does not divide"),
    ("model.dropout", float("nan"), "must be a finite number"),
    ("model.encoder", [], "model.encoder"),
    ("model.decoder", 3, "model.decoder"),
    ("model.decoder", None, "model.decoder"),
    ("model.encoder.self_attention", "os", "must be a group of keys"),
    ("model.encoder.self_attention.name", "os.system", "is not a registered self_attention"),
    ("model.encoder.self_attention._target_", "os.system", "unknown key"),
    ("model.norm.name", "nmt.modules.norm.rms_norm", "is not a registered norm"),
    ("task.name", ["translation"], "is not a registered task"),
    ("task", "translation", "not a fitting task"),
    ("plugins", "os", "plugins is not a list of names"),
    ("plugins", [["os"]], "plugins is not a list of names"),
    ("checkpoint.source_language", {"a": 1}, "not a fitting checkpoint.source_language"),
    ("checkpoint.target_language", "${oc.env:HOME}", "it has an interpolation"),
    ("model.dropout", "${oc.decode:0.1}", "it has an interpolation"),
    ("model.dropout", "???", "model.dropout"),
    ("checkpoint", [], "no key checkpoint.format"),
    ("checkpoint", "???", "no key checkpoint.format"),
    ("checkpoint.vocabulary", "???", "no key checkpoint.vocabulary"),
    ("checkpoint.format", [1], "checkpoint format [1]; this version reads format 1"),
]


@pytest.mark.parametrize(("key", "value", "message"), CONFIGS)
def test_configurations_that_are_refused(key: str, value: object, message: str, checkpoint: Path) -> None:
    change(checkpoint, key, value)
    with pytest.raises((ConfigError, DataError)) as caught:
        load_model(checkpoint)
    text = str(caught.value)
    assert message in text
    assert "config.yaml" in text or "model.safetensors" in text
    assert "\n" not in text
    assert os.environ["HOME"] not in text.replace(str(checkpoint), "")


def test_tables_beside_the_file_are_bounded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmt.checkpoints.checkpoint.MAX_TABLES", 1000)
    with pytest.raises(DataError, match=r"its model has tables of \d+ numbers beside the file; 1000 at most"):
        load_model(checkpoint)


def test_a_plugin_of_a_checkpoint_is_not_imported(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    change(checkpoint, "plugins", ["payload", "payload.x", "os"])
    sys.path.insert(0, str(tmp_path))
    try:
        load_model(checkpoint)
    finally:
        sys.path.remove(str(tmp_path))
    assert "payload" not in sys.modules
    assert not (tmp_path / "executed").exists()


def test_a_huge_model_takes_no_memory(checkpoint: Path) -> None:
    """In a process that may take 1 GiB more than it has: widths of 2^17 alone would take 100 GiB and more."""
    code = (
        "import resource, sys\n"
        "from nmt.checkpoints.checkpoint import load_model\n"
        "from nmt.config import ConfigError, DataError\n"
        "from nmt.registry import discover\n"
        "discover()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), -1))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load_model(path)\n"
        "    except (ConfigError, DataError) as error:\n"
        "        assert 'DefaultCPUAllocator' not in str(error), error\n"
        "    else:\n"
        "        raise SystemExit(path)\n"
    )
    values: dict[str, object] = {".encoder.ffn_dim": 10**10, "": {"both sides": 2**17}}
    values |= {".embedding.max_positions": 10**9, ".encoder.layers": 1024}
    folders = []
    for number, (key, value) in enumerate(values.items()):
        folder = Path(shutil.copytree(checkpoint, checkpoint.with_name(f"copy{number}")))
        change(folder, f"model{key}", value)
        folders.append(str(folder))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, *folders], check=True, env=environment, timeout=120)


@FEW
@given(data=st.data())
def test_any_configuration_loads_or_is_refused(
    data: st.DataObject, run: Path, tmp_path: Path, spoilt_value: Any, only_refused: Any
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(run / "checkpoints" / "last", folder, dirs_exist_ok=True)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    parts = {key: config[key] for key in ("task", "model", "checkpoint", "plugins")}  # the rest is not looked at
    text = yaml.safe_dump({**config, **spoilt_value(data, parts)}, allow_unicode=True)
    (folder / "config.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    reseal(folder)
    only_refused(lambda: load_model(folder))


# --- tensors ----------------------------------------------------------------------------------------------------------


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path: Path, header: bytes, body: bytes, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (None, b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}'),
        (
            None,
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        ),
        (None, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}'),
        (None, b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'),
        (None, b'{"a":' * 10_000),
        (None, b"[" * 1_000_000),
        (None, b"{}"),
        (2**63, b"{}"),
        (2**64 - 1, b"{}"),
        (0, b""),
    ],
)
def test_headers_that_are_refused(length: int | None, header: bytes, tmp_path: Path) -> None:
    path = with_header(tmp_path / "x.safetensors", header, b"\0" * 4, length)
    for read in (tensor_shapes, read_tensors):
        with pytest.raises(DataError, match=r"x\.safetensors: truncated or not a safetensors file"):
            read(path)


def test_a_header_that_is_longer_than_any_model_needs_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 99_000_000))
        file.truncate(100_000_000)
    with pytest.raises(DataError, match=r"truncated or not a safetensors file \(a header of 99000000 bytes\)"):
        tensor_shapes(path)


def test_shapes_without_values(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    assert tensor_shapes(path) == {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind(dtype: torch.dtype, checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.norm.weight"] = torch.zeros(16, dtype=dtype)
    save_file(tensors, path)
    reseal(checkpoint)
    with pytest.raises(DataError, match=f"encoder.norm.weight holds {dtype}, the model needs torch.float32"):
        load_model(checkpoint)


@SOME
@given(data=st.data())
def test_any_safetensors_header_is_read_or_refused(
    data: st.DataObject, run: Path, tmp_path: Path, spoilt_value: Any, spoilt_bytes: Any, only_refused: Any
) -> None:
    header, body = header_of(run / "checkpoints" / "last" / "model.safetensors")
    few = dict(list(header.items())[:4])
    text = json.dumps(spoilt_value(data, few), ensure_ascii=False).encode("utf-8", "surrogatepass")
    path = with_header(tmp_path / "x.safetensors", text, body[: data.draw(st.sampled_from([0, 64, 4096, len(body)]))])
    only_refused(lambda: read_tensors(path))
    path.write_bytes(spoilt_bytes(data, path.read_bytes()[:600]))
    only_refused(lambda: read_tensors(path))


def test_weights_that_are_no_numbers_end_a_translation(checkpoint: Path) -> None:
    import nmt

    path = checkpoint / "model.safetensors"
    for value in (float("nan"), float("inf"), 1e38):
        save_file({name: torch.full_like(tensor, value) for name, tensor in load_file(path).items()}, path)
        reseal(checkpoint)
        with pytest.raises(DataError, match="checkpoint gives log-probabilities that are not numbers"):
            nmt.load(checkpoint).translate(["1 2 3", ""], beam=3)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_links_of_a_run_stay_in_it(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    shutil.move(copy / "checkpoints" / "best", tmp_path / "old")
    (copy / "checkpoints" / "best").symlink_to(run / "checkpoints" / "last")
    with pytest.raises(DataError, match=f"best: a link that leads out of {copy}"):
        resolve_checkpoint(copy)
    with pytest.raises(DataError, match=f"best: a link that leads out of {copy}"):
        average_checkpoints([str(copy)], 1, str(tmp_path / "out"))
    shutil.move(copy / "checkpoints", tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "best").unlink()
    (tmp_path / "elsewhere" / "best").symlink_to("last")
    (copy / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"best: a link that leads out of {copy}"):
        resolve_checkpoint(copy)


@pytest.mark.parametrize(
    "name", ["config.yaml", "manifest.json", "metrics.jsonl", "tensorboard", "checkpoints", ".lock", "checkpoints/last"]
)
def test_training_writes_nothing_where_links_of_a_run_lead(
    name: str, train: Callable[..., Any], run: Path, tmp_path: Path
) -> None:
    """A run from anyone could else have files emptied or removed that are none of its own."""
    copy = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    outside = tmp_path / "outside"
    if (copy / name).exists():
        shutil.move(copy / name, outside)
    else:
        outside.write_text("precious")
    (copy / name).symlink_to(outside)
    before = {str(p): p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()}
    with pytest.raises(DataError, match=f"{name}: a link that leads out of {copy}"):
        train(f"run={copy}", "train.max_updates=20")
    assert {str(p): p.read_bytes() for p in [outside, *outside.rglob("*")] if p.is_file()} == before


def test_a_run_with_a_hostile_configuration_does_not_go_on(
    train: Callable[..., Any], run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    (copy / "config.yaml").write_text("a: !!python/object/apply:os.system ['touch executed']")
    with pytest.raises(DataError, match=r"config\.yaml: not a configuration \(it has a tag"):
        train(f"run={copy}", "train.max_updates=12")


def test_metrics_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "outside")
    RunLogger(tmp_path / "run", 0, 0).close()
    assert not (tmp_path / "outside").exists()


@SOME
@given(data=st.data())
def test_any_metrics_are_read(data: st.DataObject, tmp_path: Path, spoilt_value: Any, spoilt_bytes: Any) -> None:
    lines = [{"event": "train", "update": number, "loss": 1.5} for number in range(3)]
    text = "\n".join(json.dumps(line) for line in spoilt_value(data, lines)).encode()
    (tmp_path / "metrics.jsonl").write_bytes(spoilt_bytes(data, text))
    lines_before = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    log = RunLogger(tmp_path, 1, 2)
    log.close()
    kept = lines_before[:-1][:2]  # as they are, nothing reads them
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(line + b"\n" for line in kept)
    assert log.lines == len(kept)


@SOME
@given(data=st.data())
def test_any_manifest_is_read_or_refused(
    data: st.DataObject, tmp_path: Path, spoilt_value: Any, only_refused: Any
) -> None:
    start = Start([Origin("a", "b")], Origin("c", "d"))
    facts = {**asdict(start), "update": 0}
    entries = spoilt_value(data, [{"time": "x", **facts}, {**facts, "init_from": None}])
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    only_refused(lambda: append_entry(tmp_path, start))
    only_refused(lambda: Continued(tmp_path).check(start))
    only_refused(lambda: Continued(tmp_path).first_weights("x", str.upper))


# --- the state of a training ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner(make_trainer: Callable[..., Any], run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("learner") / "run"
    return make_trainer(f"run={folder}", "train.max_updates=12", "validate.every=3", "checkpoints.every=3").learner


def everything(learner: Any) -> dict[str, Any]:
    """What `restore` changes, as it is now."""
    tensors = {name: tensor.clone() for name, tensor in model_tensors(learner.model).items()}
    average = [tensor.clone() for tensor in learner.average.average]
    state = copy.deepcopy((learner.optimizer.state_dict(), learner.scaler.state_dict(), asdict(learner.progress)))
    return {"tensors": tensors, "average": average, "state": state, "random": torch.get_rng_state()}


@FEW
@given(data=st.data())
def test_any_state_goes_on_or_is_refused(
    data: st.DataObject, run: Path, tmp_path: Path, spoilt_value: Any, only_refused: Any, learner: Any
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(run / "checkpoints" / "last", folder, dirs_exist_ok=True)
    path = folder / "training.json"
    path.write_text(json.dumps(spoilt_value(data, json.loads(path.read_text()))))
    only_refused(lambda: learner.restore(folder))
    reseal(folder)
    only_refused(lambda: learner.restore(folder))


@pytest.mark.parametrize(
    "line",
    [
        *(f"{'0' * 64}  {name}" for name in ("../last/model.safetensors", "/etc/passwd", "..", ".", "", "a\0b")),
        f"{'0' * 63}  model.safetensors",
        f"{'F' * 64}  model.safetensors",
        "\x1b[2J",
        "",
    ],
)
def test_digests_name_files_of_their_folder_only(line: str, checkpoint: Path) -> None:
    path = checkpoint / "SHA256SUMS"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match=r"SHA256SUMS, line 6: not a digest and a file name, but") as caught:
        load_model(checkpoint)
    assert str(caught.value).isprintable()


@SOME
@given(data=st.data())
def test_any_digests_are_read_or_refused(
    data: st.DataObject, run: Path, tmp_path: Path, spoilt_bytes: Any, only_refused: Any
) -> None:
    text = (run / "checkpoints" / "last" / SUMS_FILE).read_bytes()
    (tmp_path / SUMS_FILE).write_bytes(spoilt_bytes(data, text))
    only_refused(lambda: read_sums(tmp_path))


def test_a_pipe_beside_a_checkpoint_is_not_waited_for(checkpoint: Path, learner: Any) -> None:
    (checkpoint / "model.safetensors").unlink()
    os.mkfifo(checkpoint / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read \(not a regular file\)"):
        learner.restore(checkpoint)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ranking", [[1.0, "../../elsewhere"]], "progress.ranking names something outside of the run"),
        ("windows", [{"os": 1}], "progress.windows[0] must hold exactly the keys sums, figures"),
        ("lines", -2, "progress.lines must be a int and not -2"),
        ("update", "1", "progress.update must be a int and not '1'"),
    ],
)
def test_a_hostile_progress(key: str, value: object, message: str, checkpoint: Path, learner: Any) -> None:
    facts = json.loads((checkpoint / "training.json").read_text())
    facts["progress"][key] = value
    (checkpoint / "training.json").write_text(json.dumps(facts))
    reseal(checkpoint)
    with pytest.raises(DataError, match=rf"training\.json: not the state of a training run \({re.escape(message)}"):
        learner.restore(checkpoint)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("foreach", [1], r"param_groups\[0\]\.foreach must be a switch and not \[1\]"),
        ("lr", "1e-3", r"param_groups\[0\]\.lr must be like .* and not '1e-3'"),
        ("lr", None, r"param_groups\[0\]\.lr must be like .* and not None"),
        ("betas", [0.9], r"param_groups\[0\]\.betas must be a list of 2"),
        ("new", 1, r"param_groups\[0\] must hold exactly the keys"),
        ("params", "swapped", "param_groups are of another model"),
    ],
)
def test_settings_of_an_optimizer_that_fit_nothing(
    key: str, value: object, message: str, checkpoint: Path, learner: Any
) -> None:
    path = checkpoint / "training.json"
    facts = json.loads(path.read_text())
    group = facts["param_groups"][0]
    group[key] = group["params"][::-1] if value == "swapped" else value
    path.write_text(json.dumps(facts))
    reseal(checkpoint)
    with pytest.raises(DataError, match=message):
        learner.restore(checkpoint)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("optimizer.x.exp_avg", torch.zeros(1)),
        ("optimizer.-1.exp_avg", torch.zeros(())),
        ("optimizer.99999.exp_avg", torch.zeros(())),
        ("optimizer.0.exp_avg", torch.zeros(3)),
        ("optimizer", torch.zeros(())),
        ("random.cpu", torch.zeros(3)),
        ("random.cpu", torch.zeros(3, dtype=torch.uint8)),
        ("random.cpu", None),
    ],
)
def test_tensors_of_a_state_that_fit_nothing(name: str, tensor: Any, checkpoint: Path, learner: Any) -> None:
    path = checkpoint / "training.safetensors"
    tensors = load_file(path)
    tensors.pop(name, None)
    save_file(tensors if tensor is None else {**tensors, name: tensor}, path)
    reseal(checkpoint)
    before = everything(learner)
    with pytest.raises(DataError, match=r"training\.safetensors: (?!damaged)"):
        learner.restore(checkpoint)
    assert_close(everything(learner), before, rtol=0, atol=0)  # nothing is half restored
