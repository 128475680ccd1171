"""How far a choice of neurons rests on who happened to be asked: by other subjects, halves of them, and templates. Runs no model.

pool = pool_of(located, 2000)                                          # those that could have been chosen
private = attribute_neurons(model, private_probes, track=pool, ...)    # keeps every probe's effect of the pool
public = attribute_neurons(model, public_probes, track=pool, ...)
found = selection_stability(private, public, n_neurons=73, contrast=0.5)
found.summary()                                                        # Jaccard overlap with the whole choice, with intervals
found.neurons                                                          # how often each neuron is chosen again
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xlmech.metrics import resampling
from xlmech.metrics.similarity import jaccard
from xlmech.neurons.attribution.attribute import AttributionResult
from xlmech.neurons.evidence.subject_scores import SubjectScores
from xlmech.neurons.neuron_set import NeuronSet, overlap
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.options import CONTRAST
from xlmech.storage.result import Result

N_DRAWS = 500
_LEAST_SUBJECTS = 4
_Choice = frozenset[int]


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityResult(Result):
    """A choice of universal neurons, and what it becomes with others asked.

    Attributes:
        neurons: One row per neuron of the choice or of any draw: `layer`, `neuron`, `chosen` (by all subjects), `share` of the
            bootstrap draws that choose it, most often chosen first.
        draws: One row per comparison: `by`, `what`, `draw`, `jaccard`. By `subjects`, a bootstrap draw's choice with that of all;
            by `halves`, those of two disjoint halves of the subjects; by `templates`, those of two templates (`what` names them)
            in a bootstrap draw of subjects, draw -1 being all subjects.
        n_neurons: Size of a choice.
        tracked: Smallest share of the probes, over the neurons of the choice, in which the neuron's effect is known; elsewhere it
            counts as 0. 1 where the attributions tracked them all.
    """

    kind: ClassVar[str] = "stability"
    neurons: pd.DataFrame
    draws: pd.DataFrame
    n_neurons: int
    tracked: float

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron."""
        return self.neurons

    def summary(self) -> pd.DataFrame:
        """Jaccard overlaps with 95 % intervals.

        Returns:
            One row per `by` and `what`: `jaccard` (mean over draws; of templates, that of all subjects), `low` and `high`
            (percentiles over draws), `n_draws`. A bootstrap draw shares two thirds of its subjects with the whole, so that its
            overlap is larger than that of two independent samples, which `halves` of half the size have.
        """
        rows = []
        for (by, what), part in self.draws.groupby(["by", "what"], sort=False):
            drawn = part[part.draw >= 0].jaccard
            whole = part[part.draw < 0].jaccard
            value = whole.item() if len(whole) else drawn.mean()
            low, high = resampling.percentile_interval(drawn.to_numpy(dtype=float))
            rows.append((by, what, value, float(low), float(high), len(drawn)))
        return pd.DataFrame(rows, columns=["by", "what", "jaccard", "low", "high", "n_draws"])


def selection_stability(
    private: AttributionResult,
    public: AttributionResult | None = None,
    *,
    n_neurons: int,
    contrast: float = CONTRAST,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> StabilityResult:
    """Choose universal neurons again, by rule `min`, from resampled subjects, from halves of them, and from single templates.

    Scores are rebuilt from what `attribute_neurons` keeps of each probe: its top neurons, and those given as `track`. A
    neuron that a probe does not hold counts as 0 there. So track a pool much larger than `n_neurons`, chosen from the scores of
    `locate_privacy_neurons`; `tracked` says how complete the choice's scores are. Subjects of public facts are resampled too, by
    themselves.

    What it does not measure: whether the neurons do anything (`verify_neurons`); a stable choice may be stably wrong.

    Args:
        private: Attributions of private answers in two or more languages.
        public: Those of public facts, for the contrast.
        n_neurons: Size of a choice.
        contrast: Multiple of the public attribution that is subtracted.
        n_draws: Bootstrap draws, and pairs of halves.
        seed: Of the draws.

    Returns:
        StabilityResult: `.neurons`, `.summary()`.

    Raises:
        ValueError: Attributions that do not say whose probes they are, of one language or fewer than four subjects, public ones
            without a language or of another shape; a number out of range.
    """
    _check(private, public, n_neurons, contrast, n_draws)
    codes = private.languages
    parts = [SubjectScores.of(private, codes, 1.0)]
    parts += [SubjectScores.of(public, codes, -contrast)] if public is not None and contrast else []
    chooser, rng = _Chooser(parts, n_neurons), np.random.default_rng(seed)
    everybody = [np.ones(n) for n in chooser.sizes]
    whole = chooser.choose(everybody)
    templates = sorted(private.probes.template.unique())
    alone = {
        one: _Chooser([part.of_template(one) for part in parts], n_neurons) for one in templates if len(templates) > 1
    }
    counts, rows = Counter(dict.fromkeys(whole, 0)), _compared(alone, everybody, -1)
    for draw in range(n_draws):
        weights = [np.bincount(rng.integers(0, n, n), minlength=n).astype(float) for n in chooser.sizes]
        again = chooser.choose(weights)
        counts.update(again)
        halves = [rng.permutation(n) < n // 2 for n in chooser.sizes]
        first, second = (chooser.choose([(half == side).astype(float) for half in halves]) for side in (True, False))
        rows += [("subjects", "", draw, jaccard(again, whole)), ("halves", "", draw, jaccard(first, second))]
        rows += _compared(alone, weights, draw)
    d_mlp = private.mean.shape[2]
    found = [(*divmod(unit, d_mlp), unit in whole, count / n_draws) for unit, count in counts.items()]
    frame = pd.DataFrame(found, columns=["layer", "neuron", "chosen", "share"])
    return StabilityResult(
        neurons=frame.sort_values(["share", "layer", "neuron"], ascending=[False, True, True], ignore_index=True),
        draws=pd.DataFrame(rows, columns=["by", "what", "draw", "jaccard"]),
        n_neurons=n_neurons,
        tracked=min((parts[0].known[unit] for unit in whole), default=float("nan")),
        provenance=private.provenance,
    )


def chosen_again(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """In how many of several sets each neuron is: sets found with other seeds, on other people, by other methods.

    The pairs' Jaccard overlaps are `xlmech.neurons.neuron_set.overlap(sets)`.

    Args:
        sets: Two or more by name, e.g. learned masks by seed.

    Returns:
        One row per neuron of any set, most often chosen first: `layer`, `neuron`, `share` (of the sets).

    Raises:
        ValueError: Fewer than two sets, or sets of different models.
    """
    if len(sets) < 2:
        raise ValueError(f"{len(sets)} neuron set: how often a neuron is chosen again takes two or more")
    overlap(sets)  # refuses sets of different models
    counts = Counter(neuron for chosen in sets.values() for neuron in chosen)
    rows = [
        (*neuron, count / len(sets)) for neuron, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return pd.DataFrame(rows, columns=["layer", "neuron", "share"])


def pool_of(located: PrivacyNeurons, n_neurons: int) -> NeuronSet:
    """Take the neurons that rule `min` ranks highest and that are not spared: a pool to track in attribution."""
    lowest = located.scores.amin(0)
    lowest = lowest.masked_fill(lowest.isnan(), -torch.inf)
    best = lowest.flatten().topk(min(n_neurons, int(lowest.isfinite().sum()))).indices.tolist()
    pairs = frozenset(divmod(unit, lowest.shape[1]) for unit in best)
    return NeuronSet(pairs, lowest.shape[0], lowest.shape[1], located.model)


def _check(
    private: AttributionResult, public: AttributionResult | None, n_neurons: int, contrast: float, n_draws: int
) -> None:
    if n_neurons < 1 or n_draws < 2 or not (math.isfinite(contrast) and contrast >= 0):
        raise ValueError(
            f"n_neurons must be 1 or more, n_draws 2 or more, contrast a finite number from 0 on; got {n_neurons}, {n_draws} and "
            f"{contrast}"
        )
    if len(private.languages) < 2:
        raise ValueError(f"attributions in {private.languages[0]} only: a universal neuron is one of several languages")
    for name, found in (("private", private), ("public", public)):
        if found is None:
            continue
        if found.probes.empty:
            raise ValueError(
                f"the {name} attributions do not say whose probes they are: an earlier version made them; attribute again"
            )
        if found.probes.subject.nunique() < _LEAST_SUBJECTS:
            raise ValueError(
                f"{name} probes of {found.probes.subject.nunique()} subjects: resampling takes {_LEAST_SUBJECTS} or more"
            )
        if missing := set(private.languages) - set(found.languages):
            raise ValueError(f"no {name} attributions in {', '.join(sorted(missing))}")
        if found.mean.shape[1:] != private.mean.shape[1:]:
            raise ValueError(
                f"{name} attributions of a model with (layers, neurons per layer) {tuple(found.mean.shape[1:])}; the private "
                f"ones have {tuple(private.mean.shape[1:])}"
            )


class _Chooser:
    """Rule `min` on the sum of several parts' scores."""

    def __init__(self, parts: Sequence[SubjectScores], n_neurons: int) -> None:
        self._parts, self._n_neurons = parts, n_neurons
        self.sizes = [part.n_subjects for part in parts]
        self._units = np.unique(np.concatenate([part.units for part in parts]))
        self._at = [np.searchsorted(self._units, part.units) for part in parts]

    def choose(self, weights: Sequence[NDArray[np.float64]]) -> _Choice:
        """Units with the largest positive minimum over the languages that have any probe."""
        found = [part.means(weight) for part, weight in zip(self._parts, weights, strict=True)]
        scores = np.zeros((len(found[0]), len(self._units)))
        for means, at in zip(found, self._at, strict=True):
            scores[:, at] += means
            scores[np.isnan(means).any(1)] = np.nan
        there = scores[~np.isnan(scores).any(1)]
        lowest = there.min(0) if len(there) else np.zeros(len(self._units))
        order = np.argsort(-lowest, kind="stable")[: self._n_neurons]
        return frozenset(int(self._units[place]) for place in order if lowest[place] > 0)


def _compared(
    alone: Mapping[int, _Chooser], weights: Sequence[NDArray[np.float64]], draw: int
) -> list[tuple[str, str, int, float]]:
    """Rows of every pair of templates, each choosing by itself."""
    chosen = {one: chooser.choose(weights) for one, chooser in alone.items()}
    return [("templates", f"{a} and {b}", draw, jaccard(chosen[a], chosen[b])) for a, b in combinations(chosen, 2)]
