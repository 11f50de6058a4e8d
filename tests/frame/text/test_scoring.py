"""Scores by hand, signatures, and the paired bootstrap."""

import gzip
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest

from nmt.config import ConfigError, DataError, compose, parse_options
from nmt.text.scoring import ScoreOptions, bleu, chrf, corpus_score, paired_bootstrap, score_files

REFERENCE = ["the cat sat on the mat today", "a dog runs in the park", "two birds sing on a tree"]
WORSE = ["the cat on mat", "dog runs the in park", "birds two sing tree a"]


def test_bleu_by_hand() -> None:
    """Precisions 5/6, 3/5, 2/4 and 1/3 of one sentence, no brevity penalty."""
    score = bleu(["the cat sat on a mat"], ["the cat sat on the mat"])
    assert score.score == pytest.approx(100 * math.exp(sum(math.log(p) for p in (5 / 6, 3 / 5, 2 / 4, 1 / 3)) / 4))
    assert score.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert str(score).startswith("BLEU = 53.73 83.3/60.0/50.0/33.3 (BP = 1.000")


def test_ter_by_hand() -> None:
    assert corpus_score("ter", ["a b c x"], ["a b c d"]).score == pytest.approx(25.0)  # one substitution in four words


def test_perfect_and_hopeless() -> None:
    assert bleu(REFERENCE, REFERENCE).score == pytest.approx(100)
    assert chrf(REFERENCE, REFERENCE).score == pytest.approx(100)
    assert chrf(["xyz"], ["aaaa bbbb"]).score == 0


def test_several_references() -> None:
    score = bleu(["a dog runs in the park"], [["some other words here now"], ["a dog runs in the park"]])
    assert score.score == pytest.approx(100)
    assert score.signature.startswith("nrefs:2|")


def test_tokeniser() -> None:
    assert "tok:char" in bleu(["abc"], ["abc"], tokenize="char").signature


@pytest.mark.parametrize(
    ("metric", "tokenize", "message"),
    [
        ("blue", "13a", r"unknown metric 'blue'; valid options: bleu, chrf, ter \(did you mean 'bleu'\?\)"),
        ("bleu", "13b", r"tokenize=13b: valid options: 13a, .*\(did you mean '13a'\?\)"),
    ],
)
def test_unknown_names(metric: str, tokenize: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corpus_score(metric, ["a"], ["a"], tokenize=tokenize)


def test_counts_must_agree() -> None:
    with pytest.raises(DataError, match="hypotheses has 1 lines but reference 2 has 2"):
        bleu(["a"], [["a"], ["a", "b"]])
    with pytest.raises(DataError, match="nothing to score"):
        bleu([], [])


def test_bootstrap_sees_a_difference(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    with caplog.at_level(logging.INFO):
        (found,) = paired_bootstrap(REFERENCE * 20, WORSE * 20, REFERENCE * 20, metrics=["bleu"], samples=200)
    assert found.score == pytest.approx(100)
    assert found.delta == pytest.approx(found.score - found.baseline)
    assert found.p_value == pytest.approx(1 / 201)  # no resampled corpus differs as much
    assert "bs:200|seed:12345" in found.signature
    assert "SACREBLEU_SEED" not in os.environ
    assert not caplog.records


def test_bootstrap_is_reproducible_and_sees_no_difference_in_noise() -> None:
    first = [r if i % 2 else w for i, (r, w) in enumerate(zip(REFERENCE * 20, WORSE * 20))]
    second = [w if i % 2 else r for i, (r, w) in enumerate(zip(REFERENCE * 20, WORSE * 20))]
    runs = [paired_bootstrap(first, second, REFERENCE * 20, samples=100, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert all(c.p_value > 0.1 for c in runs[0])


def run(tmp_path: Path, **values: Any) -> None:
    node = compose("score", [f"hypothesis={tmp_path}/hyp", f"reference={tmp_path}/ref"])
    for key, value in values.items():
        node[key] = value
    score_files(parse_options(ScoreOptions, node))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ref").write_text("".join(f"{line}\n" for line in REFERENCE))
    (tmp_path / "hyp").write_text("".join(f"{line}\n" for line in WORSE))
    (tmp_path / "hyp.gz").write_bytes(gzip.compress((tmp_path / "hyp").read_bytes()))
    return tmp_path


def test_files_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, hypothesis=f"{folder}/hyp.gz")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" = ")[0] for line in lines] == ["BLEU", "chrF2", "TER"]


def test_files_as_json(folder: Path) -> None:
    run(folder, baseline=f"{folder}/ref", metrics=["chrf"], samples=50, format="json", output=f"{folder}/report")
    report = json.loads((folder / "report").read_text())
    assert report["scores"][0]["score"] == pytest.approx(chrf(WORSE, REFERENCE).score)
    assert report["comparisons"][0]["delta"] == pytest.approx(chrf(WORSE, REFERENCE).score - 100)


@pytest.mark.parametrize(("key", "sep"), [("reference", "ref"), ("baseline", "base")])
def test_unequal_files(folder: Path, key: str, sep: str) -> None:
    (folder / sep).write_text("one line\n")
    with pytest.raises(DataError, match=rf"hyp has 3 lines but \S*{sep} has 1"):
        run(folder, **{key: f"{folder}/{sep}"})


def test_missing_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file"):
        run(folder, reference=[f"{folder}/ref", f"{folder}/nowhere"])


def test_difference_of_bleu_is_that_of_the_corpora_and_knows_its_doubt() -> None:
    from nmt.text.scoring import bleu, bleu_difference

    references = [f"the cat number {i} sat on the old mat" for i in range(40)]
    good = [line if i % 4 else line.replace("old", "new") for i, line in enumerate(references)]
    bad = [line if i % 2 else line.replace("sat on", "is under") for i, line in enumerate(references)]
    found = bleu_difference([good], [bad], references, samples=200)
    assert found.delta == pytest.approx(bleu(good, references).score - bleu(bad, references).score)
    assert 0 < found.low < found.delta < found.high
    same = bleu_difference([good], [good], references, samples=50)
    assert (same.delta, same.low, same.high) == (0, 0, 0)
    # Trainings that differ widen the interval.
    seeds = bleu_difference([good, bad], [good, bad], references, samples=200)
    assert seeds.low < -found.delta / 2
    assert seeds.high > found.delta / 2
