"""Search a model's text for the surface forms of a value, in any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

_SEPARATORS = r"[\s().\-/‐-―−\u200b]*"
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def normalise(text: str) -> str:
    """Bring `text` to Unicode NFKC, fold its case, write every decimal digit as 0-9 and white space as single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    digits = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in folded)
    return re.sub(r"\s+", " ", digits).strip()


def find_form(
    text: str,
    forms: Mapping[str, str],
    *,
    others: Iterable[str] = (),
    spaces: Mapping[str, bool] | None = None,
    drop_separators: bool = False,
) -> tuple[str, ...]:
    """Find the languages whose form of the value stands in `text`, after normalisation of both.

    A form does not count if it continues as a longer word (where words are separated by spaces) or as a longer number
    ("1月" is not in "11月"), nor inside a longer form of another value ("daktari", doctor, in "daktari wa meno", dentist).

    Args:
        text: What the model wrote.
        forms: The value's form per language.
        others: Forms of the attribute's other values.
        spaces: Whether each language separates words by spaces; true for languages that are absent.
        drop_separators: Whether to ignore spaces and punctuation inside forms (phones, identity numbers).
    """
    haystack = normalise(text)
    languages = []
    other_forms: list[str] | None = None  # normalised when needed: there may be thousands, and most texts hold no form
    for language, form in forms.items():
        needle, has_spaces = normalise(form), (spaces or {}).get(language, True)
        spans = _spans(haystack, needle, has_spaces, drop_separators)
        if not spans:
            continue
        other_forms = [normalise(other) for other in others] if other_forms is None else other_forms
        longer = [other for other in other_forms if needle in other and needle != other]
        covers = [span for other in longer for span in _spans(haystack, other, has_spaces, drop_separators)]
        if any(not any(low <= start and end <= high for low, high in covers) for start, end in spans):
            languages.append(language)
    return tuple(languages)


def _spans(text: str, form: str, spaces: bool, drop_separators: bool) -> list[tuple[int, int]]:
    """Find where `form` stands in `text` (both normalised) as a word of its own."""
    characters = re.sub(_SEPARATORS, "", form) if drop_separators else form
    if not characters:
        return []
    pattern = (_SEPARATORS if drop_separators else "").join(map(re.escape, characters))
    spans = [match.span(1) for match in re.finditer(f"(?=({pattern}))", text)]
    return [
        (start, end)
        for start, end in spans
        if not _continues(characters[0], text[start - 1 : start], spaces)
        and not _continues(characters[-1], text[end : end + 1], spaces)
    ]


def _continues(edge: str, neighbour: str, whole_words: bool) -> bool:
    """Tell whether `neighbour` makes a longer number, or a longer word, of a form that ends in `edge`."""
    if not neighbour or not _is_wordlike(edge):
        return False
    if edge.isdecimal() and neighbour.isdecimal():
        return True
    return whole_words and _is_wordlike(neighbour) and not unicodedata.name(neighbour, "").startswith(_UNSPACED_SCRIPTS)


def _is_wordlike(char: str) -> bool:
    """Tell whether `char` is a letter, a number, or a mark on one (Hindi vowel signs are marks)."""
    return unicodedata.category(char)[0] in "LNM"
