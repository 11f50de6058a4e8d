"""Scores by hand, signatures, and tests of differences."""

import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from nmt.config import ConfigError, DataError, compose, parse_options
from nmt.metrics.scoring import METRICS, ScoreOptions, bleu, chrf, compare, corpus_score, make_metric, score_files

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


def test_test_sees_a_difference() -> None:
    found = compare([REFERENCE * 20], [WORSE * 20], REFERENCE * 20, samples=200)
    assert (found.name, found.score) == ("BLEU", pytest.approx(100))
    assert found.delta == pytest.approx(found.score - found.baseline)
    assert found.p_value == pytest.approx(1 / 201)  # no shuffled corpus differs as much
    assert found.low <= found.delta <= found.high
    assert found.signature.startswith("nrefs:1|case:mixed|")
    # It is two-sided: the worse system beside the better one differs as much.
    turned = compare([WORSE * 20], [REFERENCE * 20], REFERENCE * 20, samples=200)
    assert (turned.delta, turned.p_value) == (pytest.approx(-found.delta), found.p_value)
    assert (turned.low, turned.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


@pytest.mark.parametrize("metric", METRICS)
def test_identical_systems_do_not_differ(metric: str) -> None:
    for trainings in ([WORSE], [WORSE, REFERENCE]):
        found = compare(trainings, trainings, REFERENCE, metric=metric, samples=50)
        assert (found.delta, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_test_is_reproducible_and_sees_no_difference_in_noise() -> None:
    first = [r if i % 2 else w for i, (r, w) in enumerate(zip(REFERENCE * 20, WORSE * 20))]
    second = [w if i % 2 else r for i, (r, w) in enumerate(zip(REFERENCE * 20, WORSE * 20))]
    runs = [compare([first], [second], REFERENCE * 20, samples=100, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].low != runs[2].low
    assert all(found.p_value > 0.1 and found.low < 0 < found.high for found in runs)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_test_agrees_with_sacrebleu(metric: str) -> None:
    """Its own approximate randomisation counts no ties: for TER it finds less, for identical systems the least p."""
    from sacrebleu.significance import PairedTest

    draw = random.Random(1)
    references = [" ".join(draw.choices("abcdefg", k=9)) for _ in range(60)]
    ours, theirs = ([" ".join(w for w in r.split() if draw.random() > p) for r in references] for p in (0.2, 0.24))
    scorer = {metric: make_metric(metric)}
    test = PairedTest([("b", theirs), ("s", ours)], scorer, [references], test_type="ar", n_samples=2000)
    _, (base, system) = test()[1].values()
    found = compare([ours], [theirs], references, metric=metric, samples=2000)
    assert (found.score, found.baseline) == (pytest.approx(system.score), pytest.approx(base.score))
    assert found.p_value == pytest.approx(system.p_value, abs=0.04)
    assert 0.05 < found.p_value < 0.95  # or the two could agree on nothing


def test_several_trainings_are_compared_by_their_means() -> None:
    worst = [line[::-1] for line in WORSE]
    found = compare([REFERENCE, WORSE], [WORSE, worst], REFERENCE, samples=50)
    scores = [bleu(lines, REFERENCE).score for lines in (REFERENCE, WORSE, WORSE, worst)]
    assert found.score == pytest.approx(sum(scores[:2]) / 2)
    assert found.baseline == pytest.approx(sum(scores[2:]) / 2)
    assert found.trainings == 2
    with pytest.raises(DataError, match="2 trainings cannot be compared with 1"):
        compare([REFERENCE, WORSE], [WORSE], REFERENCE)
    with pytest.raises(DataError, match="has 3 lines but baseline 2 has 2"):
        compare([REFERENCE, WORSE], [WORSE, WORSE[:2]], REFERENCE)


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


def test_text_says_how_many_comparisons_there_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, baseline=f"{folder}/hyp", metrics=["bleu", "chrf"], samples=50)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("BLEU: ")
    assert lines[2].endswith("difference +0.00 [+0.00, +0.00], p = 1.00")
    assert lines[4] == "p-values: two-sided approximate randomisation, 50 samples, seed 12345"
    assert lines[5] == "2 comparisons; p-values adjusted for that (Holm): BLEU 1.00, chrF2 1.00"


@pytest.mark.parametrize(("key", "sep"), [("reference", "ref"), ("baseline", "base")])
def test_unequal_files(folder: Path, key: str, sep: str) -> None:
    (folder / sep).write_text("one line\n")
    with pytest.raises(DataError, match=rf"hyp has 3 lines but \S*{sep} has 1"):
        run(folder, **{key: f"{folder}/{sep}"})


def test_missing_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: cannot be read \\(No such file"):
        run(folder, reference=[f"{folder}/ref", f"{folder}/nowhere"])
