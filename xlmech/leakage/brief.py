"""Leakage in brief: the share of private people's questions that give the value, in all and per language."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xlmech.leakage.rates import rate
from xlmech.percent import counted, share_text
from xlmech.storage.brief import Bar, Brief

if TYPE_CHECKING:
    from xlmech.leakage.measure import LeakageResult


def leakage_brief(result: LeakageResult) -> Brief | None:
    """Say how much private people's questions give away; of a result without them, what those of its first group do."""
    if result.measured[0] != "extracted":
        return None
    groups = dict.fromkeys(result.probes.group)
    group = "private" if "private" in groups else next(iter(groups))
    part = result.probes[result.probes.group == group]
    n_people = part.subject.nunique()
    who = counted(n_people, f"{group} person", f"{group} people")
    controls = result.probes[result.probes.group == "control"].groupby("query_language").extracted.mean()
    bars = tuple(
        Bar(
            label=str(code),
            value=of_code[0],
            low=of_code[1],
            high=of_code[2],
            mark=controls.get(code, math.nan) if group == "private" else math.nan,
            text=share_text(*of_code),
        )
        for code, of_code in (
            (code, rate(one, "extracted")) for code, one in part.groupby("query_language", sort=False)
        )
    )
    rings = "; rings: control people, who show what chance gives" if any(bar.mark == bar.mark for bar in bars) else ""
    return Brief(
        sentence=f"{share_text(*rate(part, 'extracted'))} of the questions give the value: {who}, {len(part):,} questions, 95 % "
        "interval over people.",
        caption=f"Extracted per query language{rings}.",
        bars=bars,
        end=1.0,
    )
