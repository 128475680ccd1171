"""Locate privacy neurons: attribution of private answers in every language, minus that of public ones, then selection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float

from xlmech.ablation import ablate
from xlmech.attribution import AttributionResult, Baseline, Method, MetricChoice, attribute_neurons, check_request
from xlmech.backends import backend_of
from xlmech.effects import Positions
from xlmech.known import check_known
from xlmech.models import provenance
from xlmech.neurons import (
    MAX_ENTROPY,
    NeuronSet,
    PrivacyNeurons,
    Rule,
    candidates,
    chosen_frame,
    select_specific,
    select_universal,
)
from xlmech.neutral import needed_for_text
from xlmech.probes import ProbeSet
from xlmech.refine import check_target, refine_universal

DEFAULT_SHARE = 0.002
"""Share of the model's neurons chosen by default, universal and specific each."""


def locate_privacy_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    controls: ProbeSet | None = None,
    public: ProbeSet | None = None,
    method: Method = "gradient_x_activation",
    baseline: Baseline | torch.Tensor = "mean",
    nodes: int = 4,
    metric: MetricChoice = "auto",
    positions: Positions = "last",
    rule: Rule = "min",
    top_k: int | None = None,
    iterate: int = 1,
    contrast: float = 1.0,
    neutral: Mapping[str, Sequence[str]] | None = None,
    spare: float = 0.05,
    threshold: float = 0.1,
    min_share: float = 0.5,
    max_entropy: float = MAX_ENTROPY,
    max_answer_tokens: int | None = None,
    verify: bool = False,
    target_reduction: float | None = None,
    check_leakage: bool = True,
    progress: bool = True,
) -> PrivacyNeurons:
    """Neurons through which private answers come out: in all languages (universal), or in one (language-specific).

    A reconstruction: the paper (Dong et al. 2025, arXiv:2506.00759) publishes no formula. Per probe, attribution is divided
    by its maximum, so that probes weigh the same whatever their metric; per language it is averaged; the same average over
    public facts is subtracted, so that neurons for answering at all are not called privacy neurons. That a neuron is chosen is
    a hypothesis: `verify` ablates each and drops those that do not help, `target_reduction` finds how few of them it takes, and
    `evaluate_mitigation` on people who did not choose them is the test.

    With `iterate`, neurons are located in rounds, the universal ones found so far deactivated: this finds neurons that back
    each other up, and those behind saturated answers (metric `auto`), whose attribution hardly tells neurons apart until
    others are gone.

    Args:
        model: Hooked model.
        probes: Private probes; those of group public and control in it serve as `public` and `controls` by default.
        controls: Prompts whose mean activation is the baseline; private probes where there are none.
        public: Probes of public facts for the contrast; none is subtracted where there are none.
        method: See `attribute_neurons`.
        baseline: See `attribute_neurons`.
        nodes: See `attribute_neurons`.
        metric: See `attribute_neurons`.
        positions: See `attribute_neurons`.
        rule: `min` ranks universal neurons by the minimum over languages; `intersection` takes common candidates; `entropy` is
            `min`, with language-specific neurons by low entropy over languages (see `select_specific`).
        top_k: Largest number of universal neurons, and of each language's specific ones; 0.2 % of all by default.
        iterate: Number of rounds, in which `top_k` is found in equal parts.
        contrast: Multiple of the public attribution that is subtracted; 0 for none.
        neutral: Texts by language, whose neurons are spared; none by default. Judge the price on others than these.
        spare: Share of the model's neurons that is spared where there are such texts: those that these need most
            (`xlmech.neutral.needed_for_text`) are not chosen.
        threshold: tau of a neuron's share of probes.
        min_share: f: a neuron that exceeds tau in this share of a language's probes is its candidate.
        max_entropy: Bound of rule `entropy`, nats.
        max_answer_tokens: Attribute only the first so many tokens of each answer.
        verify: Whether to deactivate the universal neurons, each and together, and drop those without which the set does as
            well (`verify_neurons`, with the same contrast): `top_k` is then the size of the shortlist.
        target_reduction: Keep the fewest universal neurons, from the best on, that reduce extraction of the private probes by
            this share, 0.8 say (`fewest_neurons`); all by default. On other people they will reduce it by less.
        check_leakage: Whether to refuse private answers that the model does not know (see `xlmech.known`): one forced pass over
            at most 64 probes.
        progress: Whether to show progress bars.

    Returns:
        PrivacyNeurons: `.universal`, `.specific["fr"]`; `.scores` are those of the intact model, minus infinity for spared
        neurons. `.chosen` has two columns more: `round`, in which a neuron was found and its `score` measured, and `n_saturated`,
        how many of the private probes behind it (its language's, or all) were attributed by log-odds because they are saturated;
        with `verify` two more, the exact effects, which are also the order of the universal ones.

    Raises:
        ValueError: No private probes, one language only, public probes in other languages than the private ones, a number out
            of range, or private answers that the model does not know.

    Warns:
        UserWarning: The model knows the controls' answers, integrated gradients do not converge, none of the universal neurons
            helps, or not all of them together reach `target_reduction`.

    See also: the selections of earlier work, for comparison at equal counts, are `depn`, `knowledge_neurons`, `apneap` and `lape`
    (`xlmech.recipes`), random ones `random_neurons`; a set learned as a whole is `learn_mask`'s.
    """
    private = probes.filter(group="private")
    public = public if public is not None else probes.filter(group="public")
    controls = controls if controls is not None else probes.filter(group="control")
    check_probes(private, public, contrast)
    backend, source = backend_of(model), provenance(model)
    top_k = top_k if top_k is not None else max(iterate, int(DEFAULT_SHARE * backend.n_layers * backend.d_mlp))
    check_request(private, method, metric, positions, nodes, threshold, max_answer_tokens)
    _check(rule, top_k, iterate, contrast, min_share, max_entropy, spare)
    check_target(target_reduction)
    if check_leakage:
        check_known(model, private, controls, max_answer_tokens=max_answer_tokens, progress=progress)
    options: dict[str, Any] = {
        "method": method,
        "baseline": baseline,
        "nodes": nodes,
        "metric": metric,
        "positions": positions,
        "controls": controls if len(controls) else private,
        "max_answer_tokens": max_answer_tokens,
        "threshold": threshold,
        "progress": progress,
    }
    spared = _spared(model, neutral, spare)
    taken = spared.clone()
    rounds: list[pd.DataFrame] = []
    off, intact = NeuronSet(frozenset(), backend.n_layers, backend.d_mlp, source.model), torch.empty(0)
    for number in range(iterate):
        with ablate(model, off):
            found = attribute_neurons(model, private, **options)
            scores = _contrasted(model, found, public, contrast, options).masked_fill(spared, -torch.inf)
        intact = intact if number else scores
        size = (top_k + number) // iterate  # parts that differ by one at most, and make top_k
        chosen = _chosen(found, scores, taken, rule, size, min_share, max_entropy)
        rounds.append(_with_counts(chosen, found, private).assign(round=number + 1))
        off |= _set_of(chosen[chosen.kind == "universal"], off)
        for layer, neuron in zip(chosen.layer, chosen.neuron, strict=True):
            taken[layer, neuron] = True
    rows = pd.concat([one for one in rounds if len(one)] or rounds[:1])
    located = PrivacyNeurons(
        languages=private.languages,
        scores=intact,
        chosen=rows.sort_values("kind", ascending=False, kind="stable", ignore_index=True),
        rule=rule,
        model=source.model,
        provenance=source,
    )
    if not verify and target_reduction is None:
        return located
    return refine_universal(
        model, located, private, public, verify=verify, target_reduction=target_reduction, contrast=contrast,
        progress=progress,
    )  # fmt: skip


def check_probes(private: ProbeSet, public: ProbeSet, contrast: float) -> None:
    """Raise ValueError unless universal neurons can be located with these probes."""
    if not len(private):
        raise ValueError("no private probes to locate neurons with; records of group 'private' are needed")
    if len(private.languages) < 2:
        raise ValueError(
            f"probes in {private.languages[0]} only: a universal neuron is one of several languages; ask in two or more"
        )
    missing = set(private.languages) - set(public.languages)
    if len(public) and contrast and missing:
        raise ValueError(
            f"no public probes in {', '.join(sorted(missing))}: ask them in the private probes' languages, or set contrast=0"
        )


def _spared(
    model: Any, neutral: Mapping[str, Sequence[str]] | None, share: float
) -> Bool[torch.Tensor, "layer neuron"]:
    """Whether neutral text needs a neuron too much for it to be chosen."""
    backend = backend_of(model)
    spared = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.bool)
    if neutral is not None:
        most = needed_for_text(model, neutral).flatten().topk(round(share * spared.numel())).indices
        spared.view(-1)[most] = True
    return spared


def _check(
    rule: str, top_k: int, iterate: int, contrast: float, min_share: float, max_entropy: float, spare: float
) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; use {', '.join(map(repr, get_args(Rule)))}")
    if not 1 <= iterate <= top_k:
        raise ValueError(f"top_k must be at least 1 and iterate from 1 to top_k, got {top_k} and {iterate}")
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share must be in (0, 1], got {min_share}")
    if not 0 <= spare < 1:
        raise ValueError(f"spare must be in [0, 1), got {spare}")
    for name, value in (("contrast", contrast), ("max_entropy", max_entropy)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number from 0 on, got {value}")


def _contrasted(
    model: Any, found: AttributionResult, public: ProbeSet, contrast: float, options: dict[str, Any]
) -> Float[torch.Tensor, "language layer neuron"]:
    """Mean attribution of the private answers, minus that of the public ones."""
    if not (len(public) and contrast):
        return found.mean
    facts = attribute_neurons(model, public, **options)
    order = [facts.languages.index(language) for language in found.languages]
    return found.mean - contrast * facts.mean[order]


def _chosen(
    found: AttributionResult,
    scores: Float[torch.Tensor, "language layer neuron"],
    taken: Bool[torch.Tensor, "layer neuron"],
    rule: Rule,
    top_k: int,
    min_share: float,
    max_entropy: float,
) -> pd.DataFrame:
    """The frame of `PrivacyNeurons.chosen`, without neurons that are taken already."""
    scores = scores.masked_fill(taken, -torch.inf)
    is_candidate = candidates(scores, found.share, top_k=top_k, min_share=min_share) & ~taken
    universal = select_universal(scores, rule=rule, top_k=top_k, is_candidate=is_candidate)
    for layer, neuron, _ in universal:
        is_candidate[:, layer, neuron] = False  # not anybody's own
    options: dict[str, Any] = {"top_k": top_k, "is_candidate": is_candidate, "rule": rule, "max_entropy": max_entropy}
    return chosen_frame([
        ("universal", "", universal),
        *(("specific", code, select_specific(scores, number, **options)) for number, code in enumerate(found.languages)),
    ])  # fmt: skip


def _with_counts(chosen: pd.DataFrame, found: AttributionResult, private: ProbeSet) -> pd.DataFrame:
    """With the number of saturated probes behind each neuron's score."""
    languages = [private[probe].query_language for probe in found.saturated]
    counts = {"": len(languages)} | {code: languages.count(code) for code in found.languages}
    return chosen.assign(n_saturated=chosen.language.map(counts).astype(int))


def _set_of(chosen: pd.DataFrame, like: NeuronSet) -> NeuronSet:
    pairs = frozenset(zip(chosen.layer.astype(int).tolist(), chosen.neuron.astype(int).tolist(), strict=True))
    return NeuronSet(pairs, like.n_layers, like.d_mlp, like.model)
