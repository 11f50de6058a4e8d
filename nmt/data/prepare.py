"""Preparing a corpus: vocabulary, segmentation, cleaning (the work of ``nmt-preprocess``)."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nmt.config import ConfigError, DataError, NamedTexts, Texts, option
from nmt.data.arrays import SIDES
from nmt.data.binarise import CleanOptions, chunked, encode_stream
from nmt.data.manifest import FORMAT, MANIFEST, SPLIT_NAME, VERSION, Manifest, SplitEntry, TextInput, vocabulary_entry
from nmt.data.writer import SplitWriter
from nmt.files import staged_folder
from nmt.leftovers import settle
from nmt.limits import MAX_COUNT, MAX_PROCESSES, MAX_VOCABULARY
from nmt.text.reader import MonolingualText, ParallelText, TextFile, find_text
from nmt.text.subword import Normalisation, VocabularyTraining, VocabularyType, train_vocabulary
from nmt.text.vocabulary import UNK, Vocabulary, VocabularyPair

logger = logging.getLogger(__name__)

SAMPLE_SEED = 1
"""Of the random choice of training text for the vocabulary."""

MAX_UNKNOWN_RATE = 0.01
"""Largest share of unknown tokens where the user says nothing and the vocabulary is not of whole words."""


@dataclass
class PreprocessOptions:
    """Options of ``nmt-preprocess``; ``conf/preprocess.yaml`` says what each means."""

    source: str | None = option()
    target: str = option()
    train: Texts = option()
    valid: str = option()
    test: NamedTexts | None = option()
    out: str = option()
    overwrite: bool = option()
    vocabulary: str | None = option()
    vocab_size: int = option(minimum=5, maximum=MAX_VOCABULARY)
    vocab_type: VocabularyType = option()
    joint: bool = option()
    character_coverage: float = option(minimum=0.98, maximum=1)  # what sentencepiece takes
    byte_fallback: bool = option()
    normalisation: Normalisation = option()
    vocab_sentences: int = option(minimum=1, maximum=MAX_COUNT)
    max_unknown_rate: float | None = option(minimum=0, maximum=1)
    workers: int = option(minimum=1, maximum=MAX_PROCESSES)
    clean: CleanOptions = field(default_factory=CleanOptions)


@dataclass
class Summary:
    """What was prepared: the manifest, and how long it took in seconds."""

    folder: Path
    manifest: Manifest
    seconds: float


Files = list[tuple[Path | None, Path]]
"""Source and target texts; without sources the corpus has one language."""

Inputs = dict[str, Files]
Text = ParallelText | MonolingualText


def prepare_corpus(options: PreprocessOptions) -> Summary:
    """Read text of two languages or one and write a corpus folder; the same input and options give the same bytes.

    Raises:
        ConfigError: a file is missing, ``out`` exists, or the vocabulary does not fit the text.
        DataError: a file is damaged, not UTF-8, or sides differ in lines.
    """
    started = time.monotonic()
    inputs = _find_inputs(options)
    out = Path(options.out).resolve()
    settle(out)
    _check_out(out, options)
    try:
        with staged_folder(out, overwrite=options.overwrite) as folder:
            manifest = _write(folder, inputs, options)
            _check_out(out, options)  # another process may have written it meanwhile
    except OSError as error:
        if error.filename is None:  # whoever writes says where
            raise
        raise ConfigError(f"out={options.out}: cannot be written ({error.strerror})") from error
    return Summary(Path(options.out), manifest, time.monotonic() - started)


def _check_out(out: Path, options: PreprocessOptions) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not options.overwrite:
        raise ConfigError(f"out={options.out} exists already; choose another folder or give overwrite=true")
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"out={options.out} exists and is not a corpus (no {MANIFEST} in it): it is not overwritten")


def _find_inputs(options: PreprocessOptions) -> Inputs:
    """Files of every split, in the order in which the manifest lists the splits."""
    if options.source == options.target:
        raise ConfigError(f"source={options.source} and target={options.target} must differ")
    prefixes = {"train": _prefixes(options.train, "train"), "valid": [options.valid], **_test_sets(options.test)}
    return {
        split: [
            (None if options.source is None else find_text(p, options.source), find_text(p, options.target))
            for p in found
        ]
        for split, found in prefixes.items()
    }


def _prefixes(value: object, key: str) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(p, str) and p for p in found):
        raise ConfigError(f"{key}={value} must be a prefix or a list of prefixes: {key}=raw/{key} or {key}=[a,b]")
    return found


def _test_sets(value: object) -> dict[str, list[str]]:
    """Names of the test splits and their prefixes."""
    if value is None or value == []:
        return {}
    if isinstance(value, Mapping):
        for name in value:
            if not SPLIT_NAME.fullmatch(str(name)) or name in ("train", "valid"):
                raise ConfigError(f"test: {name!r} cannot name a test set; use letters, digits, '_', '.' and '-'")
        return {str(name): _prefixes(prefix, f"test.{name}") for name, prefix in value.items()}
    return {f"test{i or ''}": [prefix] for i, prefix in enumerate(_prefixes(value, "test"))}


def _write(folder: Path, inputs: Inputs, options: PreprocessOptions) -> Manifest:
    vocabularies = _vocabularies(inputs["train"], options)
    vocabularies.save(folder)
    settings = {
        "clean": asdict(options.clean),
        "vocabulary": "reused" if options.vocabulary else _training(options),
    }
    manifest = Manifest(
        FORMAT, VERSION, options.source, options.target, vocabulary_entry(vocabularies), _plain(settings)
    )
    entries = {}
    for split in sorted(inputs, key=lambda name: name == "train"):  # the small ones first: mistakes show early
        entries[split] = _write_split(folder, split, inputs[split], vocabularies, options)
    manifest.splits = {split: entries[split] for split in inputs}
    manifest.write(folder)
    return manifest


def _plain(value: Any) -> Any:
    """Values that JSON can hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)


def _training(options: PreprocessOptions) -> dict[str, Any]:
    return {
        "vocab_size": options.vocab_size,
        "vocab_type": options.vocab_type,
        "character_coverage": options.character_coverage,
        "byte_fallback": options.byte_fallback,
        "normalisation": options.normalisation,
        "vocab_sentences": options.vocab_sentences,
    }


def _read(split: str, what: str, files: Files, done: list[Text]) -> Iterator[tuple[str, str]]:
    """Pairs of all files of a split, one after the other, with a progress bar.

    Args:
        split: its name.
        what: is done, for the bar.
        files: of both sides.
        done: takes every pair of files that was read to its end.
    """
    with ExitStack() as stack:
        texts: list[Text] = [_open(source, target, stack) for source, target in files]
        bar = stack.enter_context(
            tqdm(total=sum(t.size for t in texts), desc=f"{what} {split}", unit="B", unit_scale=True, disable=None)
        )
        before = lines = 0
        for text in texts:
            for pair in text:
                yield pair
                lines += 1
                if lines % 1000 == 0:
                    bar.set_postfix_str(f"{lines} lines", refresh=False)
                    bar.update(before + text.position - bar.n)
            before += text.size
            bar.update(before - bar.n)
            done.append(text)


def _open(source: Path | None, target: Path, stack: ExitStack) -> Text:
    try:
        if source is None:
            return stack.enter_context(MonolingualText(target))
        return stack.enter_context(ParallelText(source, target))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _vocabularies(files: Files, options: PreprocessOptions) -> VocabularyPair:
    """Train the vocabularies on a sample of the training text, or read those that are to be reused."""
    if options.vocabulary is not None:
        loaded = VocabularyPair.load(options.vocabulary)
        if options.source is None and not loaded.joint:
            raise ConfigError(
                f"vocabulary={options.vocabulary}: has one vocabulary a side; text of one language (without source=) "
                "needs a single one"
            )
        return loaded
    pairs = _sample(_read("train", "reading", files, []), options.vocab_sentences)
    training = VocabularyTraining(
        size=options.vocab_size,
        kind=options.vocab_type,
        character_coverage=options.character_coverage,
        byte_fallback=options.byte_fallback,
        normalisation=options.normalisation,
    )
    logger.info("training a vocabulary of up to %d pieces on %d pairs", options.vocab_size, len(pairs))

    def train(text: str, *sides: int) -> Vocabulary:
        return train_vocabulary((pair[side] for side in sides for pair in pairs), training, text=text)

    if options.source is None:
        return VocabularyPair.shared(train("the training text", 1))
    if options.joint:
        return VocabularyPair.shared(train("the training text", 0, 1))
    source, target = (f"the training text of {language}" for language in (options.source, options.target))
    return VocabularyPair(train(source, 0), train(target, 1), joint=False)


def _sample(pairs: Iterator[tuple[str, str]], size: int) -> list[tuple[str, str]]:
    """Some pairs, each equally likely (reservoir sampling: memory holds the sample only)."""
    rng = random.Random(SAMPLE_SEED)
    kept: list[tuple[str, str]] = []
    for number, pair in enumerate(pairs):
        if number < size:
            kept.append(pair)
        elif (place := rng.randrange(number + 1)) < size:
            kept[place] = pair
    return kept


def _write_split(
    folder: Path, split: str, files: Files, vocabularies: VocabularyPair, options: PreprocessOptions
) -> SplitEntry:
    clean = options.clean if split == "train" else None
    sides = SIDES if options.source is not None else ("target",)
    done: list[Text] = []
    chunks = chunked(_read(split, "writing", files, done))
    with SplitWriter(folder / split, vocabularies, sides) as writer:
        for chunk in encode_stream(chunks, vocabularies, clean, options.workers, sides):
            writer.add(chunk)
        entry = writer.finish()
    for side in sides:
        texts = [getattr(text, side) for text in done]
        entry.inputs[side] = [TextInput(t.path.name, t.lines, t.digest.hexdigest()) for t in texts]
    _check_entry(split, entry, files, vocabularies, options)
    return entry


def _check_entry(
    split: str, entry: SplitEntry, files: Files, vocabularies: VocabularyPair, options: PreprocessOptions
) -> None:
    if entry.lines == 0:
        raise DataError(f"split {split!r} has no pairs left of the {entry.read} that were read")
    largest = options.max_unknown_rate
    if largest is None:  # what is no word of the vocabulary is unknown: there is always some
        largest = 1.0 if options.vocab_type is VocabularyType.word else MAX_UNKNOWN_RATE
    for side in SIDES:
        rate = getattr(entry.unknown_rate, side)
        if rate > largest:
            vocabulary = getattr(vocabularies, side)
            first = _first_unknown([pair[SIDES.index(side)] for pair in files], vocabulary)
            remedies = ", or ".join([*_remedies(vocabulary, options), "raise max_unknown_rate"])
            raise ConfigError(
                f"{rate:.2%} of the {side} tokens ({getattr(options, side)}) of {split} are unknown (first {first}), "
                f"more than max_unknown_rate={largest:g}: {remedies}"
            )


def _first_unknown(paths: Iterable[Path | None], vocabulary: Vocabulary) -> str:
    """The first text that is unknown, and where it is."""
    for path in filter(None, paths):
        with TextFile(path) as text:
            for line in text:
                for index, piece in zip(vocabulary.encode(line), vocabulary.pieces(line)):
                    if index == UNK:
                        return f"{piece!r} in {path}:{text.lines}"
    raise AssertionError("unknown tokens were counted")


def _remedies(vocabulary: Vocabulary, options: PreprocessOptions) -> list[str]:
    """What makes fewer tokens unknown."""
    if options.vocabulary is not None:
        return [f"choose another vocabulary than that of {options.vocabulary}"]
    if options.vocab_type is VocabularyType.word:
        return ["raise vocab_size"] if len(vocabulary) == options.vocab_size else []
    coverage = ["raise character_coverage"] if options.character_coverage < 1 else []
    return [*coverage, "give byte_fallback=true"]
