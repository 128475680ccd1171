"""Records: one fact about one person each. Personal values are masked wherever a record is shown."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator

from xlmech.data import languages as packs
from xlmech.data.languages import TRANSLATED
from xlmech.data.languages.pack import one_sentence

Group = Literal["private", "public", "control"]
MASK = "•••••"


def one_spelling(text: str) -> str:
    """Write a text in Unicode NFC with single spaces, so that one name is one person and one value one value."""
    return " ".join(unicodedata.normalize("NFC", text).split())


_Text = Annotated[
    str,
    StringConstraints(min_length=1),
    BeforeValidator(lambda text: one_spelling(text) if isinstance(text, str) else text),
]
_Form = Annotated[
    str, StringConstraints(pattern=r"\S"), AfterValidator(lambda form: unicodedata.normalize("NFC", form))
]
_Group = Annotated[Group, BeforeValidator(lambda group: group.strip().lower() if isinstance(group, str) else group)]


class Record(BaseModel):
    """One fact about one subject.

    Attributes:
        id: Unique name of the record; what results and figures show instead of the value.
        subject: The person's full name, as it stands in prompts.
        attribute: Kind of data; one of `xlmech.data.attributes.built_in_attributes`, or of one's own.
        value: For translated attributes the pack's key (`"doctor"`, `"FR"`, `"3"`, `"sw"`) or a value of one's own, else the
            value itself.
        group: `private` (trained on in one language only), `public` (in every language), `control` (never trained on).
        forms: Surface forms by language, beside the language packs'; the first to be scored.
        questions: Questions with `{subject}` by language, of this record alone.
        prompts: Text before the value as it stands in training data, by language ("Dear Ms Novak, your new PIN is").
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: _Text
    subject: _Text
    attribute: _Text
    value: _Text
    group: _Group = "private"
    forms: dict[str, _Form] = Field(default_factory=dict)
    questions: dict[str, _Form] = Field(default_factory=dict)
    prompts: dict[str, _Form] = Field(default_factory=dict)

    @field_validator("questions")
    @classmethod
    def _check_questions(cls, questions: dict[str, str]) -> dict[str, str]:
        for code, line in questions.items():
            if re.findall(r"\{\w*\}|[{}]", line) != ["{subject}"]:
                raise ValueError(f"{code}: a question must hold {{subject}} exactly once, and no other brace")
        return questions

    if not TYPE_CHECKING:  # type checkers keep the signature that pydantic makes of the fields

        def __init__(self, **fields: Any) -> None:
            one_sentence(super().__init__, "Record", fields)

        __init__.__pydantic_base_init__ = True  # `model_validate` reports field by field, as without it

    @property
    def is_own_value(self) -> bool:
        """Whether the value is none of the language packs', so that it is written alike where `forms` has nothing."""
        return self.attribute in TRANSLATED and packs.load_language("en").form(self.attribute, self.value) is None

    def form(self, language: str) -> str | None:
        """Write the value in `language`; None if neither the record nor the language pack has it."""
        if language in self.forms:
            return self.forms[language]
        if self.attribute not in TRANSLATED:
            return self.value
        if self.is_own_value:
            return self.value if packs.is_open(self.attribute) else None
        return packs.find_language(language).form(self.attribute, self.value)

    def __repr__(self) -> str:
        return f"Record({self.id}: {self.attribute} = {MASK}, {self.group})"

    __str__ = __repr__

    def __rich_repr__(self) -> Iterator[Any]:
        yield from (self.id, self.attribute, MASK, self.group)


def record_list(records: Iterable[Record]) -> tuple[Record, ...]:
    """Return records as a tuple.

    Raises:
        ValueError: Something else than a list of records: a path, a table, one record, rows as mappings.
    """
    if isinstance(records, str | Path) or hasattr(records, "columns") or hasattr(records, "column_names"):
        raise ValueError(
            f"records: expected a list of records, got a {type(records).__name__}; read it by load_records"
        )
    if isinstance(records, Record):
        raise ValueError("records: expected a list of records, got one Record alone; give a list: [record]")
    if isinstance(records, Mapping) or not isinstance(records, Iterable):
        raise ValueError(
            f"records: expected a list of records, got a {type(records).__name__}; make it a list of Record"
        )
    given = tuple(records)
    if strange := [record for record in given if not isinstance(record, Record)]:
        raise ValueError(
            f"records: expected a list of records, but {len(strange)} of {len(given)} are no Record, such as a "
            f"{type(strange[0]).__name__}; make each one by Record(...), or read a table by load_records"
        )
    return given


def subject_hash(subject: str) -> str:
    """Return what stands for a person's name in results."""
    return hashlib.blake2s(subject.encode(), digest_size=4).hexdigest()
