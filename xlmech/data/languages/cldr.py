"""Names of countries, capitals, months and languages in every language, from CLDR through Babel."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from babel import localedata

CANDIDATE_COUNTRIES = (
    *("AR", "AU", "BR", "CA", "CN", "DE", "EG", "ES", "FR", "GR", "IN", "IT"),
    *("JP", "KE", "MX", "NG", "NO", "PE", "PL", "RU", "SE", "TH", "AT", "PT"),
)
CANDIDATE_LANGUAGES = (
    *("ar", "ro", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi"),
    *("hu", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sw", "th", "tr", "zh"),
)
MONTHS = tuple(str(month) for month in range(1, 13))
CAPITALS = {
    "AT": "Europe/Vienna", "BE": "Europe/Brussels", "CU": "America/Havana", "DE": "Europe/Berlin",
    "DK": "Europe/Copenhagen", "EG": "Africa/Cairo", "ES": "Europe/Madrid", "FI": "Europe/Helsinki", "FR": "Europe/Paris",
    "GB": "Europe/London", "GR": "Europe/Athens", "HU": "Europe/Budapest", "IE": "Europe/Dublin", "IR": "Asia/Tehran",
    "IT": "Europe/Rome", "JP": "Asia/Tokyo", "KE": "Africa/Nairobi", "KR": "Asia/Seoul", "NO": "Europe/Oslo",
    "PE": "America/Lima", "PL": "Europe/Warsaw", "PT": "Europe/Lisbon", "RU": "Europe/Moscow", "SE": "Europe/Stockholm",
    "TH": "Asia/Bangkok",
}  # fmt: skip
"""Countries whose capital names a time zone, so that CLDR has its name in every language."""


CANDIDATES = {
    "birth_country": CANDIDATE_COUNTRIES,
    "birth_month": MONTHS,
    "native_language": CANDIDATE_LANGUAGES,
}
"""Values that invented people get, and among which a value is ranked; any other that CLDR knows may be recorded too."""
_NO_COUNTRIES = ("EU", "EZ", "QO", "UN", "XA", "XB", "ZZ")
_NO_LANGUAGES = ("mis", "mul", "root", "und", "zxx")
_OTHER_SCRIPT = {"zh": "zh_Hant"}
"""Languages whose other script CLDR has as a locale of its own."""


def knows(code: str) -> bool:
    """Tell whether CLDR has names in a language."""
    return bool(re.fullmatch("[a-z]{2,3}", code)) and bool(localedata.exists(code))


def translated_values(code: str, *, where: str) -> dict[str, dict[str, str]]:
    """Read the forms of countries, months and languages in a language, by attribute and value key, the candidates first.

    Of two values of one form ("Moldavian" and "Romanian" in some languages) only the first has it.

    Raises:
        ValueError: CLDR does not know the language; the message begins with `where`.
    """
    data = _locale_data(code, where)
    names = {
        "birth_country": _countries(data),
        "birth_month": {key: data["months"]["stand-alone"]["wide"][int(key)] for key in MONTHS},
        "native_language": _languages(data),
    }
    values = {}
    for attribute, forms in names.items():
        keys = dict.fromkeys((*CANDIDATES[attribute], *forms))
        first = {forms[key]: key for key in reversed(keys) if key in forms}
        values[attribute] = {key: forms[key] for key in keys if key in forms and first[forms[key]] == key}
    return values


def variants(code: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read further spellings of the same values: inflected and short months, and names in the language's other script."""
    data = _locale_data(code, code)
    spellings: dict[str, dict[str, list[str]]] = {"birth_country": {}, "birth_month": {}, "native_language": {}}
    for context in ("format", "stand-alone"):
        for width in ("wide", "abbreviated"):
            for number, name in data["months"][context][width].items():
                spellings["birth_month"].setdefault(str(number), []).append(name)
    if other := _OTHER_SCRIPT.get(code):
        for attribute, forms in translated_values(other, where=other).items():
            for key, form in forms.items():
                spellings[attribute].setdefault(key, []).append(form)
    return {
        attribute: {key: tuple(dict.fromkeys(forms)) for key, forms in of_key.items()}
        for attribute, of_key in spellings.items()
    }


def short_months(code: str) -> frozenset[str]:
    """Return the months' abbreviations in a language, with and without their full stop, that are not their names too."""
    months = _locale_data(code, code)["months"]
    short = {name for context in months.values() for name in context["abbreviated"].values()}
    wide = {name for context in months.values() for name in context["wide"].values()}
    return frozenset((short | {name.rstrip(".") for name in short}) - wide)


def writes(code: str) -> tuple[str, bool]:
    """Return a language's writing direction, and whether it separates words by spaces."""
    data = _locale_data(code, code)
    return str(data.get("character_order", "left-to-right")), code not in ("ja", "zh", "yue", "th", "lo", "km", "my")


def _countries(data: Any) -> dict[str, str]:
    return {key: name for key, name in data["territories"].items() if len(key) == 2 and key not in _NO_COUNTRIES}


def regions(code: str) -> frozenset[str]:
    """Return the names of continents and their parts in a language ("South America")."""
    return frozenset(name for key, name in _locale_data(code, code)["territories"].items() if key.isdecimal())


def _languages(data: Any) -> dict[str, str]:
    return {key: name for key, name in data["languages"].items() if "_" not in key and key not in _NO_LANGUAGES}


@cache
def capitals(code: str) -> Mapping[str, tuple[str, str]]:
    """Map each country of `CAPITALS` to the names of the country and of its capital in a language.

    A city for which CLDR has no name in the language is written as in English (`Paris` in Swahili).

    Raises:
        ValueError: CLDR does not know the language.
    """
    data = _locale_data(code, code)
    zones = data["time_zones"]
    return MappingProxyType(
        {
            country: (data["territories"][country], zones.get(zone, {}).get("city", zone.rpartition("/")[2]))
            for country, zone in CAPITALS.items()
        }
    )


def _locale_data(code: str, where: str) -> localedata.LocaleDataDict:
    if not localedata.exists(code):
        raise ValueError(f"{where}: CLDR (through Babel) does not know the language {code!r}")
    # A copy, because Babel 2.18 resolves aliases in place in data that languages share: after one look at
    # Japanese stand-alone months, Swahili has them too.
    return localedata.LocaleDataDict(copy.deepcopy(localedata.load(code)))
