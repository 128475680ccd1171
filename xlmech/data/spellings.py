"""All ways in which a value may be written in a language: what an answer is searched for."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from functools import cache

from babel.dates import format_date

from xlmech.data import languages as packs
from xlmech.data.languages import cldr
from xlmech.data.records import Record
from xlmech.metrics.matching import Comparison

_DATE_PATTERNS = (
    "medium",
    "long",
    "d MMMM y",
    "dd MMMM y",
    "d. MMMM y",
    "dd. MMMM y",
    "MMMM d, y",
    "MMMM d y",
    "MMM d, y",
    "d MMM y",
)
_NUMERIC_DATES = (
    *("{y}-{m}-{d}", "{y}/{m}/{d}", "{y}.{m}.{d}", "{y}年{m}月{d}日", "{y} 年 {m} 月 {d} 日", "{y}년 {m}월 {d}일"),
    *("{d}.{m}.{y}", "{d}. {m}. {y}", "{d}/{m}/{y}", "{m}/{d}/{y}", "{d}-{m}-{y}"),
)
"""Ways to write a date in numbers, with and without leading zeros."""


def spellings(record: Record, compare: Comparison, languages: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """List the ways in which a record's value may be written, by language; languages without any are left out.

    Args:
        record: The record.
        compare: How its attribute's values are compared; a date is written in all ways of a language.
        languages: Languages.
    """
    written: Mapping[str, tuple[str, ...]] = {
        code: tuple(
            dict.fromkeys(
                (
                    *([form] if (form := record.form(code)) else []),
                    *packs.find_language(code).spellings(record.attribute, record.value),
                    *(_dates(record.value, code) if compare == "date" else ()),
                    *(_surname_first(record.form(code)) if compare == "name" else ()),
                )
            )
        )
        for code in languages
    }
    return {code: forms for code, forms in written.items() if forms}


def _surname_first(name: str | None) -> tuple[str, ...]:
    """Write a name of several words with its last word in front, as lists of people do."""
    *given, surname = (name or "").split()
    return (" ".join((surname, *given)),) if given else ()


@cache
def _dates(value: str, code: str) -> tuple[str, ...]:
    """Write a date of ISO 8601 in the ways of a language; nothing for another text."""
    try:
        date = datetime.date.fromisoformat(value)
    except ValueError:
        return ()
    numeric = [
        pattern.format(y=date.year, m=f"{date.month:{month}}", d=f"{date.day:{day}}")
        for pattern in _NUMERIC_DATES
        for month in ("02", "")
        for day in ("02", "")
    ]
    words = [format_date(date, pattern, locale=code) for pattern in _DATE_PATTERNS] if cldr.knows(code) else []
    if code == "en":
        ordinal = f"{date.day}{_ordinal_ending(date.day)}"
        words += [
            f"{ordinal} {date:%B} {date.year}",
            f"{date:%B} {ordinal}, {date.year}",
            f"{date:%b}. {date.day}, {date.year}",
        ]
    return (*words, *numeric)


def _ordinal_ending(number: int) -> str:
    return "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
