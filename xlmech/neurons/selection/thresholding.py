"""Select neurons by how many texts attribute enough of their answer to them, as `depn` and its relatives do."""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import run_forced
from xlmech.metrics.attribution import normalised_attribution
from xlmech.metrics.quadrature import Quadrature
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.load import model_name
from xlmech.models.tokens import encode_probe, warn_of_straddling
from xlmech.neurons.attribution.baselines import warn_if_incomplete, zero_baseline
from xlmech.neurons.attribution.effects import Metric, integrated_gradients
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions:
    """How a recipe attributes a text's answer, and the thresholds by which it selects.

    Attributes:
        recipe: Name of the recipe.
        metric: Metric of each answer token.
        rule: Rule of the sum that approximates the integral.
        strict: Whether thresholds must be exceeded; reaching them suffices otherwise.
        signed: Whether attributions keep their sign.
        by_fact: Whether the texts of each fact are a group, of which a share is taken; otherwise all texts are one group.
        steps: Steps of the sum.
        threshold: Part of a text's largest attribution from which on the text marks a neuron.
        min_share: Share of the texts that must mark a neuron.
    """

    recipe: str
    metric: Metric
    rule: Quadrature
    strict: bool = True
    signed: bool = True
    by_fact: bool = False
    steps: int
    threshold: float
    min_share: float

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps must be 2 or more, got {self.steps}")
        if not (0 < self.threshold < 1 and 0 < self.min_share <= 1):
            raise ValueError(
                f"threshold must be in (0, 1) and min_share in (0, 1], got {self.threshold} and {self.min_share}"
            )


def select_by_thresholds(
    model: Any,
    probes: ProbeSet,
    options: ThresholdOptions,
    *,
    language: str | None,
    n_neurons: int | None,
    max_answer_tokens: int | None,
    progress: bool,
) -> NeuronSet:
    """Rank neurons by how many groups of texts keep them, by the share of texts, and by mean attribution; then take a set.

    The arguments are those of `depn`.
    """
    if n_neurons is not None and n_neurons < 1:
        raise ValueError(f"n_neurons must be 1 or more, got {n_neurons}")
    if max_answer_tokens is not None and max_answer_tokens < 1:
        raise ValueError(f"max_answer_tokens must be at least 1, or None for whole answers; got {max_answer_tokens}")
    backend, texts = backend_of(model), _private_texts(probes, language)
    reaches = operator.gt if options.strict else operator.ge
    groups = [list(texts)]
    if options.by_fact:
        groups = [[probe for probe in texts if probe.record.id == record.id] for record in texts.records]
        if max(map(len, groups)) == 1:
            warnings.warn(
                f"{options.recipe}: every fact has one prompt, so that its neurons cannot be those its prompts share: "
                "whatever is above the threshold once is kept. Give probes of several templates",
                stacklevel=3,
            )
    items = {probe.id: encode_probe(backend, probe, max_answer_tokens=max_answer_tokens) for probe in texts}
    warn_of_straddling([item.n_straddling for item in items.values()], stacklevel=4)
    zero, errors = zero_baseline(backend), list[float]()
    n_keeping = share = mean = np.zeros(1)
    for group in progress_bar(groups, "facts", shown=progress and options.by_fact):
        n_marking = total = torch.zeros(zero.numel(), dtype=torch.float64)
        for probe in progress_bar(group, "attribution", shown=progress and not options.by_fact):
            item = items[probe.id]
            forced = run_forced(backend, item.prompt, item.answer, NEURON_HOOK, what=f"probe {item.id}")
            scores, error = integrated_gradients(
                backend, forced, zero, nodes=options.steps, positions="last", metric=options.metric, rule=options.rule
            )
            errors += error.tolist()
            normalised = normalised_attribution(scores if options.signed else scores.abs()).flatten().cpu().double()
            n_marking = n_marking + reaches(normalised, options.threshold)
            total = total + normalised
        share_of_group = (n_marking / len(group)).numpy()
        n_keeping = n_keeping + reaches(share_of_group, options.min_share)
        share = share + share_of_group
        mean = mean + (total / len(group)).numpy()
    remedy = f"{options.recipe} is run as published; compare attribute_neurons with integrated gradients from baseline='mean'."
    warn_if_incomplete(errors, "zero", remedy=remedy, stacklevel=3)
    order, is_eligible = np.lexsort((-mean, -share, -n_keeping)), (share > 0) | (mean > 0)
    return ranked_set(backend, options.recipe, order, n_keeping > 0, is_eligible, n_neurons)


def _private_texts(probes: ProbeSet, language: str | None) -> ProbeSet:
    """Return the private probes in a language, or in all."""
    private = probes.filter(group="private")
    if not len(private):
        raise ValueError("no private probes to choose neurons with; records of group 'private' are needed")
    if language not in (None, *private.languages):
        raise ValueError(
            f"no private probes in {language!r}: set language= to one of {', '.join(private.languages)}, or to None for all"
        )
    return private if language is None else private.filter(languages=[language])


def ranked_set(
    backend: Backend,
    recipe: str,
    order: NDArray[np.intp],
    is_kept: NDArray[np.bool_],
    is_eligible: NDArray[np.bool_],
    n_neurons: int | None,
) -> NeuronSet:
    """Take the neurons kept, or the first `n_neurons` eligible ones of an order that begins with those kept."""
    ranking = order[is_eligible[order]]
    if n_neurons is not None and n_neurons > len(ranking):
        raise ValueError(f"{recipe}: {n_neurons} neurons wanted, but it ranks only {len(ranking)}; ask for fewer")
    chosen = ranking[: int(is_kept.sum()) if n_neurons is None else n_neurons]
    pairs = frozenset(divmod(int(index), backend.d_mlp) for index in chosen)
    return NeuronSet(pairs, backend.n_layers, backend.d_mlp, model_name(backend.model))
