"""The one idea of "the same name" that every database shares.

Databases disagree about case: one folds ASCII only, another by its collation, a third by its
locale. Byline folds here and stores the result beside the name, so that a database only ever
compares code points.
"""

import unicodedata

# Folding one character gives at most three: U+0390 does.
EXPANSION = 3


def fold(text: str) -> str:
    """Returns the form in which two texts are equal if they differ by case alone.

    The canonical caseless match of the Unicode Standard, section 3.13, D145: normalised, folded in
    full (`ß` is `ss`), and normalised again, so that accents compare equal however they are
    composed. No locale takes part: `I` is `i`, and the dotted `İ` is neither.
    """
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", decomposed.casefold())
