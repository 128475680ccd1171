"""Attributions of a result per subject and language, of the few neurons that it keeps of every probe: to be resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xlmech.neurons.attribution.attribute import AttributionResult


class SubjectScores:
    """Normalised attributions as sums per subject and language, of the neurons that any probe holds.

    Attributes:
        n_subjects: Number of subjects.
        units: (unit,) the neurons, as layer * d_mlp + index, ascending.
        known: Share of the probes that hold each unit.
        sums: (subject, language, unit) over each subject's probes; 0 where a probe does not hold a unit.
        counts: (subject, language) probes.
    """

    def __init__(
        self, values: pd.DataFrame, probes: pd.DataFrame, subjects: pd.Index[str], codes: Sequence[str], weight: float
    ) -> None:
        self._values, self._probes, self._subjects, self._codes, self._weight = values, probes, subjects, codes, weight
        self.n_subjects, self.units = len(subjects), np.sort(values.unit.unique())
        self.known = (values.unit.value_counts() / max(1, len(probes))).to_dict()
        table = pd.crosstab(probes.subject, probes.query_language).reindex(
            index=subjects, columns=list(codes), fill_value=0
        )
        self.counts = table.to_numpy(dtype=float)
        self.sums = np.zeros((len(subjects), len(codes), len(self.units)), dtype=np.float32)
        places = pd.Index(codes).get_indexer(pd.Index(values.query_language))
        at = (
            subjects.get_indexer(pd.Index(values.subject)),
            places,
            np.searchsorted(self.units, values.unit.to_numpy()),
        )
        np.add.at(self.sums, at, values.value.to_numpy())

    @classmethod
    def of(cls, found: AttributionResult, codes: Sequence[str], weight: float) -> SubjectScores:
        """Of a result; a probe's largest attribution is always among those it holds."""
        frame = found.top.merge(found.probes, on="probe")
        largest = frame.groupby("probe").effect.transform("max")
        frame = frame.assign(
            value=np.where(largest > 0, frame.effect / largest.where(largest > 0, 1.0), 0.0),
            unit=frame.layer.astype(int) * found.mean.shape[2] + frame.neuron.astype(int),
        )
        return cls(frame, found.probes, pd.Index(found.probes.subject.unique()), codes, weight)

    def of_template(self, template: int) -> SubjectScores:
        """The same of one template's probes; of all where a language has none of it."""
        probes, values = (frame[frame.template == template] for frame in (self._probes, self._values))
        if set(probes.query_language) != set(self._codes):
            return self
        return SubjectScores(values, probes, self._subjects, self._codes, self._weight)

    def means(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(language, unit) mean over the weighted subjects' probes; NaN for a language without any."""
        counts = weights @ self.counts
        sums = weights.astype(np.float32) @ self.sums.reshape(self.n_subjects, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._weight * sums.reshape(len(self._codes), -1) / counts[:, None])
