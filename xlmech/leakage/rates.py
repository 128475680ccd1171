"""Rates of leakage with their intervals over people: of one column, by wording, and by any wording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from xlmech.metrics import intervals

_BOUNDS = {"rank": (1.0, math.inf), "exposure_bits": (0.0, math.inf), "log_prob": (-math.inf, 0.0)}
"""Smallest and largest value of the measures that are not a yes or no."""


def rate(frame: pd.DataFrame, measure: str) -> intervals.Interval:
    """Return the mean of a column over probes, with its 95 % interval over subjects."""
    by_subject = frame.groupby("subject")[measure].agg(["sum", "count"])
    if measure in _BOUNDS:
        return intervals.mean_interval(by_subject["sum"], by_subject["count"], bounds=_BOUNDS[measure])
    return intervals.rate_interval(by_subject["sum"], by_subject["count"])


def wording_rates(probes: pd.DataFrame, group: str) -> pd.DataFrame:
    """Extraction by each question template alone, as `LeakageResult.by_wording` returns it.

    Raises:
        ValueError: Extraction was not measured.
    """
    return _rates(_with_extraction(probes), group, ["query_language", "template"])


def any_wording_rates(probes: pd.DataFrame, group: str) -> pd.DataFrame:
    """Extraction by any question template, as `LeakageResult.any_wording` returns it.

    Raises:
        ValueError: Extraction was not measured.
    """
    keys = ["group", "query_language", "record", "subject"]
    by_record = _with_extraction(probes).groupby(keys, sort=False)[["extracted"]].max().reset_index()
    rows = _rates(by_record, group, ["query_language"]).rename(columns={"n_probes": "n_records"})
    return rows.assign(n_templates=probes.template.nunique())


def _with_extraction(probes: pd.DataFrame) -> pd.DataFrame:
    if "extracted" not in probes:
        raise ValueError("wordings are compared by extraction, which was not measured; add 'extraction' to measures=")
    return probes


def _rates(frame: pd.DataFrame, group: str, keys: Sequence[str]) -> pd.DataFrame:
    """Extraction of a group per value of `keys`, with that of control subjects in `control`."""
    control = frame[frame.group == "control"].groupby(list(keys)).extracted.mean()
    rows = []
    for values, part in frame[frame.group == group].groupby(list(keys), sort=False):
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        row |= dict(zip(("value", "low", "high"), rate(part, "extracted"), strict=True))
        row["control"] = control.get(values if len(keys) > 1 else values[0], math.nan)
        rows.append(row | {"n_subjects": part.subject.nunique(), "n_probes": len(part)})
    return pd.DataFrame(rows)
