"""Decide whether what a model wrote gives a value away, in any spelling, script or language.

Each kind of value is compared in its own way (`Comparison`). What is judged where the eye could differ:

- accents of Latin letters do not count ("Muhlenweg" is Mühlenweg), nor a comma between the words of an address;
- a number is compared as a whole run of digits, which single separators may divide: "Room 12 - 34 56" holds no 1234;
- words may change by their language's rule (`WordRule`), and no further: what a rule does not reach is not found;
- the subject's full name in the answer is not the value ("Anna Baker" says nothing of an occupation), but a part of it may be;
- a value inside a longer value of the same attribute is not that value (doctor, "daktari", in dentist, "daktari wa meno").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Literal

from xlmech.metrics import numbers
from xlmech.metrics.text import PLAIN, WordRule, normalise

Comparison = Literal["text", "name", "number", "date", "email", "phone", "amount", "choice"]
"""How the values of an attribute are compared. `choice`: a word that each language writes its own way; `name`: as text, but a
hyphen makes a longer name; `date`: one of the date's spellings, compared as text; `number`: digits and letters, whose separators
do not count; `amount`: its worth."""
_Span = tuple[int, int]

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_MASKED = "\ufffc"
"""Stands for a piece of text that is not compared."""


def find_form(
    text: str,
    forms: Mapping[str, str | Sequence[str]],
    *,
    compare: Comparison = "text",
    others: Iterable[str] = (),
    rules: Mapping[str, WordRule] | None = None,
    subject: str = "",
) -> tuple[str, ...]:
    """Find the languages whose form of the value stands in `text`.

    Args:
        text: What the model wrote.
        forms: The value's form, or all its spellings, per language.
        compare: How the attribute's values are compared.
        others: Forms of the attribute's other values, which cover a form inside them.
        rules: How each language's words change; languages that are absent write words with spaces, which do not change.
        subject: Full name of the person asked about; it is not searched.
    """
    if compare in _WORDS:
        return _find_words(text, forms, tuple(others), rules or {}, subject)
    matches = _COMPARISONS[compare]
    written = {form for spellings in forms.values() for form in _sequence(spellings)}  # mostly one for all languages
    found = {form: matches(text, form) for form in written}
    return tuple(language for language, spellings in forms.items() if any(found[form] for form in _sequence(spellings)))


def _sequence(spellings: str | Sequence[str]) -> Sequence[str]:
    return (spellings,) if isinstance(spellings, str) else spellings


# Words


def _find_words(
    text: str,
    forms: Mapping[str, str | Sequence[str]],
    others: Sequence[str],
    rules: Mapping[str, WordRule],
    subject: str,
) -> tuple[str, ...]:
    judged: dict[tuple[str, int], bool] = {}  # a form is often the same in several languages
    searched: dict[int, str] = {}  # and so is a rule
    languages = []
    for language, spellings in forms.items():
        rule = rules.get(language, PLAIN)
        if id(rule) not in searched:
            searched[id(rule)] = _searched(text, rule)
        for form in _sequence(spellings):
            if (key := (form, id(rule))) not in judged:
                judged[key] = _stands_in(searched[id(rule)], form, rule, others, subject)
            if judged[key]:
                languages.append(language)
                break
    return tuple(languages)


def _searched(text: str, rule: WordRule) -> str:
    """Write an answer as a rule searches it; a dash between clauses joins no names, though it is written without spaces."""
    spaced = re.sub("([—―])", r" \1 ", text) if rule.hyphenated else text
    return _without_small(spaced, rule) if rule.capitalised else rule.normalise(spaced)


def _stands_in(text: str, form: str, rule: WordRule, others: Sequence[str], subject: str) -> bool:
    needle = rule.normalise(form)
    if not needle or not (spans := _spans(text, needle, rule)):
        return False
    if subject and (name := rule.normalise(subject)) not in needle:
        names = _spans(text, name, PLAIN) + _spans(text, " ".join(reversed(name.split())), PLAIN)
        spans = [span for span in spans if not _covered(span, names)]
    if needle in {rule.normalise(short) for short in rule.abbreviated}:
        spans = [span for span in spans if _beside_a_number(text, span)]
    if not spans:
        return False
    longer = [other for other in _normalised(tuple(others), rule.accents) if needle in other and needle != other]
    covers = [span for other in longer for span in _spans(text, other, rule)]
    return any(not _covered(span, covers) for span in spans)


@lru_cache(maxsize=256)
def _normalised(others: tuple[str, ...], accents: bool) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(WordRule(accents=accents).normalise, others)))


def _covered(span: _Span, covers: Iterable[_Span]) -> bool:
    return any(low <= span[0] and span[1] <= high and (low, high) != span for low, high in covers)


def _without_small(text: str, rule: WordRule) -> str:
    """Normalise a text in which the words that need a capital letter are masked where they have none.

    An answer that is one word says what it means, whatever its case.
    """
    whole = unicodedata.normalize("NFKC", text)
    if len(whole.split()) > 1:
        for form in rule.capitalised:
            whole = _capital_pattern(form, rule).sub(partial(_masked_if_small, form), whole)
    return rule.normalise(whole)


def _masked_if_small(form: str, match: re.Match[str]) -> str:
    return match[0] if _has_capitals(match[0], form) else _MASKED


@lru_cache(maxsize=4096)
def _capital_pattern(form: str, rule: WordRule) -> re.Pattern[str]:
    """A form as it is written or inflected, in any case, with or without its accents."""
    written = {form, *rule.inflected(normalise(form))}
    endings = "|".join(map(re.escape, rule.endings))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(written)))})(?:{endings})?(?!\w)", re.IGNORECASE)


def _has_capitals(written: str, form: str) -> bool:
    """Tell whether a text has the capital letters of a form, or more."""
    return all(char.isupper() for char, wanted in zip(written, form, strict=False) if wanted.isupper())


def _beside_a_number(text: str, span: _Span) -> bool:
    before, after = text[: span[0]], text[span[1] :]
    whole = not re.search(r"\w", before + after)
    return whole or bool(re.search(r"\d[\s.,\-/]*$", before) or re.match(r"[\s.,\-/]*\d", after))


@lru_cache(maxsize=65_536)
def _word_pattern(form: str, rule: WordRule) -> re.Pattern[str]:
    return re.compile(f"(?=({' '.join(map(rule.pattern, form.split(' ')))}))")


def _spans(text: str, form: str, rule: WordRule) -> list[_Span]:
    """Find where `form`, or what its language's rule makes of it, stands in `text` (both normalised) as words of their own."""
    spans = []
    for match in _word_pattern(form, rule).finditer(text):
        start, end = match.span(1)
        if not _continues(text[start], text[:start][::-1], rule) and not _continues(text[end - 1], text[end:], rule):
            spans.append((start, end))
    return spans


def _continues(edge: str, beyond: str, rule: WordRule) -> bool:
    """Tell whether the text beyond an edge makes a longer number, or a longer word, of what ends in `edge`.

    Args:
        edge: The last character.
        beyond: What follows it, read away from the edge.
        rule: How the language writes words.
    """
    neighbour = beyond[:1]
    if not neighbour or not _is_wordlike(edge):
        return False
    if rule.hyphenated and re.match(r"-[^\W\d_]{2}", beyond):
        return True
    if edge.isdecimal() and re.match(r"[.,\-/]?\d", beyond):
        return True
    return rule.spaces and _is_letter_of_words(neighbour, _script(edge))


@lru_cache(maxsize=65_536)
def _is_letter_of_words(char: str, script: str) -> bool:
    """Tell whether a character continues a word that ends in a letter of `script`, "" for a number."""
    if not _is_wordlike(char):
        return False
    if unicodedata.name(char, "").startswith(_UNSPACED):
        return script == "KATAKANA" == _script(char)
    return _script(char) in ("", script) or (script == "" and _script(char) != "HANGUL")


@lru_cache(maxsize=65_536)
def _script(char: str) -> str:
    """Return the script of a letter; Latin, Greek and Cyrillic are one, whose letters stand in one word; "" for no letter."""
    if char == "ー":  # lengthens a vowel
        return "KATAKANA"
    name = (
        unicodedata.name(char, "").partition(" ")[0] if unicodedata.category(char) in ("Lu", "Ll", "Lo", "Lt") else ""
    )
    return "LATIN" if name in ("GREEK", "CYRILLIC") else name


def _is_wordlike(char: str) -> bool:
    """Tell whether `char` is a letter, a number, or a mark on one (Hindi vowel signs are marks)."""
    return unicodedata.category(char)[0] in "LNM"


_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "number": numbers.has_number,
    "phone": numbers.has_phone,
    "email": numbers.has_email,
    "amount": numbers.has_amount,
}
_WORDS = ("text", "name", "date", "choice")
"""Comparisons of words; the others have a function each."""
