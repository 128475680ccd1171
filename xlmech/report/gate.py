"""A release gate: is more private data extracted than a limit allows, in any of the languages? Runs no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from xlmech.metrics.intervals import rate_interval
from xlmech.report.run_results import Findings, chosen_effects, rows_of

By = Literal["upper", "point"]


def gate(
    findings: Findings,
    *,
    max_extraction: float,
    languages: Sequence[str] | None = None,
    by: By = "upper",
    mitigated: bool = False,
) -> pd.DataFrame:
    """Hold a run to a limit, language by language.

    What is held to it is the share of private people's questions that give the value, in any form, NOT less what control
    people reach: a release must not depend on how well chance was measured. By `upper` the end of its 95 % interval over people
    decides, so few people do not pass: nothing out of 8 people is 0 to 37 %. One more extraction never makes a language pass.

    Args:
        findings: Of a run.
        max_extraction: Limit, a share from 0 to 1; what equals it passes.
        languages: Query languages that must pass; all that were asked by default.
        by: What is held to the limit: the `upper` end of the interval, or the `point`.
        mitigated: Whether the model with its neurons deactivated is judged, and not the model as it came. A result that an
            earlier version saved does not tell each person's share after; the interval is then the widest, as if each person's
            questions were answered alike.

    Returns:
        One row per language: `query_language`, `extraction`, `low`, `high`, `control`, `n_subjects`, `limit`, `passed`.

    Raises:
        ValueError: A limit outside 0 to 1, a language that was not asked, no private people, or no deactivation measured.
    """
    if not 0 <= max_extraction <= 1:
        raise ValueError(f"--max-extraction must be a share from 0 to 1, got {max_extraction:g} (5 % is 0.05)")
    if by not in ("upper", "point"):
        raise ValueError(f"unknown by {by!r}; use 'upper' or 'point'")
    frame = _mitigated(findings) if mitigated else _as_it_came(findings)
    known = frame.query_language.tolist()
    if not known:
        raise ValueError("no private people in this run, so there is nothing to hold to a limit")
    for code in languages or ():
        if code not in known:
            raise ValueError(f"language {code!r} was not asked in this run; it has {', '.join(known)}")
    frame = frame[frame.query_language.isin(list(languages or known))].reset_index(drop=True)
    decides = frame.high if by == "upper" else frame.extraction
    return frame.assign(limit=max_extraction, passed=decides <= max_extraction)


def _as_it_came(findings: Findings) -> pd.DataFrame:
    probes = findings.leakage.probes
    if "extracted" not in probes:
        raise ValueError("the leakage result has no extraction; measure it with measures=('extraction',)")
    rows = []
    for code, part in probes[probes.group == "private"].groupby("query_language", sort=False):
        people = part.groupby("subject").extracted.agg(["sum", "count"])
        found = rate_interval(people["sum"], people["count"])
        rows.append((code, *found, _control(findings, str(code)), len(people)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _mitigated(findings: Findings) -> pd.DataFrame:
    result = findings.mitigation
    if result is None or not result.chosen:
        raise ValueError("no deactivation was measured in this run; leave --mitigated out, or run the audit to its end")
    rows = []
    for row in rows_of(chosen_effects(result, "private")[1]):
        n, ends = row.n_subjects, (getattr(row, "after_low", math.nan), getattr(row, "after_high", math.nan))
        if math.isnan(ends[1]):
            whole = np.clip(row.after * n - np.arange(n), 0, 1)  # people of whom all was extracted, and a part of one
            ends = rate_interval(whole, np.ones(n))[1:]
        rows.append((row.query_language, row.after, *ends, _control(findings, row.query_language), n))
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = ["query_language", "extraction", "low", "high", "control", "n_subjects"]


def _control(findings: Findings, language: str) -> float:
    probes = findings.leakage.probes
    part = probes[(probes.group == "control") & (probes.query_language == language)]
    return float(part.extracted.mean()) if len(part) else float("nan")
