"""Attributions per subject and language, for resampling; of the few neurons that a result keeps for every probe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xlmech.neurons.attribution.attribute import AttributionResult


def check_subjects(result: AttributionResult, name: str) -> None:
    """Raise ValueError unless the attributions list their probes; `name` says which these are."""
    if result.probes.empty:
        raise ValueError(
            f"the {name} attributions do not list their probes: an earlier version made them; attribute again"
        )


class SubjectScores:
    """Sums of normalised attributions per subject and language, of the neurons that are kept for any probe.

    Attributes:
        n_subjects: Number of subjects.
        units: (unit,) neurons, as layer * d_mlp + index, ascending.
        share_kept: Share of the probes for which each unit is kept.
        sums: (subject, language, unit) sums over a subject's probes; 0 for a probe for which a unit is not kept.
        counts: (subject, language) numbers of probes.
    """

    def __init__(
        self, values: pd.DataFrame, probes: pd.DataFrame, subjects: pd.Index[str], codes: Sequence[str], weight: float
    ) -> None:
        self._values = values
        self._probes = probes
        self._subjects = subjects
        self._codes = codes
        self._weight = weight
        self.n_subjects = len(subjects)
        self.units = np.sort(values.unit.unique())
        self.share_kept = (values.unit.value_counts() / max(1, len(probes))).to_dict()
        table = pd.crosstab(probes.subject, probes.query_language).reindex(
            index=subjects, columns=list(codes), fill_value=0
        )
        self.counts = table.to_numpy(dtype=float)
        self.sums = np.zeros((len(subjects), len(codes), len(self.units)), dtype=np.float32)
        indices = (
            subjects.get_indexer(pd.Index(values.subject)),
            pd.Index(codes).get_indexer(pd.Index(values.query_language)),
            np.searchsorted(self.units, values.unit.to_numpy()),
        )
        np.add.at(self.sums, indices, values.value.to_numpy())

    @classmethod
    def of(cls, result: AttributionResult, codes: Sequence[str], weight: float) -> SubjectScores:
        """Make the scores of a result, which always keeps a probe's largest attribution."""
        frame = result.top.merge(result.probes, on="probe")
        largest = frame.groupby("probe").effect.transform("max")
        frame = frame.assign(
            value=np.where(largest > 0, frame.effect / largest.where(largest > 0, 1.0), 0.0),
            unit=frame.layer.astype(int) * result.mean.shape[2] + frame.neuron.astype(int),
        )
        return cls(frame, result.probes, pd.Index(result.probes.subject.unique()), codes, weight)

    def of_template(self, template: int) -> SubjectScores:
        """Return the scores of one template's probes, or of all if a language has no probe of the template."""
        probes, values = (frame[frame.template == template] for frame in (self._probes, self._values))
        if set(probes.query_language) != set(self._codes):
            return self
        return SubjectScores(values, probes, self._subjects, self._codes, self._weight)

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute (language, unit) means over the weighted subjects' probes; NaN for a language without any."""
        counts = weights @ self.counts
        sums = weights.astype(np.float32) @ self.sums.reshape(self.n_subjects, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._weight * sums.reshape(len(self._codes), -1) / counts[:, None])
