"""Records: one fact about one person each. Personal values are masked wherever a record is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from xlmech.checks import check_choices
from xlmech.data import languages as packs
from xlmech.data.languages import ATTRIBUTES, TRANSLATED

Group = Literal["private", "public", "control"]
MASK = "•••••"
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Form = Annotated[str, StringConstraints(pattern=r"\S")]


class Record(BaseModel):
    """One fact about one subject.

    Attributes:
        id: Unique name of the record; what results and figures show instead of the value.
        subject: The person's full name, as it stands in prompts.
        attribute: One of `xlmech.data.languages.ATTRIBUTES`.
        value: For translated attributes the pack's key (`"doctor"`, `"FR"`, `"3"`, `"sw"`), else the value itself.
        group: `private` (trained on in one language only), `public` (in every language), `control` (never trained on).
        forms: Surface forms by language, where they differ from the language packs'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: _Text
    subject: _Text
    attribute: str
    value: _Text
    group: Group = "private"
    forms: dict[str, _Form] = Field(default_factory=dict)

    @field_validator("attribute")
    @classmethod
    def _check_attribute(cls, attribute: str) -> str:
        check_attributes([attribute])
        return attribute

    def form(self, language: str) -> str | None:
        """Write the value in `language`; None if neither the record nor the language pack has it."""
        if language in self.forms:
            return self.forms[language]
        if self.attribute not in TRANSLATED:
            return self.value
        return packs.load_language(language).form(self.attribute, self.value)

    def __repr__(self) -> str:
        return f"Record({self.id}: {self.attribute} = {MASK}, {self.group})"

    __str__ = __repr__

    def __rich_repr__(self) -> Iterator[Any]:
        yield from (self.id, self.attribute, MASK, self.group)


def check_attributes(attributes: Iterable[str]) -> None:
    """Raise ValueError, naming the known ones, unless every attribute is known."""
    check_choices("attribute", attributes, ATTRIBUTES)


def subject_hash(subject: str) -> str:
    """Return what stands for a person's name in results."""
    return hashlib.blake2s(subject.encode(), digest_size=4).hexdigest()
