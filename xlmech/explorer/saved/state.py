"""What an explorer of a saved run looks at: a small frozen state, from which every number on the screen follows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from xlmech.checks import check_choices

Group = Literal["private", "public", "control", "others"]
"""Whose questions; others are those of the lens whose leakage was not measured, such as people from whom gates were learned."""
Measure = Literal["extracted", "after_ablation", "after_gates"]


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What is looked at; "" and None choose nothing, so that all is shown.

    Attributes:
        group: Whose records: of private people, of public ones, of control people, or of others.
        kind: Kind of data.
        language: Query language.
        record: Id of the record.
        layer: Layer of the model.
        measure: What the matrix shows: what was extracted, or what still was with neurons ablated or gates in place.
        reveal: Whether names and values are shown.
    """

    group: Group = "private"
    kind: str = ""
    language: str = ""
    record: str = ""
    layer: int | None = None
    measure: Measure = "extracted"
    reveal: bool = False

    def at(self, **changes: Any) -> SavedState:
        """Return a copy with these changes.

        Raises:
            ValueError: A field that a state does not have.
        """
        check_choices("field of the state", changes, [field.name for field in dataclasses.fields(self)])
        return dataclasses.replace(self, **changes)
