"""Locate privacy neurons: attribution of private answers in every language, minus that of public ones, then selection."""

from __future__ import annotations

from typing import Any

import torch

from xlmech.attribution import Baseline, Method, attribute_neurons
from xlmech.effects import Positions
from xlmech.models import provenance
from xlmech.neurons import PrivacyNeurons, Rule, candidates, chosen_frame, select_specific, select_universal
from xlmech.probes import ProbeSet

DEFAULT_SHARE = 0.002
"""Share of the model's neurons chosen by default, universal and specific each."""


def locate_privacy_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    controls: ProbeSet | None = None,
    public: ProbeSet | None = None,
    method: Method = "integrated_gradients",
    baseline: Baseline | torch.Tensor = "mean",
    nodes: int = 4,
    positions: Positions = "last",
    rule: Rule = "min",
    top_k: int | None = None,
    contrast: float = 1.0,
    threshold: float = 0.1,
    min_share: float = 0.5,
    max_answer_tokens: int | None = None,
    progress: bool = True,
) -> PrivacyNeurons:
    """Neurons through which private answers come out: in all languages (universal), or in one (language-specific).

    A reconstruction: the paper (Dong et al. 2025, arXiv:2506.00759) publishes no formula. Per probe, attribution is divided
    by its maximum; per language it is averaged; the same average over public facts is subtracted, so that neurons for
    answering at all are not called privacy neurons. That a neuron is chosen is a hypothesis; `evaluate_mitigation` on people
    who did not choose it is the test.

    Args:
        model: Hooked model.
        probes: Private probes; those of group public and control in it serve as `public` and `controls` by default.
        controls: Prompts whose mean activation is the baseline; private probes where there are none.
        public: Probes of public facts for the contrast; none is subtracted where there are none.
        method: See `attribute_neurons`.
        baseline: See `attribute_neurons`.
        nodes: See `attribute_neurons`.
        positions: See `attribute_neurons`.
        rule: `min` ranks universal neurons by the minimum over languages; `intersection` takes common candidates.
        top_k: Largest number of universal neurons, and of each language's specific ones; 0.2 % of all by default.
        contrast: Multiple of the public attribution that is subtracted; 0 for none.
        threshold: tau of a neuron's share of probes.
        min_share: f: a neuron that exceeds tau in this share of a language's probes is its candidate.
        max_answer_tokens: Attribute only the first so many tokens of each answer.
        progress: Whether to show progress bars.

    Returns:
        PrivacyNeurons: `.universal`, `.specific["fr"]`, `.scores`.

    Raises:
        ValueError: No private probes, one language only, or public probes in other languages than the private ones.
    """
    private = probes.filter(group="private")
    public = public if public is not None else probes.filter(group="public")
    controls = controls if controls is not None else probes.filter(group="control")
    check_probes(private, public, contrast)
    options = {
        "method": method,
        "baseline": baseline,
        "nodes": nodes,
        "positions": positions,
        "controls": controls if len(controls) else private,
        "max_answer_tokens": max_answer_tokens,
        "threshold": threshold,
        "progress": progress,
    }
    found = attribute_neurons(model, private, **options)  # type: ignore[arg-type]
    scores = found.mean
    if len(public) and contrast:
        facts = attribute_neurons(model, public, **options)  # type: ignore[arg-type]
        order = [facts.languages.index(language) for language in found.languages]
        scores = scores - contrast * facts.mean[order]
    top_k = top_k if top_k is not None else int(DEFAULT_SHARE * scores[0].numel())
    is_candidate = candidates(scores, found.share, top_k=top_k, min_share=min_share)
    universal = select_universal(scores, rule=rule, top_k=top_k, is_candidate=is_candidate)
    for layer, neuron, _ in universal:
        is_candidate[:, layer, neuron] = False  # not anybody's own
    rows = [("universal", "", universal)] + [
        ("specific", language, select_specific(scores, index, top_k=top_k, is_candidate=is_candidate))
        for index, language in enumerate(found.languages)
    ]
    source = provenance(model)
    return PrivacyNeurons(
        languages=found.languages,
        scores=scores,
        chosen=chosen_frame(rows),
        rule=rule,
        model=source.model,
        provenance=source,
    )


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
