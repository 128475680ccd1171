"""Kinds of data ("attributes"): how their values are asked for and compared. Data, not code.

salary_band = Attribute(
name="salary_band",
questions={"en": ["What is the salary band of {subject}?"], "pl": ["Jaki jest przedział płac osoby {subject}?"]},
)
records = load_records("people.csv", kinds=[salary_band])
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from xlmech.checks import hint
from xlmech.data.languages import language_code
from xlmech.data.languages.pack import check_template, faults_of, one_sentence, read_text
from xlmech.metrics.matching import Comparison

Severity = Literal["identifier", "contact", "attribute"]
_Lines = Annotated[tuple[str, ...], BeforeValidator(lambda lines: (lines,) if isinstance(lines, str) else lines)]
_Name = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$")]


class Attribute(BaseModel):
    """A kind of data.

    Attributes:
        name: What records call it.
        compare: How a value is searched in an answer (`xlmech.metrics.matching`).
        guessable: Whether an answer may hit the value by chance. A value that cannot be guessed is a leak when it is extracted
            once; any other counts only beyond what control people show.
        severity: Whether it names one person, reaches the person, or says something about the person.
        questions: Question templates with `{subject}`, by language; a language pack's where a language is absent.
        statements: Statement templates with `{subject}` before `{value}`, by language, for planting.
        values: Forms of each value, by language, which are also the candidates of an exposure; a language that is absent writes
            the value as its key, and a value that is absent is written alike in every language.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: _Name
    compare: Comparison = "text"
    guessable: bool = True
    severity: Severity = "attribute"
    questions: Mapping[str, _Lines] = Field(default_factory=dict)
    statements: Mapping[str, _Lines] = Field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)

    @field_validator("questions", "statements", "values")
    @classmethod
    def _check_codes(cls, by_language: Mapping[str, Any], info: Any) -> Mapping[str, Any]:
        of_values = (code for forms in by_language.values() for code in forms) if info.field_name == "values" else ()
        for code in of_values if info.field_name == "values" else by_language:
            if language_code(code) != code:
                raise ValueError(f"{code!r} is no language code as packs name it; write {language_code(code)!r}")
        return by_language

    @field_validator("questions", "statements")
    @classmethod
    def _check_templates(cls, templates: Mapping[str, tuple[str, ...]], info: Any) -> Mapping[str, tuple[str, ...]]:
        placeholders = ("{subject}",) if info.field_name == "questions" else ("{subject}", "{value}")
        for code, lines in templates.items():
            if not lines:
                raise ValueError(f"{code}: no template")
            for number, line in enumerate(lines):
                check_template(line, placeholders, where=f"{code}[{number}]")
        return templates

    if not TYPE_CHECKING:  # type checkers keep the signature that pydantic makes of the fields

        def __init__(self, **fields: Any) -> None:
            one_sentence(super().__init__, "Attribute", fields)

        __init__.__pydantic_base_init__ = True  # `model_validate` reports field by field, as without it

    def __hash__(self) -> int:
        return hash(self.name)


@cache
def built_in_attributes() -> Mapping[str, Attribute]:
    """Return the kinds of data that xlmech knows, by name."""
    return MappingProxyType({kind.name: kind for kind in load_attributes(Path(__file__).with_name("attributes.toml"))})


def load_attributes(source: str | Path | Mapping[str, Mapping[str, Any]]) -> tuple[Attribute, ...]:
    """Read kinds of data from a TOML file, or a mapping from name to what `Attribute` holds.

    Raises:
        ValueError: Not valid TOML, or a malformed kind (names file, kind and field).
        FileNotFoundError: No such file.
    """
    if isinstance(source, Mapping):
        where, tables = "attributes", source
    else:
        path = Path(source)
        where = path.name
        if not path.is_file():
            raise FileNotFoundError(f"no file of attributes at {path}")
        try:
            tables = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{where}: not valid TOML: {error}") from error
    kinds = []
    for name, fields in tables.items():
        if not isinstance(fields, Mapping):
            raise ValueError(f"{where}: {name}: expected a table of {', '.join(Attribute.model_fields)}")
        try:
            kinds.append(Attribute.model_validate({"name": name, **fields}))
        except ValidationError as error:
            raise ValueError(f"{where}: {name}: {faults_of(error)}") from error
    return tuple(kinds)


def all_attributes(kinds: Iterable[Attribute] = ()) -> dict[str, Attribute]:
    """Return the kinds of data by name: those that xlmech knows, and `kinds`, which go before them.

    Raises:
        ValueError: Two of `kinds` have one name, or it is no list of `Attribute`.
    """
    own: dict[str, Attribute] = {}
    for kind in kind_list(kinds):
        if own.setdefault(kind.name, kind) is not kind:
            raise ValueError(f"attribute {kind.name!r} is defined twice")
    return {**built_in_attributes(), **own}


def kind_list(kinds: Iterable[Attribute]) -> tuple[Attribute, ...]:
    """Return kinds of data as a tuple; raise ValueError for anything but a list of them, such as a path or one alone."""
    if isinstance(kinds, Attribute):
        raise ValueError(f"kinds: expected a list of Attribute, got one alone; give a list: [{kinds.name}]")
    if isinstance(kinds, str | Path | Mapping):
        raise ValueError(
            f"kinds: expected a list of Attribute, got a {type(kinds).__name__}; read it by load_attributes"
        )
    given = tuple(kinds)
    if strange := [kind for kind in given if not isinstance(kind, Attribute)]:
        name = type(strange[0]).__name__
        raise ValueError(f"kinds: expected Attribute, got a {name} in the list; make it by Attribute(...)")
    return given


def unguessable(probes: pd.DataFrame) -> NDArray[np.bool_]:
    """(probe,) whether a value cannot be guessed: column `guessable` of a result's probes, else as the attribute's name says."""
    if "guessable" in probes:
        return ~probes["guessable"].to_numpy(dtype=bool)
    known = built_in_attributes()
    return np.array([name in known and not known[name].guessable for name in probes["attribute"]], dtype=bool)


def unknown_attribute(name: str, kinds: Mapping[str, Attribute]) -> str:
    """Say that an attribute is not known, and what makes it known."""
    return (
        f"unknown attribute {name!r}{hint(name, kinds)}; use one of {', '.join(kinds)}, define it (`attributes` of a config, or "
        "Attribute), or give its questions in columns question_<language>"
    )
