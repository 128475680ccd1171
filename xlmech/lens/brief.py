"""The logit lens in brief: at which layer the answer in the language of the question is likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xlmech.storage.brief import Bar, Brief

if TYPE_CHECKING:
    from xlmech.lens.logit import LensResult


def lens_brief(result: LensResult) -> Brief | None:
    """Say at which layers the answer in the language of the question is likeliest."""
    depths = result.depths()
    peaks: list[Any] = list(depths[depths.event == "query peak"].dropna(subset="layer").itertuples())
    if not peaks:
        return None
    layers = sorted(int(row.layer) for row in peaks)
    last = int(result.readings.layer.max())
    at = f"layer {layers[0]}" if layers[0] == layers[-1] else f"layers {layers[0]} to {layers[-1]}"
    ends = f"{min(row.low for row in peaks):.0f} to {max(row.high for row in peaks):.0f}"
    n_people = max(int(row.n_subjects) for row in peaks)
    return Brief(
        sentence=f"The answer in the language of the question is likeliest at {at} of 0 to {last} ({ends}, the ends of the 95 % "
        f"intervals over people): {len(peaks)} {'language' if len(peaks) == 1 else 'languages'}, {n_people:,} people.",
        caption="Layer at which it is likeliest, per query language.",
        bars=tuple(
            Bar(
                label=str(row.query_language),
                value=float(row.layer),
                low=row.low,
                high=row.high,
                text=f"{row.layer:.0f} ({row.low:.0f} to {row.high:.0f}), probability {row.prob:.2f}",
            )
            for row in peaks
        ),
        end=float(max(last, 1)),
    )
