"""Language packs: how each language asks, states and names things. One TOML file per language.

A pack holds question and statement templates per attribute, the translated values that no public
database has (occupations), and neutral sentences that cost an intervention. Countries, months and
language names come from CLDR through Babel. Adding a language is adding one file here, or in the
folder that the environment variable `XLMECH_LANGUAGES` names.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from babel import localedata
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from xlmech.checks import hint

ATTRIBUTES = (
    "occupation",
    "birth_country",
    "birth_month",
    "native_language",
    "phone",
    "email",
    "street_address",
    "id_number",
)
TRANSLATED = ATTRIBUTES[:4]
"""Attributes whose value is written differently in each language; the others have one form for all."""
UNGUESSABLE = ("phone", "email", "street_address", "id_number")
"""Attributes whose value nothing but the training text can tell: extracted once is leaked. Any other may be a lucky guess."""
N_TEMPLATES = 3
"""Least number of questions and of statements per attribute."""
N_NEUTRAL = 20

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
"""Countries whose capital stands for a time zone, which makes its name known in every language."""


class LanguagePack(BaseModel):
    """One language's templates, value forms and neutral sentences, checked.

    Attributes:
        code: ISO 639 code, also the file's name.
        name: The language's English name.
        direction: Writing direction.
        spaces: Whether words are separated by spaces (decides how a form is searched in text).
        capital: Question with `{country}` for its capital, by which base knowledge is measured.
        neutral: Sentences without personal data, the same in every language; the first half judges, the rest may choose.
        questions: Per attribute, question templates with `{subject}`; the last is held out from planting and locating.
        statements: Per attribute, statement templates with `{subject}` before `{value}`.
        values: Per attribute, the form of each value key; those from CLDR are filled in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    name: str
    direction: Literal["ltr", "rtl"]
    spaces: bool
    capital: str
    neutral: tuple[str, ...]
    questions: Mapping[str, tuple[str, ...]]
    statements: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Mapping[str, str]]

    @field_validator("capital")
    @classmethod
    def _check_capital(cls, line: str) -> str:
        check_template(line, ("{country}",), where="the question")
        return line

    @field_validator("neutral")
    @classmethod
    def _enough_neutral(cls, sentences: tuple[str, ...]) -> tuple[str, ...]:
        if len(sentences) < N_NEUTRAL:
            raise ValueError(f"{len(sentences)} sentences; at least {N_NEUTRAL} are needed")
        return sentences

    @field_validator("questions", "statements")
    @classmethod
    def _check_templates(cls, templates: Mapping[str, tuple[str, ...]], info: object) -> Mapping[str, tuple[str, ...]]:
        wanted = ("{subject}",) if getattr(info, "field_name", "") == "questions" else ("{subject}", "{value}")
        _same_keys(templates, ATTRIBUTES)
        for attribute, lines in templates.items():
            if len(lines) < N_TEMPLATES:
                raise ValueError(f"{attribute}: {len(lines)} templates; at least {N_TEMPLATES} are needed")
            for number, line in enumerate(lines):
                check_template(line, wanted, where=f"{attribute}[{number}]")
        return MappingProxyType(dict(templates))

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
        for attribute, forms in values.items():
            if attribute not in TRANSLATED:
                raise ValueError(f"{attribute}: not an attribute with translated values ({', '.join(TRANSLATED)})")
            seen: dict[str, str] = {}
            for key, form in forms.items():
                if not form.strip():
                    raise ValueError(f"{attribute}.{key}: empty")
                if form in seen:
                    raise ValueError(f"{attribute}.{key}: the same form {form!r} as {seen[form]}")
                seen[form] = key
        return MappingProxyType({attribute: MappingProxyType(dict(forms)) for attribute, forms in values.items()})

    @property
    def judging(self) -> tuple[str, ...]:
        """The neutral sentences on which a cost is measured: none of them chooses neurons or trains anything by default."""
        return self.neutral[: N_NEUTRAL // 2]

    @property
    def choosing(self) -> tuple[str, ...]:
        """The neutral sentences that may choose neurons: none of them judges by default."""
        return self.neutral[N_NEUTRAL // 2 :]

    def form(self, attribute: str, value: str) -> str | None:
        """The surface form of a translated value in this language, or None where the pack has none."""
        return self.values.get(attribute, {}).get(value)


def check_template(line: str, placeholders: tuple[str, ...], *, where: str) -> None:
    """Raise ValueError unless every placeholder stands exactly once in `line`, in the given order, and no other."""
    for placeholder in placeholders:
        if line.count(placeholder) != 1:
            raise ValueError(f"{where}: {line!r} must hold {placeholder} exactly once")
    positions = [line.index(placeholder) for placeholder in placeholders]
    if positions != sorted(positions):
        raise ValueError(f"{where}: {line!r} must have {' before '.join(placeholders)}")
    rest = line
    for placeholder in placeholders:
        rest = rest.replace(placeholder, "")
    if "{" in rest or "}" in rest:
        raise ValueError(f"{where}: {line!r} has a brace that is no known placeholder ({', '.join(placeholders)})")


def available_languages() -> tuple[str, ...]:
    """Codes of the languages that have a pack, in alphabetical order."""
    return tuple(sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")}))


def load_language(code: str) -> LanguagePack:
    """The pack of one language.

    Raises:
        ValueError: No pack for `code` (names those there are), or the file is malformed (names file and key).
    """
    for folder in _folders():
        if (path := folder / f"{code}.toml").is_file():
            return read_pack(path)
    there = available_languages()
    raise ValueError(
        f"no language pack for {code!r}{hint(code, there)}; there are {', '.join(there)}. To add one, write {code}.toml "
        "after the example of languages/en.toml into the folder that XLMECH_LANGUAGES names"
    )


@cache
def read_pack(path: Path) -> LanguagePack:
    """Read and check one pack, and fill in the values that CLDR has.

    Raises:
        ValueError: The file is malformed; the message names the file and the key.
    """
    raw = _read_toml(path)
    if raw.get("code") != path.stem:
        raise ValueError(f"{path.name}: key 'code' is {raw.get('code')!r}; it must be the file's name, {path.stem!r}")
    if "values" not in raw:
        unknown = ", ".join(key for key in raw if key not in LanguagePack.model_fields) or "none"
        raise ValueError(f"{path.name}: values.occupation is missing; unknown key {unknown}")
    written = raw["values"]
    if not isinstance(written, dict) or not all(isinstance(forms, dict) for forms in written.values()):
        raise ValueError(f"{path.name}: values: expected tables [values.<attribute>] of key = form")
    if path.stem != "en":
        _check_keys_against_english(path, written.get("occupation", {}))
    elif not written.get("occupation"):
        raise ValueError(f"{path.name}: values.occupation is missing")
    values = _cldr_values(path)
    for attribute, forms in written.items():
        values[attribute] = values.get(attribute, {}) | forms
    try:
        return LanguagePack.model_validate({**raw, "values": values})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ValueError(f"{path.name}: {faults}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from error


def value_keys(attribute: str) -> tuple[str, ...]:
    """Keys of the values that a translated attribute may take; empty for the others."""
    if attribute not in TRANSLATED:
        return ()
    return tuple(load_language("en").values[attribute])


@cache
def capitals(code: str) -> Mapping[str, tuple[str, str]]:
    """Country code -> names of the country and of its capital in a language, of `CAPITALS`.

    Where CLDR has no name of its own for a city, it is written as in English (`Paris` in Swahili).

    Raises:
        ValueError: CLDR does not know the language.
    """
    data, found = _cldr(code, code), {}
    for country, zone in CAPITALS.items():
        city = data["time_zones"].get(zone, {}).get("city", zone.rpartition("/")[2])
        found[country] = (data["territories"][country], city)
    return MappingProxyType(found)


def _folders() -> list[Path]:
    own = os.environ.get("XLMECH_LANGUAGES")
    return [*([Path(own)] if own else []), Path(__file__).parent]


def _check_keys_against_english(path: Path, forms: Mapping[str, str]) -> None:
    missing = [key for key in value_keys("occupation") if key not in forms]
    if missing:
        raise ValueError(f"{path.name}: values.occupation lacks {', '.join(missing)}")


def _same_keys(found: Mapping[str, object], wanted: tuple[str, ...]) -> None:
    missing, unknown = [key for key in wanted if key not in found], [key for key in found if key not in wanted]
    if missing or unknown:
        raise ValueError(f"missing {', '.join(missing) or 'nothing'}; unknown {', '.join(unknown) or 'nothing'}")


def _cldr_values(path: Path) -> dict[str, dict[str, str]]:
    data = _cldr(path.stem, path.name)
    months = data["months"]["stand-alone"]["wide"]
    return {
        "birth_country": {key: data["territories"][key] for key in COUNTRIES},
        "birth_month": {key: months[int(key)] for key in MONTHS},
        "native_language": {key: data["languages"][key] for key in NATIVE_LANGUAGES},
    }


def _cldr(code: str, where: str) -> localedata.LocaleDataDict:
    """CLDR's data of a language."""
    if not localedata.exists(code):
        raise ValueError(f"{where}: CLDR (through Babel) does not know the language {code!r}")
    # A copy, because Babel 2.18 resolves aliases in place in data that languages share: after one look at
    # Japanese stand-alone months, Swahili has them too.
    return localedata.LocaleDataDict(copy.deepcopy(localedata.load(code)))
