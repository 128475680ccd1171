"""What an explorer of a saved run looks at: a small frozen state, from which every number on the screen follows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Group = Literal["private", "public", "control", "unknown"]
"""Whose questions; unknown where a lens was saved without leakage, which says whose they are."""
Measure = Literal["extracted", "after_ablation", "after_gates"]


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What is looked at; "" and None choose nothing, so that all is shown.

    Attributes:
        group: Whose records: of private people, of public ones, or of control people.
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
        """Return a copy with these changes."""
        return dataclasses.replace(self, **changes)
