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

_DATE_PATTERNS = ("medium", "long", "d MMMM y", "MMMM d, y", "MMMM d y")
_NUMERIC_DATES = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d")


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
                )
            )
        )
        for code in languages
    }
    return {code: forms for code, forms in written.items() if forms}


@cache
def _dates(value: str, code: str) -> tuple[str, ...]:
    """Write a date of ISO 8601 in the ways of a language; nothing for another text."""
    try:
        date = datetime.date.fromisoformat(value)
    except ValueError:
        return ()
    numeric = [date.strftime(pattern) for pattern in _NUMERIC_DATES]
    short = [f"{date.day}.{date.month}.{date.year}", f"{date.day}/{date.month}/{date.year}"]
    words = [format_date(date, pattern, locale=code) for pattern in _DATE_PATTERNS] if cldr.knows(code) else []
    return (*words, *numeric, *short)
