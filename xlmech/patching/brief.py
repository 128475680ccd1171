"""Patching in brief: the layer at which overwriting the activation acts most."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from xlmech.patching.tables import SITE_COLUMNS
from xlmech.storage.brief import Bar, Brief

if TYPE_CHECKING:
    from xlmech.patching.between_languages import PatchingResult


def patching_brief(result: PatchingResult) -> Brief | None:
    """Say where the largest mean normalised effect is, by first tokens, of pairs of one kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single pair has no interval
        effects = result.effect_summary().dropna(subset="normalised")
    if effects.empty:
        return None
    best = effects.sort_values("normalised").iloc[-1]
    same = (effects[SITE_COLUMNS[:3]] == best[SITE_COLUMNS[:3]]).all(axis=1)
    if effects["head"].notna().any():
        same &= effects["head"] == best["head"]
    rows: list[Any] = list(effects[same].sort_values("layer").itertuples())
    known = best.normalised_low == best.normalised_low
    interval = f"{best.normalised_low:.2f} to {best.normalised_high:.2f}, 95 % interval" if known else "no interval"
    return Brief(
        sentence=f"Patching {result.component} at {result.position} from {best.source_language} to {best.target_language} acts "
        f"most at layer {best.layer}: normalised effect {best.normalised:.2f} ({interval}), {best.n_pairs} "
        f"{'pair' if best.n_pairs == 1 else 'pairs'} ({best['kind']}).",
        caption="Mean normalised effect per layer, of these languages and this kind of pair.",
        bars=tuple(
            Bar(
                label=str(row.layer),
                value=row.normalised,
                text=f"{row.normalised:.2f}" if row.layer == best.layer else "",
            )
            for row in rows
        ),
        columns=True,
    )
