"""The one idea of "the same name" that every database shares."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import pytest

from storage.casefold import EXPANSION, fold

SURROGATES = range(0xD800, 0xE000)


@cache
def folds() -> dict[str, str]:
    """What every character that a text can hold folds to."""
    codes = (code for code in range(sys.maxunicode + 1) if code not in SURROGATES)
    return {character: fold(character) for character in map(chr, codes)}


@pytest.mark.parametrize(
    ("given", "folded"),
    [
        ("", ""),
        ("Ada", "ada"),
        ("Stra\u00dfe", "strasse"),
        ("STRA\u1e9eE", "strasse"),
        ("\u03a3\u0399\u03a3\u03a5\u03a6\u039f\u03a3", "σισυφοσ"),
        ("σισυφο\u03c2", "σισυφοσ"),
        ("\ufb03", "ffi"),
        ("\u0130", "i\u0307"),
        ("\u0131", "\u0131"),
        ("E\u0301", "\u00e9"),
        ("\u00c9", "\u00e9"),
        ("\u212b", "\u00e5"),
        ("\u0390", "\u0390"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("日本 x", "日本 x"),
    ],
)
def test_a_text_is_folded(given: str, folded: str) -> None:
    assert fold(given) == folded


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # An iota below, and the order of marks, by the Unicode Standard's note on D145.
        ("\u0345\u0301", "\u0301\u0345"),
        ("\u1fb4", "\u03b1\u0301\u0345"),
        ("\u1fb4", "\u0391\u0345\u0301"),
        ("q\u0307\u0323", "Q\u0323\u0307"),
        ("\uac01", "\u1100\u1161\u11a8"),
    ],
)
def test_texts_that_are_canonically_equal_fold_alike(one: str, other: str) -> None:
    assert fold(one) == fold(other)


def test_no_character_folds_to_more_than_is_allowed_for() -> None:
    assert max(len(folded) for folded in folds().values()) == EXPANSION


def test_what_is_folded_stays_as_it_is() -> None:
    changed = [folded for character, folded in folds().items() if folded != character]
    assert len(changed) > 1000
    assert [fold(folded) for folded in changed] == changed


def test_no_character_folds_otherwise_in_another_case_or_form() -> None:
    for character, folded in folds().items():
        for other in {character.casefold(), unicodedata.normalize("NFD", character)}:
            assert other == character or fold(other) == folded
