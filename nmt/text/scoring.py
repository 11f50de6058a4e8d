"""BLEU, chrF and TER with sacrebleu's signatures, and its paired bootstrap test (Post 2018, arXiv:1804.08771)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from nmt.config import ConfigError, DataError, Texts, option, suggest
from nmt.data.reader import TextFile
from nmt.data.shards import IntArray
from nmt.text.writer import open_output

METRICS = ("bleu", "chrf", "ter")


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
    samples: int = option(minimum=1)
    seed: int = option(minimum=1)
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
    """A system beside a baseline.

    Attributes:
        name: of the metric.
        score: of the system.
        baseline: score of the baseline.
        delta: ``score - baseline``.
        p_value: of the paired bootstrap: how likely such a difference is between systems that do not differ.
        interval: half the width of the 95 % confidence interval of the system's score.
        signature: sacrebleu's.
    """

    name: str
    score: float
    baseline: float
    delta: float
    p_value: float
    interval: float
    signature: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.score:.2f} ± {self.interval:.2f}, baseline {self.baseline:.2f}, "
            f"delta {self.delta:+.2f}, p = {self.p_value:.4f} ({self.signature})"
        )


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
    seed: int = 12345,
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


def paired_bootstrap(
    hypotheses: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Any],
    *,
    metrics: Sequence[str] = ("bleu", "chrf"),
    tokenize: str = "13a",
    samples: int = 1000,
    seed: int = 12345,
) -> list[Comparison]:
    """Paired bootstrap resampling (Koehn 2004) by sacrebleu.

    Args:
        hypotheses: the system's lines.
        baseline: the other system's lines.
        references: one line a sentence, or several such lists.
        metrics: see ``METRICS``.
        tokenize: BLEU's tokeniser.
        samples: resampled corpora.
        seed: of the resampling; sacrebleu's own default by default, at least 1.

    Raises:
        DataError: the numbers of lines differ.
    """
    from sacrebleu.significance import PairedTest

    columns = as_columns(references)
    named = {f"reference {i + 1}": column for i, column in enumerate(columns)}
    check_counts({"hypotheses": hypotheses, "baseline": baseline, **named})
    made = {name: make_metric(name, tokenize) for name in metrics}
    systems: list[tuple[str, Sequence[str]]] = [("baseline", list(baseline)), ("system", list(hypotheses))]
    with _sacrebleu_seed(seed):
        test: Any = PairedTest(systems, made, columns, test_type="bs", n_samples=samples)
        signatures, table = test()
    found = []
    for name, (base, system) in ((k, v) for k, v in table.items() if k != "System"):
        found.append(
            Comparison(
                name=str(name),
                score=float(system.score),
                baseline=float(base.score),
                delta=float(system.score - base.score),
                p_value=float(system.p_value),
                interval=float(system.ci),
                signature=str(signatures[name]),
            )
        )
    return found


@dataclass(frozen=True)
class Difference:
    """A difference of BLEU and its 95 % interval.

    Attributes:
        delta: system minus baseline.
        low: lower end of the interval.
        high: upper end.
    """

    delta: float
    low: float
    high: float


def bleu_difference(
    systems: Sequence[Sequence[str]],
    baselines: Sequence[Sequence[str]],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    samples: int = 1000,
    seed: int = 12345,
) -> Difference:
    """The difference of BLEU between two systems, each trained from one or more seeds, with a paired bootstrap.

    Every sample draws sentences, the same for both systems (Koehn 2004), and where there are several trainings of a
    system also which of them count, so that the interval covers the spread of the seeds.

    Args:
        systems: the system's lines, of each training.
        baselines: the baseline's lines, of each training.
        references: one line a sentence.
        tokenize: BLEU's tokeniser.
        samples: resampled corpora.
        seed: of the resampling.

    Raises:
        DataError: the numbers of lines differ.
    """
    named = {f"hypotheses {i + 1}": lines for i, lines in enumerate([*systems, *baselines])}
    check_counts({"references": references, **named})
    scorer = make_metric("bleu", tokenize)
    ours, theirs = (_ngram_counts(scorer, group, references) for group in (systems, baselines))
    draw = np.random.default_rng(seed)

    def bleus(counts: IntArray, lines: Any, trainings: Any) -> float:
        return float(np.mean([_bleu_of(scorer, counts[i][lines].sum(0)) for i in trainings]))

    everything = slice(None)
    delta = bleus(ours, everything, range(len(ours))) - bleus(theirs, everything, range(len(theirs)))
    found = []
    for _ in range(samples):
        lines = draw.integers(len(references), size=len(references))
        own, other = (draw.integers(len(group), size=len(group)) for group in (ours, theirs))
        found.append(bleus(ours, lines, own) - bleus(theirs, lines, other))
    low, high = np.percentile(found, [2.5, 97.5])
    return Difference(delta, float(low), float(high))


def _ngram_counts(scorer: Any, systems: Sequence[Sequence[str]], references: Sequence[str]) -> IntArray:
    """What BLEU sums over sentences (systems, sentences, 10): matches and totals of each order, and both lengths."""
    rows = []
    for lines in systems:
        scores = [scorer.corpus_score([line], [[reference]]) for line, reference in zip(lines, references)]
        rows.append([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores])
    return np.asarray(rows, dtype=np.int64)


def _bleu_of(scorer: Any, counts: IntArray) -> float:
    values = counts.tolist()
    return float(scorer.compute_bleu(values[:4], values[4:8], values[8], values[9], scorer.smooth_method).score)


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


def read_lines(path: str) -> list[str]:
    """All lines of a text file (plain, .gz or .xz).

    Raises:
        ConfigError: no such file.
        DataError: not UTF-8 (names the line), or damaged.
    """
    if not Path(path).exists():
        raise ConfigError(f"{path}: no such file")
    with TextFile(Path(path)) as lines:
        return list(lines)


def score_files(options: ScoreOptions) -> None:
    """Score a file of hypotheses, with a test against a baseline where one is given, and print the result.

    Raises:
        ConfigError: a file or an option is wrong.
        DataError: the files do not fit each other.
    """
    paths = options.reference if isinstance(options.reference, list) else [options.reference]
    files = {str(path): read_lines(str(path)) for path in [options.hypothesis, *paths]}
    check_counts(files)
    columns, hypotheses = [files[str(path)] for path in paths], files[options.hypothesis]
    scores = [corpus_score(name, hypotheses, columns, tokenize=options.tokenize) for name in options.metrics]
    comparisons: list[Comparison] = []
    if options.baseline is not None:
        baseline = read_lines(options.baseline)
        check_counts({options.hypothesis: hypotheses, options.baseline: baseline})
        comparisons = paired_bootstrap(
            hypotheses,
            baseline,
            columns,
            metrics=options.metrics,
            tokenize=options.tokenize,
            samples=options.samples,
            seed=options.seed,
        )
    with open_output(options.output) as output:
        output.write(_report(scores, comparisons, options.format))


def _report(scores: list[Score], comparisons: list[Comparison], layout: ScoreFormat) -> str:
    if layout is ScoreFormat.text:
        return "".join(f"{line}\n" for line in [*scores, *comparisons])
    table = {"scores": [asdict(s) for s in scores], "comparisons": [asdict(c) for c in comparisons]}
    return json.dumps(table, ensure_ascii=False, indent=2) + "\n"
