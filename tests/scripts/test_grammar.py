"""The grammar of the built-in corpus: fixed meanings, both sides written out by hand from its rules."""

from __future__ import annotations

import pytest
from grammar import PRONOUNS, Case, Clause, NounPhrase, Sentence, Tense, Word, avendi, english, read_lexicon

DOG = Word("animal", "dog", "-", "pak", "f")
WOLF = Word("animal", "wolf", "wolves", "dor", "m")
LAMP = Word("thing", "lamp", "-", "zed", "n")
BAKER = Word("person", "baker", "-", "klon", "n")
GARDEN = Word("place", "garden", "-", "liv", "m")
STONE = Word("material", "stone", "-", "kor", "f")
ANNA = Word("name", "Anna", "-", "Anna", "f")
OLD = Word("quality", "old", "-", "gum", "-")
RED = Word("quality", "red", "-", "sil", "-")
SLEEP = Word("verb-alone", "sleep", "slept", "bov", "-")
SEE = Word("verb-being", "see", "saw", "ves", "-")
CARRY = Word("verb-thing", "carry", "carried", "gaz", "-")
GIVE = Word("verb-giving", "give", "gave", "vel", "-")
IN = Word("relation", "in", "-", "bet", "-")
SLOWLY = Word("manner", "slowly", "-", "prel", "-")
YESTERDAY = Word("time-past", "yesterday", "-", "bref", "-")
BECAUSE = Word("link", "because", "-", "kram", "-")

THE_DOG = NounPhrase(DOG, "the")
THE_DOGS = NounPhrase(DOG, "the", plural=True)
A_WOLF = NounPhrase(WOLF, "a")
THE_LAMP = NounPhrase(LAMP, "the")


def both(clause: Clause, **more: object) -> tuple[str, str]:
    sentence = Sentence(clause, **more)  # type: ignore[arg-type]
    return english(sentence), avendi(sentence)


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        # The verb goes last, and the object's article and noun take -n.
        (Clause(SEE, Tense.PRESENT, THE_DOG, A_WOLF), ("the dog sees a wolf.", "da pak ulon doren vesa.")),
        # The past agrees in gender: feminine, masculine, neuter, plural.
        (Clause(SLEEP, Tense.PAST, THE_DOG), ("the dog slept.", "da pak bovela.")),
        (Clause(SLEEP, Tense.PAST, A_WOLF), ("a wolf slept.", "ulo dor bovelo.")),
        (Clause(SLEEP, Tense.PAST, THE_LAMP), ("the lamp slept.", "de zed bovele.")),
        (Clause(SLEEP, Tense.PAST, THE_DOGS), ("the dogs slept.", "du paki bovelu.")),
        (Clause(SLEEP, Tense.FUTURE, THE_DOGS), ("the dogs will sleep.", "du paki bovoren.")),
        # Names have no article, but cases.
        (Clause(SEE, Tense.PAST, NounPhrase(ANNA), NounPhrase(ANNA)), ("Anna saw Anna.", "Anna Annaen vesela.")),
        # Negation is a prefix; time first, place before the object, manner before the verb.
        (
            Clause(
                CARRY, Tense.PAST, THE_DOG, THE_LAMP, None, (IN, NounPhrase(GARDEN, "this")), SLOWLY, YESTERDAY, True
            ),
            (
                "the dog did not carry the lamp slowly in this garden yesterday.",
                "bref da pak tios livas bet den zeden prel nigazela.",
            ),
        ),
        # The recipient takes the dative.
        (
            Clause(GIVE, Tense.FUTURE, NounPhrase(BAKER, "every"), THE_LAMP, THE_DOG),
            ("every baker will give the dog the lamp.", "seve klon dam pakom den zeden velore."),
        ),
    ],
)
def test_clauses_by_hand(clause: Clause, expected: tuple[str, str]) -> None:
    assert both(clause) == expected


@pytest.mark.parametrize(
    ("pronoun", "past", "present"),
    [("I", "bovelim", "bovam"), ("you", "bovelis", "bovas"), ("we", "bovelimi", "bovami"), ("they", "bovelu", "bovan")],
)
def test_pronouns_live_in_the_ending(pronoun: str, past: str, present: str) -> None:
    subject = NounPhrase(PRONOUNS[pronoun], plural=pronoun == "they")
    assert both(Clause(SLEEP, Tense.PAST, subject)) == (f"{pronoun} slept.", f"{past}.")
    assert both(Clause(SLEEP, Tense.PRESENT, subject)) == (f"{pronoun} sleep.", f"{present}.")


def test_adjectives_follow_in_reverse_and_agree() -> None:
    lamps = NounPhrase(LAMP, "this", plural=True, adjectives=(OLD, RED))
    lamp = NounPhrase(LAMP, "a", adjectives=(OLD, RED))
    assert both(Clause(SEE, Tense.PRESENT, lamps, lamp)) == (
        "these old red lamps see an old red lamp.",
        "tiu zedi silu gumu ulen zeden silen gumen vesan.",
    )


def test_compound_is_one_word_joined_by_the_first_nouns_gender() -> None:
    lamp = NounPhrase(LAMP, "the", modifier=STONE, adjectives=(RED,))
    wolves = NounPhrase(WOLF, "two", plural=True, modifier=GARDEN)
    assert both(Clause(CARRY, Tense.PRESENT, wolves, lamp)) == (
        "two garden wolves carry the red stone lamp.",
        "pel livodori den korazeden silen gazan.",
    )


def test_relative_clause_without_its_subject() -> None:
    dogs = NounPhrase(DOG, "the", plural=True, relative=Clause(SEE, Tense.PRESENT, object=A_WOLF))
    assert both(Clause(SLEEP, Tense.PAST, dogs)) == (
        "the dogs that see a wolf slept.",
        "du paki liru ulon doren vesan bovelu.",
    )


def test_relative_clause_without_its_object() -> None:
    wolf = NounPhrase(WOLF, "the", relative=Clause(SEE, Tense.PAST, subject=THE_DOG))
    assert both(Clause(SLEEP, Tense.PRESENT, wolf)) == (
        "the wolf that the dog saw sleeps.",
        "do dor liron da pak vesela bova.",
    )


def test_second_clause_comes_first() -> None:
    main = Clause(SLEEP, Tense.PAST, THE_DOG, time=YESTERDAY)
    second = Clause(SEE, Tense.PRESENT, A_WOLF, THE_DOGS)
    assert both(main, link=BECAUSE, second=second, time_first=True) == (
        "yesterday the dog slept because a wolf sees the dogs.",
        "ulo dor dun pakin vesa kram, bref da pak bovela.",
    )


def test_question() -> None:
    clause = Clause(CARRY, Tense.PRESENT, THE_DOG, NounPhrase(LAMP, plural=True))
    assert both(clause, question=True) == ("does the dog carry lamps?", "da pak zedin gaza vei?")
    assert both(Clause(SLEEP, Tense.PAST, THE_DOGS), question=True)[0] == "did the dogs sleep?"


@pytest.mark.parametrize(
    ("base", "expected"),
    [("carry", "carries"), ("buy", "buys"), ("watch", "watches"), ("wash", "washes"), ("see", "sees")],
)
def test_third_person(base: str, expected: str) -> None:
    verb = Word("verb-being", base, "-", "x", "-")
    assert both(Clause(verb, Tense.PRESENT, THE_DOG, A_WOLF))[0] == f"the dog {expected} a wolf."


def test_lexicon_is_sound() -> None:
    words = [word for kind in read_lexicon().values() for word in kind]
    assert len(words) > 250
    stems = [word.stem for word in words]
    assert len(set(stems)) == len(stems), "two words with one stem"
    nouns = {"person", "animal", "thing", "food", "place", "material", "name"}
    assert all(word.gender in ("m", "f", "n") for word in words if word.kind in nouns)
    assert len({(word.kind in nouns, word.english) for word in words}) == len(words) - 1  # adjective and verb: clean
    assert {case.value for case in Case} == {"", "n", "m", "s"}
