"""BLEU, chrF and TER with sacrebleu's signatures (Post 2018, arXiv:1804.08771), and tests of their differences."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np

from nmt.config import ConfigError, DataError, Texts, option, suggest
from nmt.limits import MAX_SEED
from nmt.metrics.significance import compare_statistics, holm
from nmt.text.input import read_lines
from nmt.text.writer import STANDARD, open_output

METRICS = ("bleu", "chrf", "ter")
SAMPLES, SEED = 10_000, 12345
"""Of tests, where nothing else is asked for."""


class ScoreFormat(Enum):
    """How ``nmt-score`` prints."""

    text = "text"
    json = "json"


@dataclass
class ScoreOptions:
    """The configuration of ``nmt-score``."""

    hypothesis: str = option()
    reference: Texts = option()
    baseline: str | None = option()
    metrics: list[str] = option()
    tokenize: str = option()
    samples: int = option(minimum=1, maximum=1_000_000)
    seed: int = option(minimum=1, maximum=MAX_SEED)
    format: ScoreFormat = option()
    output: str = option()


@dataclass(frozen=True)
class Score:
    """A corpus's score.

    Attributes:
        name: as sacrebleu writes it: ``BLEU``, ``chrF2``, ``TER``.
        score: 0 to 100 (TER: 0 is best).
        signature: sacrebleu's.
        details: what sacrebleu adds: precisions, brevity penalty and lengths for BLEU.
        interval: half the width of the 95 % confidence interval, where it was asked for.
    """

    name: str
    score: float
    signature: str
    details: str = ""
    interval: float | None = None

    def __str__(self) -> str:
        return f"{self.name} = {self.score:.2f}{f' {self.details}' if self.details else ''} ({self.signature})"


@dataclass(frozen=True)
class Comparison:
    """A system beside a baseline, each trained once or several times.

    Attributes:
        name: of the metric, as sacrebleu writes it.
        score: of the system, mean over its trainings.
        baseline: score of the baseline, likewise.
        delta: ``score - baseline``.
        low: lower end of the 95 % interval of the difference.
        high: upper end.
        p_value: two-sided; see ``nmt.metrics.significance.compare_statistics``.
        trainings: of each of the two.
        paired: whether training by training one system was made from the other.
        samples: random differences that p-value and interval come from.
        seed: of these.
        signature: sacrebleu's.
    """

    name: str
    score: float
    baseline: float
    delta: float
    low: float
    high: float
    p_value: float
    trainings: int
    paired: bool
    samples: int
    seed: int
    signature: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.score:.2f}, baseline {self.baseline:.2f}, difference {self.delta:+.2f} "
            f"[{self.low:+.2f}, {self.high:+.2f}], p = {p_text(self.p_value)}"
        )


def p_text(p_value: float) -> str:
    """A p-value in as many digits as it deserves."""
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.2g}"


def bleu(hypotheses: Sequence[str], references: Sequence[Any], *, tokenize: str = "13a") -> Score:
    """Corpus BLEU (Papineni et al. 2002) of raw text.

    Args:
        hypotheses: one line a sentence.
        references: one line a sentence, or several such lists.
        tokenize: sacrebleu's tokeniser (13a, zh, ja-mecab, intl, char, none, ...).
    """
    return corpus_score("bleu", hypotheses, references, tokenize=tokenize)


def chrf(hypotheses: Sequence[str], references: Sequence[Any]) -> Score:
    """Corpus chrF2 (Popović 2015) of raw text; arguments as for `bleu`."""
    return corpus_score("chrf", hypotheses, references)


def corpus_score(
    metric: str,
    hypotheses: Sequence[str],
    references: Sequence[Any],
    *,
    tokenize: str = "13a",
    samples: int = 0,
    seed: int = SEED,
) -> Score:
    """One of ``METRICS``; arguments as for `bleu`, and those of the confidence interval.

    Args:
        metric: its name.
        hypotheses: one line a sentence.
        references: one line a sentence, or several such lists.
        tokenize: BLEU's tokeniser.
        samples: corpora resampled for the confidence interval (Koehn 2004); 0: none.
        seed: of the resampling.

    Raises:
        ConfigError: unknown metric or tokeniser.
        DataError: hypotheses and references differ in number.
    """
    columns = as_columns(references)
    check_counts({"hypotheses": hypotheses, **{f"reference {i + 1}": column for i, column in enumerate(columns)}})
    scorer = make_metric(metric, tokenize)
    if not hypotheses:
        raise DataError("there is nothing to score: no line")
    with _sacrebleu_seed(seed):
        result = scorer.corpus_score(list(hypotheses), columns, n_bootstrap=max(1, samples))
    details = str(result).split(" = ", 1)[1].partition(" ")[2] if metric == "bleu" else ""
    interval = float(result._ci) if samples else None  # public only as a part of the formatted text
    return Score(str(result.name), float(result.score), str(scorer.get_signature()), details, interval)


def as_columns(references: Sequence[Any]) -> list[list[str]]:
    """References as a list of columns; a plain list of lines is one column."""
    if not references or isinstance(references[0], str):
        return [list(references)]
    return [list(column) for column in references]


def make_metric(name: str, tokenize: str = "13a") -> Any:
    """A metric of sacrebleu.

    Raises:
        ConfigError: unknown metric or tokeniser, or one whose package is missing.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    if name == "chrf":
        return CHRF()
    if name == "ter":
        return TER()
    if name != "bleu":
        raise ConfigError(
            f"metrics: unknown metric {name!r}; valid options: {', '.join(METRICS)}{suggest(name, METRICS)}"
        )
    if tokenize not in BLEU.TOKENIZERS:
        valid = sorted(str(t) for t in BLEU.TOKENIZERS)
        raise ConfigError(f"tokenize={tokenize}: valid options: {', '.join(valid)}{suggest(tokenize, valid)}")
    try:
        return BLEU(tokenize=tokenize)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"tokenize={tokenize}: {' '.join(str(error).split())}") from error


def compare(
    systems: Sequence[Sequence[str]],
    baselines: Sequence[Sequence[str]],
    references: Sequence[Any],
    *,
    metric: str = "bleu",
    tokenize: str = "13a",
    samples: int = SAMPLES,
    seed: int = SEED,
    paired: bool = False,
) -> Comparison:
    """Test the difference between two systems, each trained once or several times.

    Args:
        systems: the system's lines, of each training.
        baselines: the baseline's lines, of as many trainings.
        references: one line a sentence, or several such lists.
        metric: one of ``METRICS``.
        tokenize: BLEU's tokeniser.
        samples: shuffled, and resampled, corpora.
        seed: of these.
        paired: training by training, one system was made from the other; see
            ``nmt.metrics.significance.compare_statistics``.

    Raises:
        ConfigError: unknown metric or tokeniser.
        DataError: the numbers of lines or of trainings differ, or there is no line.
    """
    columns = as_columns(references)
    named: dict[str, Sequence[str]] = {f"reference {i + 1}": column for i, column in enumerate(columns)}
    named |= {f"hypotheses {i + 1}": lines for i, lines in enumerate(systems)}
    named |= {f"baseline {i + 1}": lines for i, lines in enumerate(baselines)}
    check_counts(named)
    if len(systems) != len(baselines):
        raise DataError(f"{len(systems)} trainings cannot be compared with {len(baselines)}: give as many of each")
    if not columns[0]:
        raise DataError("there is nothing to compare: no line")
    scorer = make_metric(metric, tokenize)

    def result(sums: Sequence[float]) -> Any:
        return scorer._compute_score_from_stats(sums)  # sacrebleu keeps to itself what its own tests are made of

    ours, theirs = (
        np.asarray([scorer._extract_corpus_statistics(lines, columns) for lines in group], np.float64)
        for group in (systems, baselines)
    )
    results = [[result(sums) for sums in group.sum(1).tolist()] for group in (ours, theirs)]
    means = [float(np.mean([r.score for r in group])) for group in results]
    told = compare_statistics(
        ours, theirs, lambda sums: float(result(sums).score), samples=samples, seed=seed, paired=paired
    )
    return Comparison(
        name=str(results[0][0].name),
        score=means[0],
        baseline=means[1],
        delta=told.delta,
        low=told.low,
        high=told.high,
        p_value=told.p_value,
        trainings=len(ours),
        paired=paired,
        samples=samples,
        seed=seed,
        signature=str(scorer.get_signature()),
    )


@contextlib.contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """Sacrebleu takes its seed from the environment; it also reports its progress as if it were news."""
    before, logger = os.environ.get("SACREBLEU_SEED"), logging.getLogger("sacrebleu")
    level = logger.level
    os.environ["SACREBLEU_SEED"] = str(seed)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before


def check_counts(columns: Mapping[str, Sequence[str]]) -> None:
    """All columns have as many lines as the first.

    Args:
        columns: name (a file's, where there is one) to lines.

    Raises:
        DataError: one differs; both counts are given.
    """
    (first, lines), *others = columns.items()
    for name, other in others:
        if len(other) != len(lines):
            raise DataError(
                f"{first} has {len(lines)} lines but {name} has {len(other)}: line n of both must be the same sentence"
            )


def score_files(options: ScoreOptions) -> None:
    """Score a file of hypotheses, with a test against a baseline where one is given, and print the result.

    Raises:
        ConfigError: a file or an option is wrong.
        DataError: the files do not fit each other.
    """
    paths = options.reference if isinstance(options.reference, list) else [options.reference]
    given = [("hypothesis", options.hypothesis), *(("reference", path) for path in paths)]
    if [options.hypothesis, *paths, options.baseline].count(STANDARD) > 1:
        raise ConfigError("standard input can be read once: give files for the others")
    files = {path: read_lines(path, key) for key, path in given}
    check_counts(files)
    columns, hypotheses = [files[path] for path in paths], files[options.hypothesis]
    scores = [corpus_score(name, hypotheses, columns, tokenize=options.tokenize) for name in options.metrics]
    comparisons: list[Comparison] = []
    if options.baseline is not None:
        baseline = read_lines(options.baseline, "baseline")
        check_counts({options.hypothesis: hypotheses, options.baseline: baseline})
        comparisons = [
            compare(
                [hypotheses],
                [baseline],
                columns,
                metric=name,
                tokenize=options.tokenize,
                samples=options.samples,
                seed=options.seed,
            )
            for name in options.metrics
        ]
    with open_output(options.output) as output:
        output.write(_report(scores, comparisons, options.format))


def _report(scores: list[Score], comparisons: list[Comparison], layout: ScoreFormat) -> str:
    adjusted = holm([c.p_value for c in comparisons])
    if layout is ScoreFormat.text:
        lines = [*map(str, scores), *map(str, comparisons)]
        if comparisons:
            first, several = comparisons[0], ", ".join(f"{c.name} {p_text(p)}" for c, p in zip(comparisons, adjusted))
            lines.append(f"p-values: two-sided approximate randomisation, {first.samples} samples, seed {first.seed}")
            if len(comparisons) > 1:
                lines.append(f"{len(comparisons)} comparisons; p-values adjusted for that (Holm): {several}")
        return "".join(f"{line}\n" for line in lines)
    compared = [{**asdict(c), "p_holm": p} for c, p in zip(comparisons, adjusted)]
    return (
        json.dumps({"scores": [asdict(s) for s in scores], "comparisons": compared}, ensure_ascii=False, indent=2)
        + "\n"
    )
