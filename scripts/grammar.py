"""The grammar of the built-in corpus: one meaning, said in plain English and in an invented language, Avendi.

Avendi differs from English where translation is hard:

* order: the verb closes its clause, adjectives follow their noun (the last said in English comes first), relations
  such as ``in`` follow their phrase, time comes first, and a ``because`` clause stands before the main one;
* agreement: article, adjective and relative pronoun agree with the noun in gender, number and case; the verb with its
  subject in person and number, and in the past in gender;
* compounding: ``stone house`` is one word, joined by the vowel of the first noun's gender;
* pronouns as subjects are left out: the verb's ending tells.

Gender belongs to each noun and cannot be read off its form, so a model has to learn it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

LEXICON = Path(__file__).with_name("lexicon.tsv")

VOWELS = {"m": "o", "f": "a", "n": "e", "p": "u"}
"""Vowel of articles and adjectives: a singular's gender, or plural."""

NUMERALS = {"two": "pel", "three": "torin", "four": "kem", "five": "lanu"}
DETERMINERS = ("the", "a", "this", "every", *NUMERALS)


class Case(Enum):
    """Grammatical case in Avendi; the value is the ending of articles and adjectives."""

    NOMINATIVE = ""
    ACCUSATIVE = "n"
    DATIVE = "m"
    LOCATIVE = "s"


NOUN_VOWELS = {Case.NOMINATIVE: "", Case.ACCUSATIVE: "e", Case.DATIVE: "o", Case.LOCATIVE: "a"}
"""Stands before the case ending of a singular noun; the plural has ``i`` throughout."""


class Tense(Enum):
    """When what a sentence tells happens."""

    PAST = "past"
    PRESENT = "present"
    FUTURE = "future"


ENDINGS = {
    Tense.PRESENT: {"1s": "am", "2s": "as", "1p": "ami", "p": "an", "m": "a", "f": "a", "n": "a"},
    Tense.PAST: {"1s": "elim", "2s": "elis", "1p": "elimi", "p": "elu", "m": "elo", "f": "ela", "n": "ele"},
    Tense.FUTURE: {"1s": "orem", "2s": "ores", "1p": "oremi", "p": "oren", "m": "ore", "f": "ore", "n": "ore"},
}
"""Ending of an Avendi verb by tense and agreement."""


@dataclass(frozen=True)
class Word:
    """A row of the lexicon."""

    kind: str
    english: str
    irregular: str
    stem: str
    gender: str


PRONOUNS = {
    text: Word("pronoun", text, "-", "", agreement)
    for text, agreement in (("I", "1s"), ("you", "2s"), ("we", "1p"), ("they", "p"))
}


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what belongs to it.

    Attributes:
        noun: a noun, name or pronoun.
        determiner: one of DETERMINERS; empty for names, pronouns and bare plurals.
        adjectives: in the order of English.
        modifier: first noun of a compound.
        relative: a clause without its subject or without its object: this phrase fills the gap.
    """

    noun: Word
    determiner: str = ""
    plural: bool = False
    adjectives: tuple[Word, ...] = ()
    modifier: Word | None = None
    relative: Clause | None = None

    @property
    def agreement(self) -> str:
        """What other words agree with: gender of a singular, ``p``, or a person (``1s``, ``2s``, ``1p``)."""
        return "p" if self.plural else self.noun.gender


@dataclass(frozen=True)
class Clause:
    """Who does what; ``subject`` or ``object`` is None in a relative clause, where the noun before it stands in."""

    verb: Word
    tense: Tense
    subject: NounPhrase | None = None
    object: NounPhrase | None = None
    recipient: NounPhrase | None = None
    place: tuple[Word, NounPhrase] | None = None
    manner: Word | None = None
    time: Word | None = None
    negated: bool = False


@dataclass(frozen=True)
class Sentence:
    """A main clause, a question, or a main clause with a second one (``link``: because, when, ...).

    Attributes:
        time_first: English puts the time before the subject (in Avendi it always stands there).
    """

    main: Clause
    link: Word | None = None
    second: Clause | None = None
    question: bool = False
    time_first: bool = False


def read_lexicon(path: Path = LEXICON) -> dict[str, list[Word]]:
    """Words by kind, in the order of the file."""
    words: dict[str, list[Word]] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            word = Word(*line.split("\t"))
            words.setdefault(word.kind, []).append(word)
    return words


# --- English ----------------------------------------------------------------------------------------------------------


def english(sentence: Sentence) -> str:
    """The sentence in English: lower-cased but for names, with its full stop."""
    words = _english_clause(sentence.main, question=sentence.question, time_first=sentence.time_first)
    if sentence.link and sentence.second:
        words += [sentence.link.english, *_english_clause(sentence.second)]
    return " ".join(words) + ("?" if sentence.question else ".")


def _english_clause(
    clause: Clause, head: NounPhrase | None = None, *, question: bool = False, time_first: bool = False
) -> list[str]:
    subject = clause.subject or head
    assert subject is not None, "only a relative clause has no subject of its own"
    auxiliary, verb = _english_verb(clause, subject.agreement, question=question)
    said = [] if clause.subject is None else _english_phrase(clause.subject)
    words = [*auxiliary, *said, verb] if question else [*said, *auxiliary, verb]
    for phrase in (clause.recipient, clause.object):
        words += [] if phrase is None else _english_phrase(phrase)
    words += [clause.manner.english] if clause.manner else []
    if clause.place:
        words += [clause.place[0].english, *_english_phrase(clause.place[1])]
    time = [clause.time.english] if clause.time else []
    return time + words if time_first else words + time


def _english_verb(clause: Clause, agreement: str, *, question: bool) -> tuple[list[str], str]:
    """Auxiliary (with its ``not``) and the verb."""
    base, third = clause.verb.english, agreement in ("m", "f", "n")
    negation = ["not"] if clause.negated else []
    if clause.tense is Tense.FUTURE:
        return ["will", *negation], base
    if clause.negated or question:
        present = "does" if third else "do"
        return ["did" if clause.tense is Tense.PAST else present, *negation], base
    if clause.tense is Tense.PAST:
        return [], clause.verb.irregular if clause.verb.irregular != "-" else f"{base}ed"
    return [], _add_s(base) if third else base


def _english_phrase(phrase: NounPhrase) -> list[str]:
    noun = phrase.noun.english
    if phrase.plural and phrase.noun.kind != "pronoun":
        noun = phrase.noun.irregular if phrase.noun.irregular != "-" else _add_s(noun)
    words = [adjective.english for adjective in phrase.adjectives]
    words += [phrase.modifier.english, noun] if phrase.modifier else [noun]
    determiner = phrase.determiner
    if determiner == "a" and words[0][0] in "aeiou":
        determiner = "an"
    if determiner == "this" and phrase.plural:
        determiner = "these"
    words = [determiner, *words] if determiner else words
    return words + (["that", *_english_clause(phrase.relative, phrase)] if phrase.relative else [])


def _add_s(word: str) -> str:
    """The plural of a noun or the third person of a verb."""
    if word.endswith(("s", "sh", "ch", "x", "o")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2] not in "aeiou" else f"{word}s"


# --- Avendi -----------------------------------------------------------------------------------------------------------


def avendi(sentence: Sentence) -> str:
    """The sentence in Avendi."""
    words = _avendi_clause(sentence.main)
    if sentence.link and sentence.second:
        words = [*_avendi_clause(sentence.second), f"{sentence.link.stem},", *words]
    return " ".join(words) + (" vei?" if sentence.question else ".")


def _avendi_clause(clause: Clause, head: NounPhrase | None = None) -> list[str]:
    subject = clause.subject or head
    assert subject is not None, "only a relative clause has no subject of its own"
    words = [clause.time.stem] if clause.time else []
    if clause.subject and clause.subject.noun.kind != "pronoun":
        words += _avendi_phrase(clause.subject, Case.NOMINATIVE)
    if clause.place:
        words += [*_avendi_phrase(clause.place[1], Case.LOCATIVE), clause.place[0].stem]
    words += _avendi_phrase(clause.recipient, Case.DATIVE) if clause.recipient else []
    words += _avendi_phrase(clause.object, Case.ACCUSATIVE) if clause.object else []
    words += [clause.manner.stem] if clause.manner else []
    negation = "ni" if clause.negated else ""
    return [*words, negation + clause.verb.stem + ENDINGS[clause.tense][subject.agreement]]


def _avendi_phrase(phrase: NounPhrase, case: Case) -> list[str]:
    vowel = VOWELS[phrase.agreement]
    words = _avendi_determiner(phrase, vowel + case.value)
    stem = phrase.noun.stem
    if phrase.modifier:
        stem = phrase.modifier.stem + VOWELS[phrase.modifier.gender] + stem
    words.append(stem + ("i" if phrase.plural else NOUN_VOWELS[case]) + case.value)
    words += [adjective.stem + vowel + case.value for adjective in reversed(phrase.adjectives)]
    if phrase.relative:
        gap = Case.NOMINATIVE if phrase.relative.subject is None else Case.ACCUSATIVE
        words += [f"lir{vowel}{gap.value}", *_avendi_clause(phrase.relative, phrase)]
    return words


def _avendi_determiner(phrase: NounPhrase, ending: str) -> list[str]:
    if phrase.determiner in NUMERALS:
        return [NUMERALS[phrase.determiner]]
    stems = {"": "", "the": "d", "a": "ul", "this": "ti", "every": "sev"}
    return [stems[phrase.determiner] + ending] if phrase.determiner else []
