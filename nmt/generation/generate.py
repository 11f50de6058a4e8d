"""What ``nmt-generate`` does: read, translate, write in order, score."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch

from nmt.config import ConfigError
from nmt.data.corpus import Corpus
from nmt.device import torch_device
from nmt.generation.defaults import describe_search, taken_defaults
from nmt.generation.hypothesis import FAILED, FailedLines, Hypothesis, perplexity
from nmt.generation.lines import Block, blocks
from nmt.generation.options import GenerateOptions, OutputFormat, given_search
from nmt.generation.progress import Progress
from nmt.generation.translator import Translator
from nmt.parallel.ranks import Ranks
from nmt.text.input import open_text
from nmt.text.reader import TextFile
from nmt.text.writer import STANDARD, open_output

log = logging.getLogger(__name__)


@dataclass
class Summary:
    """What was done.

    Attributes:
        num_lines: lines read.
        num_tokens: target tokens of the best hypotheses, EOS counted.
        logprob: sum of their log-probabilities.
        failed: the lines that the search has no translation for.
        seconds: from the first line read to the last one written.
        best: the translations, kept where there are references.
        scores: BLEU and chrF with their signatures, where there are references; a language model's perplexity.
    """

    num_lines: int = 0
    num_tokens: int = 0
    logprob: float = 0.0
    failed: FailedLines = field(default_factory=FailedLines)
    seconds: float = 0.0
    best: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)


def generate(options: GenerateOptions) -> Summary:
    """Translate a file, standard input or a corpus split, block by block; output appears in the order of the input.

    Raises:
        ConfigError: an option is wrong.
        DataError: a file is damaged or not UTF-8, or two files differ in length.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    ranks = Ranks.join(torch_device(options.device))
    _check_shareable(options, ranks)
    with contextlib.ExitStack() as stack:
        lines, references, name = _sources(options, stack)
        beside = _beside(options, stack)
        translator = Translator.load(
            options.checkpoint, device=options.device, precision=options.precision, plugins=options.plugins
        )
        options = _with_defaults(options, translator)
        output = stack.enter_context(open_output(options.output)) if ranks.first else None
        scored = options.score_target is not None
        if not translator.reads_source and options.corpus is not None:
            if references is None:
                raise ConfigError("score_target: a language model scores the lines of corpus; leave one of them out")
            lines, scored = references, True
        if lines is None:
            raise ConfigError(f"corpus={options.corpus}: has one language: there is nothing to translate")
        progress = stack.enter_context(Progress(options, lines, visible=ranks.first))
        work = blocks(lines, beside, options.buffer, name)
        summary = _run(options, translator, ranks, work, output, progress, scored=scored)
    if ranks.first:
        summary.failed.warn(summary.num_lines)
        _report(options, summary, references, scored=scored)
    return summary


def _with_defaults(options: GenerateOptions, translator: Translator) -> GenerateOptions:
    """The options with a whole search: what was given, and the defaults for the rest."""
    given = given_search(options.search)
    taken = taken_defaults(given, translator.defaults)
    if taken:
        log.info("%s: defaults of %s", describe_search(taken), ", ".join(translator.defaults))
    whole = copy.copy(options)
    whole.search = translator.search_options(given)
    return whole


def _check_shareable(options: GenerateOptions, ranks: Ranks) -> None:
    """Several processes each read the whole input, which standard input gives only once."""
    for key, path in (("input", options.input), ("prefix", options.prefix), ("score_target", options.score_target)):
        if ranks.world > 1 and path == STANDARD:
            raise ConfigError(f"{key}=-: several processes cannot share standard input; give a file")


def _sources(
    options: GenerateOptions, stack: contextlib.ExitStack
) -> tuple[Iterable[str] | None, list[str] | None, str]:
    """The sources (None in a corpus of one language), their references where they are a corpus's, and their name."""
    if options.corpus is None:
        text = stack.enter_context(open_text(str(options.input), "input"))
        return text, None, str(text.path)
    corpus = Corpus.open(options.corpus)
    split = corpus.split(options.split)
    references = None if options.score_target is not None else split.target_texts()
    return split.source_texts() if corpus.parallel else None, references, f"split {options.split!r} of {options.corpus}"


def _beside(options: GenerateOptions, stack: contextlib.ExitStack) -> TextFile | None:
    """The file of target prefixes or of targets."""
    for key, path in (("prefix", options.prefix), ("score_target", options.score_target)):
        if path is not None:
            if path == options.input == STANDARD:
                raise ConfigError(f"{key}=-: standard input is taken by input")
            return stack.enter_context(open_text(path, key))
    return None


def _run(
    options: GenerateOptions,
    translator: Translator,
    ranks: Ranks,
    work: Iterator[Block],
    output: TextIO | None,
    progress: Progress,
    *,
    scored: bool,
) -> Summary:
    summary, started = Summary(), 0.0
    for block in work:
        started = started or time.monotonic()
        mine = block.share(ranks.rank, ranks.world)
        keys = range(block.first + ranks.rank, block.first + len(block.lines), ranks.world)
        found = (_score if scored else _translate)(options, translator, mine, keys, progress)
        rows = ranks.merge(
            [
                [
                    _record(options, translator, key, mine, place, hypotheses, scored=scored),
                    *_figures(translator, hypotheses[0]),
                ]
                for place, (key, hypotheses) in enumerate(zip(keys, found))
            ]
        )
        if output is None:
            continue
        output.write("".join(record for record, *_ in rows))
        output.flush()
        for key, (_, text, num_tokens, logprob) in enumerate(rows, start=summary.num_lines):
            summary.num_tokens += num_tokens
            if not scored and logprob == FAILED.logprob:
                summary.failed.add(key)
            summary.logprob += logprob
            if options.corpus is not None:
                summary.best.append(text)
        summary.num_lines += len(rows)
    summary.seconds = time.monotonic() - started if started else 0.0
    return summary


def _score(
    options: GenerateOptions, translator: Translator, block: Block, keys: range, progress: Progress
) -> list[list[Hypothesis]]:
    """What a second file holds, or a language model's lines themselves."""
    scored = translator.forced(
        block.lines,
        block.lines if block.beside is None else block.beside,
        options.search,
        batch=options.batch,
        keys=keys,
        progress=progress.advance,
    )
    return [[hypothesis] for hypothesis in scored]


def _translate(
    options: GenerateOptions, translator: Translator, block: Block, keys: range, progress: Progress
) -> list[list[Hypothesis]]:
    return translator.hypotheses(
        block.lines, options.search, prefixes=block.beside, batch=options.batch, keys=keys, progress=progress.advance
    )


def _figures(translator: Translator, best: Hypothesis) -> tuple[str, int, float]:
    """Text, number of tokens and log-probability."""
    return translator.text(best), len(best.token_lprobs), best.logprob


def _record(
    options: GenerateOptions,
    translator: Translator,
    key: int,
    block: Block,
    place: int,
    found: list[Hypothesis],
    *,
    scored: bool,
) -> str:
    """What is written for one line of input."""
    if options.format is OutputFormat.jsonl:
        row: dict[str, Any] = {"line": key + 1, "source": block.lines[place]}
        row["hypotheses"] = [_as_json(h, translator, options.token_scores) for h in found]
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    if scored:
        return f"{found[0].score:.6f}\n"
    texts = [translator.text(h) for h in found]
    return "".join(f"{text}\n" for text in texts) + "\n" * (options.search.nbest - len(texts))


def _as_json(hypothesis: Hypothesis, translator: Translator, token_scores: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "text": translator.text(hypothesis),
        "score": _number(hypothesis.score),
        "logprob": _number(hypothesis.logprob),
        "pieces": translator.pieces(hypothesis),
    }
    if token_scores:
        row["token_logprobs"] = [_number(lprob) for lprob in hypothesis.token_lprobs]
    return row


def _number(value: float) -> float | None:
    """JSON has no infinity: null stands for minus infinity."""
    return None if value == -math.inf else value


def _report(options: GenerateOptions, summary: Summary, references: list[str] | None, *, scored: bool) -> None:
    """Log speed; score against the references, or by the language model that read them."""
    seconds = max(summary.seconds, 1e-9)
    log.info(
        "%d lines, %d target tokens in %.1f s: %.1f sentences/s, %.0f tokens/s",
        summary.num_lines,
        summary.num_tokens,
        summary.seconds,
        summary.num_lines / seconds,
        summary.num_tokens / seconds,
    )
    if scored and summary.num_tokens:
        mean = summary.logprob / summary.num_tokens
        log.info("log-probability %.2f, %.4f a token", summary.logprob, mean)
        if references:
            found = perplexity(summary.logprob, summary.num_tokens)
            summary.scores = [f"perplexity = {found:.4f} ({summary.num_tokens} tokens, ends of lines counted)"]
    elif references:
        from nmt.metrics.scoring import bleu, chrf

        summary.scores = [str(bleu(summary.best, references)), str(chrf(summary.best, references))]
    for line in summary.scores:
        print(line, file=sys.stderr if options.output == STANDARD else sys.stdout)
