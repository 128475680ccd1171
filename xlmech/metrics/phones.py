"""Write a phone number in the ways in which people and models write it, as regular expressions."""

from __future__ import annotations

import re
from functools import cache, lru_cache

import phonenumbers

LONG_NUMBER = 7
"""Digits from which a national number is told without its country and trunk prefix."""
_LONG_NATIONAL = 9
"""Digits from which a national number may follow a country's code without a plus; shorter ones end other numbers."""
_INTERNATIONAL = 10
"""Digits from which a number without a plus may begin with its country's code."""


@lru_cache(maxsize=65_536)
def patterns(form: str, separator: str) -> tuple[str, ...]:
    """Write the regular expressions of a number: as it is recorded, national and international.

    Args:
        form: The number as recorded, normalised; an extension ("ext. 12") is not searched.
        separator: Regular expression of what may stand between two digits.
    """
    form = _without_extension(form)
    digits = "".join(char for char in form if char.isdecimal())
    if not digits:
        return ()
    written = [rf"\+?{separator.join(digits)}"]
    for country, national in _readings(form, digits):
        spaced = separator.join(national)
        trunk = rf"(?:\(0\)|{'|'.join(sorted({'0', _trunk_prefix(country)} - {''}))})?{separator}"
        if country:
            written.append(rf"(?:\+|00)?{separator.join(country)}{separator}{trunk}{spaced}")
        elif len(national) >= LONG_NUMBER:
            mark = r"(?:\+|00)?" if len(national) >= _LONG_NATIONAL else r"(?:\+|00)"
            written.append(rf"{mark}(?:{_calling_codes()}){separator}{trunk}{spaced}")
        if len(national) >= LONG_NUMBER:
            written.append(f"{trunk}{spaced}")
    return tuple(dict.fromkeys(written))


def _without_extension(form: str) -> str:
    """Cut a number at the first sign that no number has, if a whole number stands before it."""
    number = re.split(r"[^\W\d_]|[#;]", form, maxsplit=1)[0]
    return number if sum(map(str.isdecimal, number)) >= LONG_NUMBER else form


def _readings(form: str, digits: str) -> tuple[tuple[str, str], ...]:
    """Split a number into country code ("" where it is national) and national number, in the ways in which it may be read."""
    if form.startswith("+") or digits.startswith("00"):
        return (_parsed(digits.removeprefix("00")) or ("", digits),)
    national = ("", digits.lstrip("0"))
    if digits.startswith("0") or len(digits) < _INTERNATIONAL:
        return (national,)
    of_trunk = [(code, digits.removeprefix(prefix)) for code, prefix in _other_trunks() if digits.startswith(prefix)]
    readings = [_parsed(digits, guess=True), *(_parsed(code + rest, guess=True) for code, rest in of_trunk)]
    return tuple(dict.fromkeys((*filter(None, readings), national)))


@lru_cache(maxsize=65_536)
def _parsed(digits: str, *, guess: bool = False) -> tuple[str, str] | None:
    """Split an international number; None where no country has such a number, or for a guess none of its length."""
    try:
        parsed = phonenumbers.parse("+" + digits, None)
    except phonenumbers.NumberParseException:
        return None
    if guess and not phonenumbers.is_possible_number(parsed):
        return None
    return str(parsed.country_code), phonenumbers.national_significant_number(parsed)


@cache
def _trunk_prefix(country: str) -> str:
    """Return what is dialled before a national number in a country: 0 nearly everywhere, 8 in Russia; "" where nothing is."""
    if not country:
        return ""
    region = phonenumbers.region_code_for_country_code(int(country))
    return phonenumbers.ndd_prefix_for_region(region, True) or ""


@cache
def _other_trunks() -> tuple[tuple[str, str], ...]:
    """List the countries with another trunk prefix than 0, and that prefix."""
    codes = map(str, phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
    return tuple((code, prefix) for code in codes if (prefix := _trunk_prefix(code)) not in ("", "0"))


@cache
def _calling_codes() -> str:
    return "|".join(sorted(map(str, phonenumbers.COUNTRY_CODE_TO_REGION_CODE), reverse=True))
