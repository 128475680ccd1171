"""Refine located neurons by ablation: keep those that help, or the fewest that reach a reduction."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pandas as pd

from xlmech.data.probes import ProbeSet
from xlmech.neurons.neuron_set import pairs_of
from xlmech.neurons.privacy_neurons import PrivacyNeurons, main_kind
from xlmech.neurons.selection.minimal_set import fewest_neurons
from xlmech.neurons.selection.verify import verify_neurons


def refine_main(
    model: Any,
    located: PrivacyNeurons,
    private: ProbeSet,
    public: ProbeSet,
    *,
    verify: bool,
    target_reduction: float | None,
    contrast: float,
    progress: bool,
) -> PrivacyNeurons:
    """Return `located` with fewer of its main neurons; arguments as of `locate_privacy_neurons`.

    These are the universal ones, beside which specific ones stay as they are, or those of the only language.

    Returns:
        With `verify`, `chosen` has columns `effect_private` and `effect_public` more: the exact effect of each main neuron
        alone (nats per token; NaN for others), by whose difference they are in order.

    Raises:
        ValueError: With `target_reduction`, none of the private values is extracted.

    Warns:
        UserWarning: There is no main neuron, none of them helps, or not all together reach `target_reduction`.
    """
    is_main = located.chosen.kind == main_kind(located.languages)
    rows, others = located.chosen[is_main], located.chosen[~is_main]
    if rows.empty:
        warnings.warn(
            f"no {located.main_name} neuron was found, so that there is nothing to verify or to cut", stacklevel=3
        )
        return located
    if verify:
        verified = verify_neurons(
            model, private, neurons=located.main, public=public, contrast=contrast, progress=progress
        )
        effects = verified.effects[verified.effects.kept][["layer", "neuron", "private", "public"]]
        effects = effects.rename(columns={"private": "effect_private", "public": "effect_public"})
        rows = effects.merge(rows, on=["layer", "neuron"], how="left")[[*located.chosen, *effects.columns[2:]]]
        if rows.empty:
            warnings.warn(
                f"none of the {located.main_name} neurons helps: ablating them takes no more from private answers than from "
                "public ones; take a larger n_neurons, or a smaller contrast",
                stacklevel=3,
            )
    if target_reduction is not None and len(rows):
        fewest = fewest_neurons(model, private, ranking=rows, target_reduction=target_reduction, progress=progress)
        rows = rows[[neuron in fewest.neurons for neuron in pairs_of(rows)]]
        if not fewest.reached:
            warnings.warn(
                f"the shortlist reduces extraction on these probes by {fewest.reduction:.0%} at most, with {len(rows)} neurons, "
                f"not by the {target_reduction:.0%} wanted; take a larger n_neurons",
                stacklevel=3,
            )
    chosen = pd.concat([frame for frame in (rows, others) if len(frame)] or [rows], ignore_index=True)
    return dataclasses.replace(located, chosen=chosen)
