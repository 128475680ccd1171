"""What an explorer looks at: a small frozen state, from which every number on the screen follows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from xlmech.checks import check_choices, check_list
from xlmech.neurons.neuron_set import Neuron

_PROMPT = ("record", "other", "language", "template")
"""What decides which tokens there are to select."""
Component = Literal["resid_post", "attn_out", "mlp_out"]


@dataclass(frozen=True, kw_only=True)
class ExplorerState:
    """What is looked at.

    Attributes:
        record: Id of the record.
        other: Id of the record whose run is patched, of the same attribute and another value; "" if there is none.
        languages: Languages in which the record is asked.
        language: The one of them that single-language panels show; the target of the flow.
        source: The one of them from which activations flow.
        template: Number of the question template (the wording).
        form: Language in whose form the value is scored; "" for each query language's own.
        component: Activation that the flow overwrites.
        layer: Selected layer, None for none.
        position: Selected token of a prompt, counted from 0, None for none.
        ablated: The neurons that are ablated.
        reveal: Whether names and values are shown.
    """

    record: str
    other: str
    languages: tuple[str, ...]
    language: str
    source: str
    template: int = 0
    form: str = ""
    component: Component = "resid_post"
    layer: int | None = None
    position: int | None = None
    ablated: frozenset[Neuron] = frozenset()
    reveal: bool = False

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("an explorer asks in one language at least; choose one")
        for name in ("language", "source"):
            if getattr(self, name) not in self.languages:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of the languages {', '.join(self.languages)}")

    def at(self, **changes: Any) -> ExplorerState:
        """Return a copy with these changes, and with those that they bring about.

        Language, source and form stay among the languages, and a token of another prompt is not selected.

        Raises:
            ValueError: A field that a state does not have.
        """
        check_choices("field of the state", changes, [field.name for field in dataclasses.fields(self)])
        if "ablated" in changes:
            changes["ablated"] = frozenset(changes["ablated"])
        if "languages" in changes:
            changes["languages"] = check_list("language", changes["languages"])
        languages = changes.get("languages", self.languages)
        if any(changes.get(name, getattr(self, name)) != getattr(self, name) for name in _PROMPT):
            changes.setdefault("position", None)
        if changes.get("form", self.form) not in ("", *languages):
            changes["form"] = ""
        for name in ("language", "source"):
            if languages and changes.get(name, getattr(self, name)) not in languages:
                changes[name] = languages[0]
        return dataclasses.replace(self, **changes)
