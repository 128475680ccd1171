"""How the recipes of earlier work choose: attribution by equal-step sums from zero, then a vote of the texts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xlmech.data.probes import Probe, ProbeSet
from xlmech.engine.batching import run_forced
from xlmech.metrics.attribution import normalised_attribution
from xlmech.metrics.quadrature import Quadrature
from xlmech.models.backends import NEURON_HOOK, Backend
from xlmech.models.load import model_name
from xlmech.models.tokens import encode_probe
from xlmech.neurons.attribution.baselines import warn_if_incomplete, zero_baseline
from xlmech.neurons.attribution.effects import Metric, integrated_gradients
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.progress import progress_bar


@dataclass(frozen=True)
class Votes:
    """What some texts choose.

    Attributes:
        share: (neuron,) over all layers: share of texts that keep a neuron.
        mean: (neuron,) mean normalised attribution.
        errors: Completeness error of every text and layer.
    """

    share: NDArray[np.float64]
    mean: NDArray[np.float64]
    errors: list[float]


def count_votes(
    backend: Backend,
    texts: Sequence[Probe],
    keeps: Callable[[torch.Tensor], torch.Tensor],
    *,
    metric: Metric,
    rule: Quadrature,
    steps: int,
    max_answer_tokens: int | None,
    progress: bool,
    signed: bool = True,
) -> Votes:
    """Attribute each text's answer from zero, at the positions that predict its tokens, and count who keeps what.

    `keeps` takes (neuron,) attributions, or their sizes unless `signed`, as parts of the text's largest.
    """
    n_texts, errors = 0, list[float]()
    zero = zero_baseline(backend)
    kept = total = torch.zeros(zero.numel(), dtype=torch.float64)
    for probe in progress_bar(texts, "attribution", shown=progress):
        item = encode_probe(backend, probe, max_answer_tokens=max_answer_tokens)
        forced = run_forced(backend, item.prompt, item.answer, NEURON_HOOK, what=f"probe {item.id}")
        scores, error = integrated_gradients(
            backend, forced, zero, nodes=steps, positions="last", metric=metric, rule=rule
        )
        errors += error.tolist()
        part = normalised_attribution(scores if signed else scores.abs()).flatten().cpu().double()
        kept, total, n_texts = kept + keeps(part), total + part, n_texts + 1
    return Votes(share=(kept / n_texts).numpy(), mean=(total / n_texts).numpy(), errors=errors)


@dataclass(frozen=True)
class Ballot:
    """Which texts vote, and the constants of their vote.

    The fields are the parameters of `xlmech.neurons.selection.published.depn`.

    Raises:
        ValueError: A constant out of range.
    """

    probes: ProbeSet
    language: str | None
    steps: int
    threshold: float
    min_share: float
    count: int | None
    max_answer_tokens: int | None
    progress: bool

    def __post_init__(self) -> None:
        if self.steps < 2 or (self.count is not None and self.count < 1):
            raise ValueError(f"steps must be 2 or more and count 1 or more, got {self.steps} and {self.count}")
        if not (0 < self.threshold < 1 and 0 < self.min_share <= 1):
            raise ValueError(
                f"threshold must be in (0, 1) and min_share in (0, 1], got {self.threshold} and {self.min_share}"
            )
        if self.max_answer_tokens is not None and self.max_answer_tokens < 1:
            raise ValueError(
                f"max_answer_tokens must be at least 1, or None for whole answers; got {self.max_answer_tokens}"
            )

    def elect(
        self,
        backend: Backend,
        recipe: str,
        *,
        metric: Metric,
        rule: Quadrature,
        reaches: Callable[[Any, float], Any],
        signed: bool = True,
        by_fact: bool = False,
    ) -> NeuronSet:
        """The set of a recipe, ranked by how many electorates keep a neuron, then by share of texts, then by mean attribution.

        `count` fills the set up beyond what the recipe keeps with the next of this ranking: first what some text votes for, then
        what has a positive mean attribution, though below the threshold in every text.

        Args:
            backend: The model.
            recipe: Its name.
            metric: Of each answer token.
            rule: Of the sum.
            reaches: `ge` or `gt`, of thresholds and shares.
            signed: Whether attributions keep their sign.
            by_fact: Whether every fact's texts vote apart; otherwise all texts are one electorate.

        Raises:
            ValueError: No private probes in the language, or `count` of more neurons than have any attribution.
        """
        texts = self._texts()
        electorates = _by_record(texts) if by_fact else [list(texts)]
        if by_fact and max(map(len, electorates)) == 1:
            warnings.warn(
                f"{recipe}: every fact has one prompt, so that its neurons cannot be those its prompts share: whatever is above "
                "the threshold once is kept. Give probes of several templates",
                stacklevel=3,
            )
        passing = share = mean = np.zeros(1)
        errors: list[float] = []
        for own in progress_bar(electorates, "facts", shown=self.progress and by_fact):
            votes = count_votes(
                backend,
                own,
                lambda part: reaches(part, self.threshold),
                metric=metric,
                rule=rule,
                steps=self.steps,
                max_answer_tokens=self.max_answer_tokens,
                progress=self.progress and not by_fact,
                signed=signed,
            )
            passing, share = passing + reaches(votes.share, self.min_share), share + votes.share
            mean, errors = mean + votes.mean, errors + votes.errors
        remedy = (
            f"{recipe} is run as published; compare attribute_neurons with integrated gradients from baseline='mean'."
        )
        warn_if_incomplete(errors, "zero", remedy=remedy, stacklevel=3)
        order, eligible = np.lexsort((-mean, -share, -passing)), (share > 0) | (mean > 0)
        return ranked_set(backend, recipe, order, passing > 0, eligible, self.count)

    def _texts(self) -> ProbeSet:
        """The private probes in the language."""
        private = self.probes.filter(group="private")
        if not len(private):
            raise ValueError("no private probes to choose neurons with; records of group 'private' are needed")
        if self.language is None:
            return private
        if self.language not in private.languages:
            raise ValueError(
                f"no private probes in {self.language!r}: set language= to one of {', '.join(private.languages)}, or to None "
                "for all"
            )
        return private.filter(languages=[self.language])


def ranked_set(
    backend: Backend,
    recipe: str,
    order: NDArray[np.intp],
    passing: NDArray[np.bool_],
    eligible: NDArray[np.bool_],
    count: int | None,
) -> NeuronSet:
    """The neurons that pass, or the first `count` eligible ones of an order that has those that pass in front."""
    ranking = order[eligible[order]]
    if count is not None and count > len(ranking):
        raise ValueError(f"{recipe}: {count} neurons wanted, but it ranks only {len(ranking)}; ask for fewer")
    wanted = ranking[: int(passing.sum()) if count is None else count]
    pairs = frozenset(divmod(int(index), backend.d_mlp) for index in wanted)
    return NeuronSet(pairs, backend.n_layers, backend.d_mlp, model_name(backend.model))


def _by_record(texts: ProbeSet) -> list[list[Probe]]:
    facts: dict[str, list[Probe]] = {}
    for probe in texts:
        facts.setdefault(probe.record.id, []).append(probe)
    return list(facts.values())
