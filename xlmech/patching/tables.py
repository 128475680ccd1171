"""Tables of patched runs: from log-probabilities to tidy rows, and their means and intervals over pairs."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from xlmech.data.pairs import ProbePair
from xlmech.data.records import subject_hash
from xlmech.metrics import intervals, resampling
from xlmech.patching.plan import contrast
from xlmech.patching.runs import DonorRun, PatchedPrompt, Sweep

_UNBOUNDED = (-np.inf, np.inf)
_BOUNDS = {"prob": (0.0, 1.0), "change": (-1.0, 1.0)}
"""Smallest and largest value of what has any."""
SITE_COLUMNS = ["kind", "source_language", "target_language", "layer", "head"]


def describe(pair: ProbePair) -> dict[str, str]:
    """Name a pair in columns; subjects are hashes."""
    return {
        "pair": pair.id,
        "kind": pair.kind,
        "source_record": pair.answer.record.id,
        "target_record": pair.target.record.id,
        "source_subject": subject_hash(pair.answer.record.subject),
        "target_subject": subject_hash(pair.target.record.subject),
        "attribute": pair.target.record.attribute,
        "source_language": pair.source_language,
        "target_language": pair.target.query_language,
    }


def prepend_columns(columns: dict[str, str], rows: pd.DataFrame) -> pd.DataFrame:
    """Put the same columns in front of every row."""
    return rows.assign(**columns)[[*columns, *rows]]


def patch_sites(sweep: Sweep) -> pd.DataFrame:
    """List `layer` and `head` (-1 where there is none) of each variant of a sweep, in its order."""
    return pd.DataFrame(
        [
            (layer, number if len(mask) > 1 else -1)
            for layer, mask in sorted(sweep.masks.items())
            for number in range(len(mask))
        ],
        columns=["layer", "head"],
    )


def tables(
    sites: pd.DataFrame, item: PatchedPrompt, donor: DonorRun, scores: Float[Tensor, "row outcome"]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make a row per site and outcome, and a row per site with the effect on the contrast.

    Args:
        sites: Layer and head (and position) of each variant.
        item: The patched prompt.
        donor: What was put in.
        scores: Log-probability of each outcome: the clean run's, then each variant's.
    """
    names = list(item.forms)
    patched, clean, donated = (part.double().cpu() for part in (scores[1:], scores[:1], donor.log_prob[None]))
    rows = sites.loc[sites.index.repeat(len(names))].reset_index(drop=True)
    rows["outcome"] = names * len(sites)
    for column, part in (("log_prob", patched), ("clean_log_prob", clean), ("donor_log_prob", donated)):
        rows[column] = part.expand_as(patched).flatten().numpy()
    of_patched, of_clean, of_donor = (contrast(part, names) for part in (patched, clean, donated))
    reach = of_donor - of_clean
    normalised = (of_patched - of_clean) / reach.where(reach.abs() > 1e-6, np.nan)
    effects = sites.assign(
        contrast=of_patched.numpy(),
        clean_contrast=float(of_clean),
        donor_contrast=float(of_donor),
        normalised=normalised.numpy(),
    )
    return rows, effects


def means(frame: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Average `values` per group of `keys`, with 95 % intervals over pairs of subjects; NaN and a warning for one pair."""
    parts = []
    for group, part in frame.groupby(keys[:3], sort=False):
        if subject_pair(part).nunique() < 2:
            warnings.warn(
                f"a single pair of subjects ({', '.join(map(str, group))}): there is no interval (NaN); patch more pairs",
                stacklevel=3,
            )
        columns = part[keys[3:]].drop_duplicates().reset_index(drop=True)
        found = columns.assign(**dict(zip(keys[:3], map(str, group), strict=True)))[keys]
        for value in values:
            mean, low, high = intervals.mean_intervals(
                *_by_pair(pd.DataFrame(part), keys[3:], value), bounds=_BOUNDS.get(value, _UNBOUNDED)
            )
            found = found.assign(**{value: mean, f"{value}_low": low, f"{value}_high": high})
        parts.append(found.assign(n_pairs=part.pair.nunique()))
    return pd.concat(parts, ignore_index=True)


def resampled(
    frame: pd.DataFrame, keys: list[str], value: str
) -> tuple[pd.DataFrame, NDArray[np.float64], NDArray[np.float64]]:
    """Return groups by `keys`, in order of appearance, their (group,) means of `value` and (resample, group) draws of those."""
    mean, draws = resampling.bootstrap_means(*_by_pair(frame, keys, value))
    return frame[keys].drop_duplicates().reset_index(drop=True), mean, draws


def _by_pair(frame: pd.DataFrame, keys: list[str], value: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (pair of subjects, group by `keys`) sums of `value` and how many each has."""
    groups = frame.groupby(keys, sort=False).ngroup()
    by_pair = frame[value].groupby([subject_pair(frame), groups])
    sums, counts = by_pair.sum().unstack(fill_value=0), by_pair.count().unstack(fill_value=0)
    return sums.to_numpy(), counts.to_numpy(dtype=float)


def subject_pair(frame: pd.DataFrame) -> pd.Series:
    """Name the two people that a row is about, whichever of them is the source."""
    source, target = frame.source_subject, frame.target_subject
    return source.where(source < target, target) + "-" + target.where(source < target, source)
