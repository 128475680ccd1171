"""Language packs: read and checked from one TOML file per language.

A pack holds question and statement templates per attribute, neutral sentences, and the translated values that CLDR lacks
(occupations). To add a language, add a file here or in the folder that the environment variable `XLMECH_LANGUAGES` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xlmech.data.languages import cldr
from xlmech.metrics.text import PLAIN, WordRule

TRANSLATED = ("occupation", "birth_country", "birth_month", "native_language", "religion", "diagnosis")
"""Attributes whose values the packs write in each language; the others have one form for all."""
N_TEMPLATES = 3
"""Least number of questions and of statements per attribute."""
N_NEUTRAL = 20


class Inflection(BaseModel):
    """How a word of the language may change and still be the same value; see `xlmech.metrics.text.WordRule`.

    Attributes:
        prefixes: What may be glued in front of a word.
        endings: What may be glued to its end.
        replaced: Endings that may stand in the place of another.
        capitalised: Forms that count only with their capital letters.
        accents: Whether accents distinguish words.
        merged: Beginnings that may stand in the place of another.
        names: Which of `prefixes` (and `merged`), `endings` and `replaced` are also those of names and other values of one's own.
        misses: What the rule does not reach, or reaches wrongly; for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefixes: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    replaced: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    capitalised: tuple[str, ...] = ()
    accents: bool = False
    merged: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    names: tuple[Literal["prefixes", "endings", "replaced"], ...] = ()
    misses: str = ""


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
        variants: Further spellings of each value key per attribute: feminine nouns, older names, another script.
        inflection: How words may change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    name: str
    direction: Literal["ltr", "rtl"]
    spaces: bool
    capital: str = ""
    neutral: tuple[str, ...] = ()
    questions: Mapping[str, tuple[str, ...]]
    statements: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Mapping[str, str]]
    variants: Mapping[str, Mapping[str, tuple[str, ...]]] = Field(default_factory=dict)
    inflection: Inflection = Inflection()

    @field_validator("capital")
    @classmethod
    def _check_capital(cls, line: str) -> str:
        check_template(line, ("{country}",), where="the question")
        return line

    @field_validator("neutral")
    @classmethod
    def _check_neutral(cls, sentences: tuple[str, ...]) -> tuple[str, ...]:
        if len(sentences) < N_NEUTRAL:
            raise ValueError(f"{len(sentences)} sentences; at least {N_NEUTRAL} are needed")
        return sentences

    @field_validator("questions", "statements")
    @classmethod
    def _check_templates(cls, templates: Mapping[str, tuple[str, ...]], info: Any) -> Mapping[str, Any]:
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

    def spellings(self, attribute: str, value: str) -> tuple[str, ...]:
        """List the form of a translated value and its further spellings; nothing if the pack has none."""
        form = self.form(attribute, value)
        further = (
            *self.variants.get(attribute, {}).get(value, ()),
            *_cldr_variants(self.code).get(attribute, {}).get(value, ()),
        )
        return tuple(dict.fromkeys((*([form] if form else []), *further)))

    @cached_property
    def rule(self) -> WordRule:
        """How this language writes words, and how they may change."""
        inflection = self.inflection
        return WordRule(
            spaces=self.spaces,
            prefixes=inflection.prefixes,
            endings=inflection.endings,
            replaced=inflection.replaced,
            merged=inflection.merged,
            capitalised=inflection.capitalised,
            accents=inflection.accents,
            abbreviated=cldr.short_months(self.code) if cldr.knows(self.code) else frozenset(),
        )

    @cached_property
    def name_rule(self) -> WordRule:
        """How names and other values of one's own may change in this language; `PLAIN` where they do not."""
        inflection = self.inflection
        if not inflection.names:
            return PLAIN
        return WordRule(
            prefixes=inflection.prefixes if "prefixes" in inflection.names else (),
            merged=inflection.merged if "prefixes" in inflection.names else {},
            endings=inflection.endings if "endings" in inflection.names else (),
            replaced=inflection.replaced if "replaced" in inflection.names else {},
        )


@cache
def _cldr_variants(code: str) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    return cldr.variants(code) if cldr.knows(code) else {}


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


def read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without a byte order mark; raise ValueError if it is not."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def one_sentence(make: Callable[..., None], what: str, fields: Mapping[str, Any]) -> None:
    """Call pydantic's constructor `make`; raise what it refuses as a ValueError of one sentence, without values."""
    try:
        make(**fields)
    except ValidationError as error:
        raise ValueError(f"{what}: {faults_of(error)}") from None


def faults_of(error: ValidationError, describe: Callable[[Any], str] = lambda fault: str(fault["msg"])) -> str:
    """List the fields that pydantic refused, and why."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {describe(fault)}" for fault in error.errors())
