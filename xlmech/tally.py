"""What is kept of attributions while they are made: means and shares per language, and a few neurons of each probe."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float

from xlmech import metrics
from xlmech.backends import Backend
from xlmech.leakage import subject_hash
from xlmech.neurons import NeuronSet
from xlmech.probes import ProbeSet

TOP_PER_PROBE = 200


class Tally:
    """Running means and shares per language, and each probe's top and tracked neurons: nothing is dense over probes."""

    def __init__(self, probes: ProbeSet, backend: Backend, threshold: float, track: NeuronSet | None) -> None:
        self._asked, self._languages, self._threshold = probes, probes.languages, threshold
        shape = (len(self._languages), backend.n_layers, backend.d_mlp)
        self._sum, self._above = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        self._count = torch.zeros(len(self._languages), 1, 1, dtype=torch.float64)
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
        normalised, language = metrics.normalised_attribution(scores), self._languages.index(probe.query_language)
        self._sum[language] += normalised
        self._above[language] += normalised > self._threshold
        self._count[language] += 1
        best = scores.flatten().topk(min(TOP_PER_PROBE, scores.numel())).indices
        kept = torch.cat([best, self._tracked[~torch.isin(self._tracked, best)]])
        layers, neurons = kept // scores.shape[1], kept % scores.shape[1]
        effects = scores.flatten()[kept]
        self._top[index] = pd.DataFrame({"probe": probe.id, "layer": layers, "neuron": neurons, "effect": effects})
        if errors is not None:
            self._errors += [(probe.id, layer, float(error)) for layer, error in enumerate(errors)]

    @property
    def mean(self) -> Float[torch.Tensor, "language layer neuron"]:
        """Of the normalised attribution."""
        return (self._sum / self._count).float()

    @property
    def share(self) -> Float[torch.Tensor, "language layer neuron"]:
        """Of the probes above the threshold."""
        return (self._above / self._count).float()

    @property
    def top(self) -> pd.DataFrame:
        """Each probe's kept neurons, probes in their order."""
        return pd.concat([self._top[index] for index in range(len(self._asked))], ignore_index=True)

    @property
    def completeness(self) -> pd.DataFrame:
        """One row per probe and layer."""
        return pd.DataFrame(self._errors, columns=["probe", "layer", "error"])

    @property
    def probes(self) -> pd.DataFrame:
        """One row per probe."""
        rows = [
            (probe.id, subject_hash(probe.record.subject), probe.query_language, probe.template)
            for probe in self._asked
        ]
        return pd.DataFrame(rows, columns=["probe", "subject", "query_language", "template"])
