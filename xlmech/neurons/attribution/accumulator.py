"""What is kept of attributions while they are made: sums per language, and a few neurons of each probe.

Nothing is dense over probes. The sums of a shard are its output: outputs add up, in the order of the shards and in float64, to
what one shard of all probes would have given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.data.probes import Probe
from xlmech.metrics.attribution import normalised_attribution
from xlmech.models.backends import Backend
from xlmech.neurons.neuron_set import NeuronSet

TOP_PER_PROBE = 200


class Tally:
    """Sums per language over some probes, and each probe's top and tracked neurons."""

    def __init__(self, probes: Sequence[Probe], backend: Backend, threshold: float, track: NeuronSet | None) -> None:
        self._asked, self._threshold = probes, threshold
        self._languages = list(dict.fromkeys(probe.query_language for probe in probes))
        shape = (len(self._languages), backend.n_layers, backend.d_mlp)
        self._sum, self._above = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.int32)
        tracked = [layer * backend.d_mlp + index for layer, index in track or ()]
        self._tracked = torch.tensor(tracked, dtype=torch.long)
        self._top: dict[int, pd.DataFrame] = {}
        self._errors: list[tuple[str, int, float]] = []

    def add(
        self,
        index: int,
        scores: Float[torch.Tensor, "layer neuron"],
        errors: Float[torch.Tensor, " layer"] | None = None,
    ) -> None:
        """Take the attributions of one probe, by its number, and its completeness errors."""
        scores, probe = scores.detach().float().cpu(), self._asked[index]
        normalised, language = normalised_attribution(scores), self._languages.index(probe.query_language)
        self._sum[language] += normalised
        self._above[language] += normalised > self._threshold
        best = scores.flatten().topk(min(TOP_PER_PROBE, scores.numel())).indices
        kept = torch.cat([best, self._tracked[~torch.isin(self._tracked, best)]])
        layers, neurons = kept // scores.shape[1], kept % scores.shape[1]
        effects = scores.flatten()[kept]
        self._top[index] = pd.DataFrame({"probe": probe.id, "layer": layers, "neuron": neurons, "effect": effects})
        if errors is not None:
            self._errors += [(probe.id, layer, float(error)) for layer, error in enumerate(errors)]

    def output(self) -> dict[str, Any]:
        """Tensors `sum` and `above` (language, layer, neuron); frames `languages`, `top` and `completeness`."""
        asked = [probe.query_language for probe in self._asked]
        counts = [asked.count(language) for language in self._languages]
        types: dict[str, Any] = {"probe": str, "layer": "int64", "error": "float64"}
        return {
            "sum": self._sum,
            "above": self._above,
            "languages": pd.DataFrame({"language": self._languages, "n": counts}),
            "top": pd.concat([self._top[index] for index in sorted(self._top)], ignore_index=True),
            "completeness": pd.DataFrame(self._errors, columns=list(types)).astype(types),
        }


@dataclass(frozen=True, kw_only=True)
class MergedTally:
    """Outputs of all shards put together; as of `AttributionResult`."""

    mean: Float[torch.Tensor, "language layer neuron"]
    share: Float[torch.Tensor, "language layer neuron"]
    top: pd.DataFrame
    completeness: pd.DataFrame


def merged_tally(outputs: Iterable[dict[str, Any]], languages: Sequence[str]) -> MergedTally:
    """Means and shares per language over all outputs, added up in their order; NaN where a language has no probe left."""
    total = above = torch.zeros(())
    count = torch.zeros(len(languages), 1, 1, dtype=torch.float64)
    tops, errors = list[pd.DataFrame](), list[pd.DataFrame]()
    for output in outputs:
        if not tops:
            total = torch.zeros(len(languages), *output["sum"].shape[1:], dtype=torch.float64)
            above = torch.zeros_like(total)
        for row, (language, n) in enumerate(output["languages"].itertuples(index=False)):
            place = languages.index(language)
            total[place] += output["sum"][row]
            above[place] += output["above"][row]
            count[place] += n
        tops.append(output["top"])
        errors.append(output["completeness"])
    return MergedTally(
        mean=(total / count).float(),
        share=(above / count).float(),
        top=pd.concat(tops, ignore_index=True),
        completeness=pd.concat(errors, ignore_index=True),
    )
