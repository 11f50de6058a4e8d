"""Write the built-in corpus: English and Avendi sentences by a grammar, as PREFIX.LANG files.

    python scripts/make_corpus.py out=raw/avendi

writes train, valid and test as ``.en`` and ``.qav`` (a code that ISO 639 leaves to private use). The grammar stands in
``grammar.py``, the words in ``lexicon.tsv``. The same seed gives the same files on every machine.

No sentence, on either side, occurs twice anywhere. One in eight of all pairs adjective + noun, compound of two nouns,
and verb + object is kept out of train: sentences of valid and test hold such pairs as chance has it, so that they ask
for words in company that training never showed.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from grammar import NUMERALS, PRONOUNS, Clause, NounPhrase, Sentence, Tense, Word, avendi, english, read_lexicon
from omegaconf import OmegaConf

from nmt.config import ConfigError, option, options_table, parse_options
from nmt.files import write_text

LANGUAGES = ("en", "qav")
HELD_OUT_SHARE = 8  # one pair of words in so many never occurs in train
MIN_WORDS, MAX_WORDS = 5, 14  # of the English side

THINGS = ("thing", "food")
BEINGS = ("person", "animal")
ADJECTIVES = {"person": ("temper", "quality"), "animal": ("temper", "quality")}  # others: quality alone
OBJECTS = {"verb-being": BEINGS, "verb-thing": ("thing",), "verb-food": ("food",), "verb-giving": THINGS}

T = TypeVar("T")


@dataclass
class Options:
    """Keys of this script."""

    out: str = option(help="folder to write")
    train: int = option(24000, "sentence pairs of train", minimum=1)
    valid: int = option(1000, "sentence pairs of valid", minimum=1)
    test: int = option(1000, "sentence pairs of test", minimum=1)
    seed: int = option(1, "seed of the random choices", minimum=0)


class Speaker:
    """Makes up meanings, one choice after the other.

    Args:
        seed: its text; choices are drawn from ``random()`` alone, which every Python version repeats.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random
        self._words = read_lexicon()

    def sentence(self) -> Sentence:
        """A statement (perhaps of two clauses) or a question."""
        question = self._chance(0.1)
        main = self._clause(allow_negation=not question)
        if not question and self._chance(0.25):
            second = replace(self._clause(), time=None)
            return Sentence(main, self._word("link"), second, time_first=bool(main.time) and self._chance(0.5))
        return Sentence(main, question=question, time_first=bool(main.time) and not question and self._chance(0.5))

    def _clause(self, *, allow_negation: bool = True) -> Clause:
        verb = self._word("verb-alone", "verb-being", "verb-thing", "verb-food", "verb-giving")
        tense = self._pick(list(Tense))
        place = (self._word("relation"), self._phrase("place")) if self._chance(0.25) else None
        return Clause(
            verb,
            tense,
            subject=self._subject(verb),
            object=self._object(verb),
            recipient=self._phrase(*BEINGS) if verb.kind == "verb-giving" else None,
            place=place,
            manner=self._word("manner") if self._chance(0.2) else None,
            time=self._word(f"time-{tense.value}") if self._chance(0.25) else None,
            negated=allow_negation and self._chance(0.15),
        )

    def _subject(self, verb: Word) -> NounPhrase:
        if self._chance(0.2):
            pronoun = self._pick(list(PRONOUNS.values()))
            return NounPhrase(pronoun, plural=pronoun.gender == "p")
        kinds = BEINGS if verb.kind in ("verb-alone", "verb-being", "verb-food") else ("person",)
        phrase = self._phrase(*kinds)
        if phrase.noun.kind != "name" and self._chance(0.2):
            return replace(phrase, relative=self._relative(with_subject=self._chance(0.4)))
        return phrase

    def _object(self, verb: Word) -> NounPhrase | None:
        return None if verb.kind == "verb-alone" else self._phrase(*OBJECTS[verb.kind])

    def _relative(self, *, with_subject: bool) -> Clause:
        """What a being did (``that chased the cat``), or what others did to it (``that the cat chased``)."""
        tense = self._pick(list(Tense))
        if with_subject:
            return Clause(self._word("verb-being"), tense, subject=self._phrase(*BEINGS))
        verb = self._word("verb-being", "verb-food")
        return Clause(verb, tense, object=self._object(verb))

    def _phrase(self, *kinds: str) -> NounPhrase:
        if "person" in kinds and self._chance(0.12):
            return NounPhrase(self._word("name"))
        noun = self._word(*kinds)
        determiner = self._pick(["the", "the", "the", "a", "a", "this", "every", "", self._pick(list(NUMERALS))])
        plural = determiner in ("", *NUMERALS) or (determiner in ("the", "this") and self._chance(0.4))
        qualities = ADJECTIVES.get(noun.kind, ("quality",))
        adjectives = [self._word(*qualities) for _ in range(self._pick([0, 0, 0, 1, 1, 2]))]
        modifier = self._modifier(noun) if self._chance(0.2) else None
        return NounPhrase(noun, determiner, plural, tuple(dict.fromkeys(adjectives)), modifier)

    def _modifier(self, noun: Word) -> Word | None:
        if noun.kind == "food":
            return None
        modifier = self._word("place" if noun.kind in BEINGS else "material")
        return None if modifier == noun else modifier

    def _word(self, *kinds: str) -> Word:
        return self._pick([word for kind in kinds for word in self._words[kind]])

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def _chance(self, share: float) -> bool:
        return self._random() < share


def pairs(sentence: Sentence) -> Iterator[tuple[str, str]]:
    """Pairs of English words that belong together: compound, adjective + noun, verb + object."""
    clauses = [clause for clause in (sentence.main, sentence.second) if clause]
    for clause in clauses:
        if clause.object:
            yield clause.verb.english, clause.object.noun.english
        place = clause.place[1] if clause.place else None
        for phrase in (clause.subject, clause.object, clause.recipient, place):
            if phrase is None:
                continue
            if phrase.relative:
                clauses.append(phrase.relative)
            for word in (phrase.modifier, *phrase.adjectives):
                if word:
                    yield word.english, phrase.noun.english


def is_held_out(pair: tuple[str, str]) -> bool:
    """Whether a pair of words is kept out of train."""
    return zlib.crc32(" ".join(pair).encode()) % HELD_OUT_SHARE == 0


def write_split(out: Path, name: str, count: int, seed: int, seen: set[str]) -> None:
    """Write ``count`` pairs whose sentences are not in ``seen``, and add them to it."""
    speaker = Speaker(f"{seed} {name}")
    lines: list[tuple[str, str]] = []
    while len(lines) < count:
        sentence = speaker.sentence()
        texts = english(sentence), avendi(sentence)
        too_long = not MIN_WORDS <= len(texts[0].split()) <= MAX_WORDS
        if too_long or seen.intersection(texts) or (name == "train" and any(map(is_held_out, pairs(sentence)))):
            continue
        seen.update(texts)
        lines.append(texts)
    for side, language in enumerate(LANGUAGES):
        write_text(out / f"{name}.{language}", "".join(f"{line[side]}\n" for line in lines))


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\nKeys (key=value):")
        for row in options_table(Options):
            print("  {} (default {}): {}".format(*row))
        return
    options = parse_options(Options, OmegaConf.from_dotlist(arguments))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name in ("test", "valid", "train"):  # in this order: another size of train leaves the test set as it is
        write_split(out, name, getattr(options, name), options.seed, seen)
    print(f"wrote {options.train} + {options.valid} + {options.test} pairs to {out}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        raise SystemExit(f"make_corpus: error: {error}") from error
