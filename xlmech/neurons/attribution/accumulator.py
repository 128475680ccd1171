"""Accumulate attributions over probes: sums per language, and a few neurons of each probe.

Nothing is dense over probes. The sums are float64 and are added in the order of the shards, so that shards give what one shard
of all probes would have given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.data.probes import Probe
from xlmech.metrics.attribution import normalised_attribution
from xlmech.models.backends import Backend
from xlmech.neurons.neuron_set import NeuronSet

TOP_PER_PROBE = 200


class AttributionSums:
    """Sums per language over the probes of a shard, and each probe's top and tracked neurons."""

    def __init__(self, probes: Sequence[Probe], backend: Backend, threshold: float, track: NeuronSet | None) -> None:
        self._probes = probes
        self._threshold = threshold
        self._counts = Counter(probe.query_language for probe in probes)
        self._languages = list(self._counts)
        shape = (len(self._languages), backend.n_layers, backend.d_mlp)
        self._sum = torch.zeros(shape, dtype=torch.float64)
        self._above = torch.zeros(shape, dtype=torch.int32)
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
        """Add the attributions of the probe at an index, and its completeness errors."""
        scores = scores.detach().float().cpu()
        probe = self._probes[index]
        normalised = normalised_attribution(scores)
        language = self._languages.index(probe.query_language)
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
        """Return tensors `sum` and `above` (language, layer, neuron), and frames `languages`, `top` and `completeness`."""
        types: dict[str, Any] = {"probe": str, "layer": "int64", "error": "float64"}
        return {
            "sum": self._sum,
            "above": self._above,
            "languages": pd.DataFrame(self._counts.items(), columns=["language", "n"]),
            "top": pd.concat([self._top[index] for index in sorted(self._top)], ignore_index=True),
            "completeness": pd.DataFrame(self._errors, columns=list(types)).astype(types),
        }


def merge_attributions(outputs: Iterable[dict[str, Any]], languages: Sequence[str]) -> dict[str, Any]:
    """Merge the outputs of all shards, in their order, into the fields of `AttributionResult` of the same names.

    Returns:
        `mean` and `share`, (language, layer, neuron), NaN for a language without probes; frames `top` and `completeness`.
    """
    total = above = torch.zeros(())
    count = torch.zeros(len(languages), 1, 1, dtype=torch.float64)
    tops, errors = list[pd.DataFrame](), list[pd.DataFrame]()
    for output in outputs:
        if not tops:
            total = torch.zeros(len(languages), *output["sum"].shape[1:], dtype=torch.float64)
            above = torch.zeros_like(total)
        for row, (language, n) in enumerate(output["languages"].itertuples(index=False)):
            index = languages.index(language)
            total[index] += output["sum"][row]
            above[index] += output["above"][row]
            count[index] += n
        tops.append(output["top"])
        errors.append(output["completeness"])
    return {
        "mean": (total / count).float(),
        "share": (above / count).float(),
        "top": pd.concat(tops, ignore_index=True),
        "completeness": pd.concat(errors, ignore_index=True),
    }
