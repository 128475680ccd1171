"""Privacy neurons: the result of `locate_privacy_neurons`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.neurons.brief import neurons_brief
from xlmech.neurons.neuron_set import NeuronSet, pairs_of
from xlmech.storage.result import Result


def main_kind(languages: Sequence[str]) -> str:
    """Return the kind of the neurons that are ablated: `universal` or, of one language alone, `specific`."""
    return "universal" if len(languages) > 1 else "specific"


def one_language_note(languages: Sequence[str]) -> str:
    """Say what is undefined if a single language is asked, "" if several are."""
    if len(languages) > 1:
        return ""
    return (
        f"asked in {languages[0]} only: neurons of all languages (universal) and of this one alone (specific) cannot be "
        f"distinguished, so there are no universal ones; those chosen are specific[{languages[0]!r}]"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class PrivacyNeurons(Result):
    """Universal and language-specific privacy neurons, and the scores they were chosen by.

    Attributes:
        languages: Query languages, the order of `scores`.
        scores: (language, layer, neuron) private minus public normalised attribution; minus infinity for neurons left out.
        chosen: One row per chosen neuron: `kind` (`universal` or `specific`), `language` ("" for universal), `layer`,
            `neuron`, `score` (by which it was ranked).
        rule: Selection rule.
        model: Name of the model.
        options: The `LocateOptions` they were chosen with; empty where an earlier version saved the result.
    """

    kind: ClassVar[str] = "privacy_neurons"
    _brief = neurons_brief
    languages: tuple[str, ...]
    scores: torch.Tensor
    chosen: pd.DataFrame
    rule: str
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def universal(self) -> NeuronSet:
        """Neurons that act in every language; none if one language alone was asked, for which they are undefined."""
        return self._set(self.chosen[self.chosen.kind == "universal"])

    @property
    def specific(self) -> dict[str, NeuronSet]:
        """Neurons that act in one language only, by language; if it was asked alone, in others perhaps as well."""
        of_kind = self.chosen[self.chosen.kind == "specific"]
        return {language: self._set(of_kind[of_kind.language == language]) for language in self.languages}

    @property
    def main(self) -> NeuronSet:
        """The neurons that an audit ablates: the universal ones or, of one language alone, that language's."""
        return self._set(self.chosen[self.chosen.kind == main_kind(self.languages)])

    @property
    def main_name(self) -> str:
        """Name of `main` as a condition: `universal`, or for example `specific-en`."""
        kind = main_kind(self.languages)
        return kind if kind == "universal" else f"{kind}-{self.languages[0]}"

    @property
    def union(self) -> NeuronSet:
        """All chosen neurons: the universal and every language's."""
        return self._set(self.chosen)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per chosen neuron."""
        return self.chosen

    def headline(self) -> dict[str, str]:
        """Map each kind of neuron to how many were chosen."""
        counts = ", ".join(f"{language} {len(neurons)}" for language, neurons in self.specific.items())
        undefined = "undefined, since one language alone was asked" if len(self.languages) == 1 else ""
        return {"universal": undefined or f"{len(self.universal)} neurons", "specific": counts}

    def _set(self, rows: pd.DataFrame) -> NeuronSet:
        return NeuronSet(frozenset(pairs_of(rows)), self.scores.shape[1], self.scores.shape[2], self.model)
