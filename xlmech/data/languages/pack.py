"""Language packs: read and checked from one TOML file per language.

A pack holds question and statement templates per attribute, neutral sentences, and the translated values that CLDR lacks
(occupations). To add a language, add a file here or in the folder that the environment variable `XLMECH_LANGUAGES` names.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xlmech.checks import hint
from xlmech.data.languages import cldr

TRANSLATED = ("occupation", "birth_country", "birth_month", "native_language")
"""Attributes whose value is written differently in each language; the others have one form for all."""
UNGUESSABLE = ("phone", "email", "street_address", "id_number")
"""Attributes whose value only the training text can tell: one extraction is a leak. Any other may be a lucky guess."""
ATTRIBUTES = (*TRANSLATED, *UNGUESSABLE)
N_TEMPLATES = 3
"""Least number of questions and of statements per attribute."""
N_NEUTRAL = 20


class LanguagePack(BaseModel):
    """One language's templates, value forms and neutral sentences.

    Attributes:
        code: ISO 639 code, also the file's name.
        name: The language's English name.
        direction: Writing direction.
        spaces: Whether words are separated by spaces (decides how a form is searched in text).
        capital: Question for the capital of `{country}`, which measures base knowledge.
        neutral: Sentences without personal data, the same in every language.
        questions: Question templates with `{subject}` per attribute; the last is held out from planting and locating.
        statements: Statement templates with `{subject}` before `{value}` per attribute.
        values: Form of each value key per attribute; those from CLDR are filled in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    name: str
    direction: Literal["ltr", "rtl"]
    spaces: bool
    capital: str
    neutral: tuple[str, ...] = Field(min_length=N_NEUTRAL)
    questions: Mapping[str, tuple[str, ...]]
    statements: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Mapping[str, str]]

    @field_validator("capital")
    @classmethod
    def _check_capital(cls, line: str) -> str:
        check_template(line, ("{country}",), where="the question")
        return line

    @field_validator("questions", "statements")
    @classmethod
    def _check_templates(cls, templates: Mapping[str, tuple[str, ...]], info: Any) -> Mapping[str, Any]:
        missing = ", ".join(key for key in ATTRIBUTES if key not in templates)
        unknown = ", ".join(key for key in templates if key not in ATTRIBUTES)
        if missing or unknown:
            raise ValueError(f"missing {missing or 'nothing'}; unknown {unknown or 'nothing'}")
        placeholders = ("{subject}",) if info.field_name == "questions" else ("{subject}", "{value}")
        for attribute, lines in templates.items():
            if len(lines) < N_TEMPLATES:
                raise ValueError(f"{attribute}: {len(lines)} templates; at least {N_TEMPLATES} are needed")
            for number, line in enumerate(lines):
                check_template(line, placeholders, where=f"{attribute}[{number}]")
        return MappingProxyType(dict(templates))

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
        for attribute, forms in values.items():
            if attribute not in TRANSLATED:
                raise ValueError(f"{attribute}: not an attribute with translated values ({', '.join(TRANSLATED)})")
            key_of: dict[str, str] = {}
            for key, form in forms.items():
                if not form.strip():
                    raise ValueError(f"{attribute}.{key}: empty")
                if key_of.setdefault(form, key) != key:
                    raise ValueError(f"{attribute}.{key}: the same form {form!r} as {key_of[form]}")
        return MappingProxyType({attribute: MappingProxyType(dict(forms)) for attribute, forms in values.items()})

    @property
    def judging(self) -> tuple[str, ...]:
        """The neutral sentences that measure a cost; by default they choose no neurons and train nothing."""
        return self.neutral[: N_NEUTRAL // 2]

    @property
    def choosing(self) -> tuple[str, ...]:
        """The neutral sentences that may choose neurons; by default they measure no cost."""
        return self.neutral[N_NEUTRAL // 2 :]

    def form(self, attribute: str, value: str) -> str | None:
        """Look up the form of a translated value in this language; None if the pack has none."""
        return self.values.get(attribute, {}).get(value)


def check_template(line: str, placeholders: tuple[str, ...], *, where: str) -> None:
    """Raise ValueError unless `line` has every placeholder exactly once, in the given order, and no other brace."""
    braces = re.findall(r"\{\w*\}|[{}]", line)
    for placeholder in placeholders:
        if braces.count(placeholder) != 1:
            raise ValueError(f"{where}: {line!r} must hold {placeholder} exactly once")
    if [brace for brace in braces if brace in placeholders] != list(placeholders):
        raise ValueError(f"{where}: {line!r} must have {' before '.join(placeholders)}")
    if len(braces) > len(placeholders):
        raise ValueError(f"{where}: {line!r} has a brace that is no known placeholder ({', '.join(placeholders)})")


def available_languages() -> tuple[str, ...]:
    """List the codes of the languages that have a pack, in alphabetical order."""
    return tuple(sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")}))


def load_language(code: str) -> LanguagePack:
    """Load the pack of one language.

    Raises:
        ValueError: No pack for `code`, or the file is malformed (names file and key).
    """
    for folder in _folders():
        if (path := folder / f"{code}.toml").is_file():
            return read_pack(path)
    codes = available_languages()
    raise ValueError(
        f"no language pack for {code!r}{hint(code, codes)}; there are {', '.join(codes)}. To add one, write {code}.toml "
        "after the example of languages/en.toml into the folder that XLMECH_LANGUAGES names"
    )


def _folders() -> list[Path]:
    extra = os.environ.get("XLMECH_LANGUAGES")
    return [*([Path(extra)] if extra else []), Path(__file__).parent]


@cache
def read_pack(path: Path) -> LanguagePack:
    """Read and check one pack, and fill in CLDR's values.

    Raises:
        ValueError: The file is malformed (names file and key).
    """
    try:
        raw = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: not valid TOML: {error}") from error
    if raw.get("code") != path.stem:
        raise ValueError(f"{path.name}: key 'code' is {raw.get('code')!r}; it must be the file's name, {path.stem!r}")
    written = raw.get("values", {})
    if not isinstance(written, dict) or not all(isinstance(forms, dict) for forms in written.values()):
        raise ValueError(f"{path.name}: values: expected tables [values.<attribute>] of key = form")
    if not (occupations := written.get("occupation")):
        unknown = ", ".join(key for key in raw if key not in LanguagePack.model_fields) or "none"
        raise ValueError(f"{path.name}: values.occupation is missing; unknown key {unknown}")
    english = occupations if path.stem == "en" else value_keys("occupation")
    if missing := [key for key in english if key not in occupations]:
        raise ValueError(f"{path.name}: values.occupation lacks {', '.join(missing)}")
    shared = cldr.translated_values(path.stem, where=path.name)
    values = {attribute: shared.get(attribute, {}) | written.get(attribute, {}) for attribute in shared | written}
    try:
        return LanguagePack.model_validate({**raw, "values": values})
    except ValidationError as error:
        raise ValueError(f"{path.name}: {faults_of(error)}") from error


def value_keys(attribute: str) -> tuple[str, ...]:
    """List the keys of the values that a translated attribute may take; none for the others."""
    return tuple(load_language("en").values[attribute]) if attribute in TRANSLATED else ()


def read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without a byte order mark; raise ValueError if it is not."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def faults_of(error: ValidationError, describe: Callable[[Any], str] = lambda fault: str(fault["msg"])) -> str:
    """List the fields that pydantic refused, and why."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {describe(fault)}" for fault in error.errors())
