"""Measure how far a choice of neurons depends on the subjects and templates that selected it. Runs no model.

pool = pool_of(located, 2000)                                          # neurons that could have been chosen
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
from xlmech.neurons.evidence.subject_scores import SubjectScores, check_subjects
from xlmech.neurons.neuron_set import NeuronSet, overlap
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.options import CONTRAST
from xlmech.storage.result import Result

N_DRAWS = 500
_MIN_SUBJECTS = 4
_Choice = frozenset[int]


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityResult(Result):
    """A choice of universal neurons, and the choices of resampled subjects and of single templates.

    Attributes:
        neurons: One row per neuron of the choice or of any draw: `layer`, `neuron`, `chosen` (by all subjects), `share` of the
            bootstrap draws that choose it, most often chosen first.
        draws: One row per comparison: `by`, `what`, `draw`, `jaccard`. `subjects` compares a bootstrap draw's choice with that of
            all subjects; `halves` compares two disjoint halves of the subjects; `templates` compares two templates (`what` names
            them) in a bootstrap draw of subjects, where draw -1 is all subjects.
        n_neurons: Size of a choice.
        tracked: Smallest share of the probes, over the neurons of the choice, for which the neuron's effect was kept; for other
            probes it counts as 0. 1 if the attributions tracked all neurons of the choice.
    """

    kind: ClassVar[str] = "stability"
    neurons: pd.DataFrame
    draws: pd.DataFrame
    n_neurons: int
    tracked: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron."""
        return self.neurons

    def summary(self) -> pd.DataFrame:
        """Summarise the Jaccard overlaps, with 95 % intervals.

        Returns:
            One row per `by` and `what`: `jaccard` (mean over draws; of templates, that of all subjects), `low` and `high`
            (percentiles over draws), `n_draws`. A bootstrap draw shares two thirds of its subjects with the whole, so that its
            overlap is larger than that of two independent samples, which `halves` of half the size have.
        """
        rows = []
        for (by, what), group in self.draws.groupby(["by", "what"], sort=False):
            drawn = group[group.draw >= 0].jaccard
            whole = group[group.draw < 0].jaccard
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

    Scores are rebuilt from what `attribute_neurons` keeps for each probe: its top neurons, and those given as `track`. A neuron
    that is not kept for a probe counts as 0 there. So track a pool much larger than `n_neurons` (`pool_of`); `tracked` says how
    complete the choice's scores are. Subjects of public facts are resampled separately.

    This does not measure whether the neurons do anything (`verify_neurons`): a stable choice may be wrong.

    Args:
        private: Attributions of private answers. In one language alone, the neurons of that language are chosen again.
        public: Those of public facts, for the contrast.
        n_neurons: Size of a choice.
        contrast: Multiple of the public attribution that is subtracted.
        n_draws: Bootstrap draws, and pairs of halves.
        seed: Of the draws.

    Returns:
        StabilityResult: `.neurons`, `.summary()`.

    Raises:
        ValueError: Attributions that do not list their probes, or of fewer than four subjects; public ones
            without a language or of another shape; a number out of range.
    """
    _check(private, public, n_neurons, contrast, n_draws)
    codes = private.languages
    groups = [SubjectScores.of(private, codes, 1.0)]
    groups += [SubjectScores.of(public, codes, -contrast)] if public is not None and contrast else []
    selector = _Selector(groups, n_neurons)
    rng = np.random.default_rng(seed)
    uniform = [np.ones(n) for n in selector.n_subjects]
    whole = selector.choose(uniform)
    templates = sorted(private.probes.template.unique())
    by_template = {
        template: _Selector([group.of_template(template) for group in groups], n_neurons)
        for template in templates
        if len(templates) > 1
    }
    counts = Counter(dict.fromkeys(whole, 0))
    rows = _template_overlaps(by_template, uniform, -1)
    for draw in range(n_draws):
        weights = [np.bincount(rng.integers(0, n, n), minlength=n).astype(float) for n in selector.n_subjects]
        drawn = selector.choose(weights)
        counts.update(drawn)
        halves = [rng.permutation(n) < n // 2 for n in selector.n_subjects]
        first, second = (selector.choose([(half == side).astype(float) for half in halves]) for side in (True, False))
        rows += [("subjects", "", draw, jaccard(drawn, whole)), ("halves", "", draw, jaccard(first, second))]
        rows += _template_overlaps(by_template, weights, draw)
    d_mlp = private.mean.shape[2]
    neurons = [(*divmod(unit, d_mlp), unit in whole, count / n_draws) for unit, count in counts.items()]
    frame = pd.DataFrame(neurons, columns=["layer", "neuron", "chosen", "share"])
    return StabilityResult(
        neurons=frame.sort_values(["share", "layer", "neuron"], ascending=[False, True, True], ignore_index=True),
        draws=pd.DataFrame(rows, columns=["by", "what", "draw", "jaccard"]),
        n_neurons=n_neurons,
        tracked=min((groups[0].share_kept[unit] for unit in whole), default=float("nan")),
        provenance=private.provenance,
    )


def chosen_again(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Count in how many of several sets each neuron is: sets of other seeds, other people or other methods.

    The pairs' Jaccard overlaps are `xlmech.neurons.neuron_set.overlap(sets)`.

    Args:
        sets: Two or more by name, e.g. sets chosen with different seeds.

    Returns:
        One row per neuron of any set, most often chosen first: `layer`, `neuron`, `share` (of the sets).

    Raises:
        ValueError: Fewer than two sets, or sets of different models.
    """
    if len(sets) < 2:
        raise ValueError(f"{len(sets)} neuron set: how often a neuron is chosen again takes two or more")
    overlap(sets)  # raises if the sets are of different models
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
    for name, result in (("private", private), ("public", public)):
        if result is None:
            continue
        check_subjects(result, name)
        if (n_subjects := result.probes.subject.nunique()) < _MIN_SUBJECTS:
            raise ValueError(f"{name} probes of {n_subjects} subjects: resampling takes {_MIN_SUBJECTS} or more")
        if missing := set(private.languages) - set(result.languages):
            raise ValueError(f"no {name} attributions in {', '.join(sorted(missing))}")
        if result.mean.shape[1:] != private.mean.shape[1:]:
            raise ValueError(
                f"{name} attributions of a model with (layers, neurons per layer) {tuple(result.mean.shape[1:])}; the private "
                f"ones have {tuple(private.mean.shape[1:])}"
            )


class _Selector:
    """Selection by rule `min` from the sum of the scores of several groups of probes."""

    def __init__(self, groups: Sequence[SubjectScores], n_neurons: int) -> None:
        self._groups = groups
        self._n_neurons = n_neurons
        self.n_subjects = [group.n_subjects for group in groups]
        self._units = np.unique(np.concatenate([group.units for group in groups]))
        self._columns = [np.searchsorted(self._units, group.units) for group in groups]

    def choose(self, weights: Sequence[NDArray[np.float64]]) -> _Choice:
        """Choose the units with the largest positive minimum over the languages with probes, subjects weighted."""
        means_of_groups = [group.means(weight) for group, weight in zip(self._groups, weights, strict=True)]
        scores = np.zeros((len(means_of_groups[0]), len(self._units)))
        for means, columns in zip(means_of_groups, self._columns, strict=True):
            scores[:, columns] += means
            scores[np.isnan(means).any(1)] = np.nan
        complete = scores[~np.isnan(scores).any(1)]
        lowest = complete.min(0) if len(complete) else np.zeros(len(self._units))
        order = np.argsort(-lowest, kind="stable")[: self._n_neurons]
        return frozenset(int(self._units[column]) for column in order if lowest[column] > 0)


def _template_overlaps(
    by_template: Mapping[int, _Selector], weights: Sequence[NDArray[np.float64]], draw: int
) -> list[tuple[str, str, int, float]]:
    """Compare the choices of every pair of templates: rows of `StabilityResult.draws`."""
    chosen = {template: selector.choose(weights) for template, selector in by_template.items()}
    return [("templates", f"{a} and {b}", draw, jaccard(chosen[a], chosen[b])) for a, b in combinations(chosen, 2)]
