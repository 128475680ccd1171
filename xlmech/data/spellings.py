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
    "MMMM dd y",
    "MMM d, y",
    "MMM d y",
    "d MMM y",
    "d-MMM-y",
    "dd-MMM-y",
)
_NUMERIC_DATES = (
    *(
        "{y}-{m}-{d}",
        "{y}/{m}/{d}",
        "{y}.{m}.{d}",
        "{y}年{m}月{d}日",
        "{y} 年 {m} 月 {d} 日",
        "{y}년 {m}월 {d}일",
        "{y}년{m}월{d}일",
    ),
    *("{d}.{m}.{y}", "{d}. {m}. {y}", "{d}/{m}/{y}", "{m}/{d}/{y}", "{d}-{m}-{y}"),
)
"""Ways to write a date in numbers, with and without leading zeros."""


_LEVANTINE = (
    *("كانون الثاني", "شباط", "آذار", "نيسان", "أيار", "حزيران"),
    *("تموز", "آب", "أيلول", "تشرين الأول", "تشرين الثاني", "كانون الأول"),
)
"""Names of the months in Iraq, Jordan, Lebanon, Palestine and Syria."""
_ERAS = (
    ("令和", datetime.date(2019, 5, 1)),
    ("平成", datetime.date(1989, 1, 8)),
    ("昭和", datetime.date(1926, 12, 25)),
    ("大正", datetime.date(1912, 7, 30)),
)
"""Japanese eras, the newest first."""


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
    """Write a name of several words with its last word in front, as lists of people do; also with its particle ("van")."""
    words = (name or "").split()
    starts = {len(words) - 1, 1 + max((n for n, word in enumerate(words[:-1]) if not word.islower()), default=-1)}
    return tuple(" ".join((*words[start:], *words[:start])) for start in sorted(starts) if start > 0)


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
    return (*words, *_own_ways(date, code), *numeric, f"{date:%Y%m%d}")


def _own_ways(date: datetime.date, code: str) -> list[str]:
    """Write a date as a language does beside CLDR's patterns: ordinals, words between, other names of the months."""
    day, year = date.day, date.year
    name = format_date(date, "MMMM", locale=code) if code in ("es", "pt", "it", "fr", "ar") else ""
    first = day == 1
    ways = {
        "en": [
            f"{ordinal} {middle}{date:%B} {year}"
            for ordinal in [f"{day}{_ordinal_ending(day)}"]
            for middle in ("", "of ")
        ]
        + [f"{date:%B} {day}{_ordinal_ending(day)}, {year}", f"{date:%b}. {day}, {year}"],
        "es": [
            f"{day} de {name} del {year}",
            *([f"1º de {name} de {year}", f"primero de {name} de {year}"] if first else []),
        ],
        "pt": [f"1º de {name} de {year}"] if first else [],
        "it": [f"{day} {name} del {year}", *([f"1º {name} {year}", f"1° {name} {year}"] if first else [])],
        "fr": [f"1er {name} {year}"] if first else [],
        "vi": [f"{day} tháng {date.month} năm {year}", f"{day} tháng {date.month}, {year}"],
        "ar": [
            f"{day}{of}{month}{middle}{year}"
            for month in (name, _LEVANTINE[date.month - 1])
            for of in (" ", " من ")
            for middle in (" ", " عام ", " سنة ")
        ],
        "ja": [
            f"{era}{year - start.year + 1 if year > start.year else '元'}年{date.month}月{day}日"
            for era, start in _ERAS
            if start <= date
        ][:1],
        "de": [f"{day}. Maerz {year}"] if date.month == 3 else [],
    }
    return ways.get(code, [])


def _ordinal_ending(number: int) -> str:
    return "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
