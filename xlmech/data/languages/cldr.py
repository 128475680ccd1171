"""Names of countries, capitals, months and languages in every language, from CLDR through Babel."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from babel import localedata

COUNTRIES = (
    *("AR", "AU", "BR", "CA", "CN", "DE", "EG", "ES", "FR", "GR", "IN", "IT"),
    *("JP", "KE", "MX", "NG", "NO", "PE", "PL", "RU", "SE", "TH", "AT", "PT"),
)
NATIVE_LANGUAGES = (
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


def translated_values(code: str, *, where: str) -> dict[str, dict[str, str]]:
    """Read the forms of countries, months and languages in a language, by attribute and value key.

    Raises:
        ValueError: CLDR does not know the language; the message begins with `where`.
    """
    data = _locale_data(code, where)
    months = data["months"]["stand-alone"]["wide"]
    return {
        "birth_country": {key: data["territories"][key] for key in COUNTRIES},
        "birth_month": {key: months[int(key)] for key in MONTHS},
        "native_language": {key: data["languages"][key] for key in NATIVE_LANGUAGES},
    }


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
