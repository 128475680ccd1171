"""Attributions in brief: in which layers the neurons are that add to the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xlmech.percent import percent
from xlmech.storage.brief import Brief, layer_bars

if TYPE_CHECKING:
    from xlmech.neurons.attribution.attribute import AttributionResult


def attribution_brief(result: AttributionResult) -> Brief | None:
    """Say which layer has most of the positive mean attribution; no interval, since saved are means over probes."""
    per_layer = result.mean.nan_to_num(0.0).clamp(min=0).sum(-1).mean(0)
    total = float(per_layer.sum())
    if not total > 0:
        return None
    shares = [float(value) / total for value in per_layer]
    best = max(range(len(shares)), key=shares.__getitem__)
    n_probes, n = result.top.probe.nunique(), len(result.languages)
    people = f", {result.probes.subject.nunique():,} people" if len(result.probes) else ""
    return Brief(
        sentence=f"Layer {best} of 0 to {len(shares) - 1} has {percent(shares[best])} of what neurons add to the answers: "
        f"{result.method}, {n} {'language' if n == 1 else 'languages'}, {n_probes:,} probes{people}; a mean, without interval.",
        caption="Share of the positive attribution per layer, mean over languages.",
        bars=layer_bars(shares),
        columns=True,
    )
