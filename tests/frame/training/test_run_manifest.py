"""What a run was begun with: known by its content, wherever it lies."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

from nmt.config import ConfigError, DataError
from nmt.training.run.manifest import Continued, Origin, Start, append_entry

A, B = Origin("data/a", "1" * 64), Origin("data/b", "2" * 64)


def test_manifest_of_a_run(run: Path, digits: Path) -> None:
    [entry] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert entry["python"] == platform.python_version()
    assert entry["versions"]["torch"] == torch.__version__
    assert entry["versions"]["nmt"]
    assert (entry["device"], entry["threads"], entry["update"]) == ("cpu", 1, 0)
    assert [corpus["path"] for corpus in entry["corpora"]] == [str(digits)]
    assert entry["init_from"] is None
    assert entry["parameters"] > 5000
    assert {"time", "command", "platform", "git"} <= entry.keys()


@pytest.mark.parametrize("text", ["{", "[{}]", "[3]", '[{"corpora": {"a": "1"}, "init_from": null, "update": 0}]'])
def test_damaged_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: not (the manifest of a run|JSON)"):
        Continued(tmp_path)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: missing or empty, and nothing else says what"):
        Continued(tmp_path)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([Origin("x", A.digest), B], None),
        ([A], "1 corpora, but the run was begun with 2; choose another run="),
        ([B, A], "the corpora stand in another order than when the run was begun: data/a (digest 1"),
        (
            [A, Origin("data/b", "3" * 64)],
            "the corpus has another content than when the run was begun: data/b (digest 222222222222...) then, "
            "data/b (digest 333333333333...) now; choose another run=",
        ),
    ],
)
def test_several_corpora(now: list[Origin], message: str | None, tmp_path: Path) -> None:
    append_entry(tmp_path, Start([Origin("old", "0"), B], None), update=0)  # never saved, so it is not what counts
    append_entry(tmp_path, Start([A, B], None), update=0)
    append_entry(tmp_path, Start([A, B], None), update=7)
    if message is None:
        Continued(tmp_path).check(Start(now, None))
        return
    with pytest.raises(ConfigError) as caught:
        Continued(tmp_path).check(Start(now, None))
    assert str(caught.value).startswith(f"run={tmp_path}: {message}")


def trained(train, caplog: pytest.LogCaptureFixture, *overrides: str) -> list[str]:
    """Train two more updates; what was said of things that moved."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train(*overrides)
    return [message for message in caplog.messages if " before; " in message]


def test_a_default_may_be_spelled_out(train, tmp_path: Path) -> None:
    train(f"run={tmp_path / 'run'}", "train.max_updates=1")
    spelled = ["model.norm.eps=1e-5", "criterion.label_smoothing=0.1", "model.encoder.self_attention.name=multihead"]
    train(f"run={tmp_path / 'run'}", "train.max_updates=2", *spelled)
    with pytest.raises(ConfigError, match=r"\(model\.norm\.eps: 1e-05 there, 0\.1 now\)"):
        train(f"run={tmp_path / 'run'}", "train.max_updates=3", "model.norm.eps=0.1")


def test_a_corpus_may_move(digits: Path, train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another spelling of its path, a list of one, a copy; the run itself too."""
    run, copy = tmp_path / "run", tmp_path / "copy"
    relative = os.path.relpath(digits)
    spellings = [relative, f"{relative}/", f"[{digits}]", str(shutil.copytree(digits, copy)), str(copy)]
    moved = [[], [], [(relative, digits)], [(digits, copy)], []]
    for number, (spelling, expected) in enumerate(zip(spellings, moved, strict=True), start=1):
        said = trained(train, caplog, f"run={run}", f"corpus={spelling}", f"train.max_updates={2 * number}", "mix=[1]")
        lines = [f"run={run}: corpus={new} now, {old} before; its content is the same" for old, new in expected]
        assert said == lines
    elsewhere = tmp_path / "elsewhere"
    run.rename(elsewhere)
    assert trained(train, caplog, f"run={elsewhere}", f"corpus={copy}", "train.max_updates=12") == []
    entries = json.loads((elsewhere / "manifest.json").read_text(encoding="utf-8"))
    assert [entry["update"] for entry in entries] == [0, 2, 4, 6, 8, 10]
    assert len({entry["corpora"][0]["digest"] for entry in entries}) == 1
    assert [entry["corpora"][0]["path"] for entry in entries][-1] == str(copy)
    assert (elsewhere / "checkpoints" / "last").resolve() == elsewhere / "checkpoints" / "update-00000012"


@pytest.mark.parametrize("vocab_size", [25, 20])
def test_another_corpus_under_the_same_path(vocab_size: int, make_corpus, make_trainer, train, tmp_path: Path) -> None:
    """With the same vocabulary or with another one, it is refused as another corpus; the checkpoints are not blamed."""
    corpus = make_corpus(60, seed=5)
    overrides = [f"run={tmp_path / 'run'}", f"corpus={corpus}"]
    train(*overrides, "train.max_updates=2")
    shutil.rmtree(corpus)
    shutil.copytree(make_corpus(60, seed=6, vocab_size=vocab_size), corpus)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError) as caught:
        make_trainer(*overrides, "train.max_updates=4")
    said = str(caught.value)
    assert said.startswith(
        f"run={tmp_path / 'run'}: the corpus has another content than when the run was begun: {corpus} (digest "
    )
    assert said.endswith("...) now; choose another run=")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_a_run_that_has_nothing_yet_may_begin_with_another_corpus(make_corpus, digits: Path, train, tmp_path) -> None:
    overrides = [f"run={tmp_path / 'run'}", "train.max_updates=2"]
    train(*overrides)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(*overrides, f"corpus={make_corpus(60, seed=6)}")
    with pytest.raises(ConfigError, match="another content"):
        train(*overrides)


def test_first_weights_may_move(run: Path, train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    shutil.copytree(run, first, symlinks=True)
    shutil.copytree(run, copy, symlinks=True)
    overrides = [f"run={tmp_path / 'new'}", "checkpoints.every=1"]
    train(*overrides, f"init_from={first}", "train.max_updates=1")
    other = run / "checkpoints" / "update-00000006"
    with pytest.raises(ConfigError, match=r"init_from has other weights than when the run was begun: .* now;"):
        train(*overrides, f"init_from={other}", "train.max_updates=2")
    with pytest.raises(ConfigError, match=r"\(init_from: .* there, None now\)"):
        train(*overrides, "train.max_updates=2")
    said = trained(train, caplog, *overrides, f"init_from={copy}", "train.max_updates=2")
    assert said == [f"run={tmp_path / 'new'}: init_from={copy} now, {first} before; it is not read again"]
    gone = tmp_path / "gone"
    shutil.rmtree(copy)
    train(*overrides, f"init_from={gone}", "train.max_updates=3")
    entries = json.loads((tmp_path / "new" / "manifest.json").read_text(encoding="utf-8"))
    assert [entry["init_from"]["path"] for entry in entries] == [str(first), str(copy), str(gone)]
    assert len({entry["init_from"]["digest"] for entry in entries}) == 1
