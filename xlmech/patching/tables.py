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
from xlmech.patching.runs import Donated, PatchedPrompt, Sweep

_UNBOUNDED = (-np.inf, np.inf)
_BOUNDS = {"prob": (0.0, 1.0), "change": (-1.0, 1.0)}
"""Smallest and largest value of what has any."""
PLACE = ["kind", "source_language", "target_language", "layer", "head"]


def describe(pair: ProbePair) -> dict[str, str]:
    """Columns that name a pair; subjects are hashes."""
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


def beside(common: dict[str, str], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the same columns in front of each."""
    return rows.assign(**common)[[*common, *rows]]


def places_of(sweep: Sweep) -> pd.DataFrame:
    """`layer` and `head` (-1 where there is none) of each variant of a sweep, in its order."""
    return pd.DataFrame(
        [
            (layer, number if len(mask) > 1 else -1)
            for layer, mask in sorted(sweep.masks.items())
            for number in range(len(mask))
        ],
        columns=["layer", "head"],
    )


def tables(
    places: pd.DataFrame, item: PatchedPrompt, donor: Donated, scores: Float[Tensor, "row outcome"]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per place and outcome, and one per place with the effect on the contrast.

    Args:
        places: What each variant is.
        item: The patched prompt.
        donor: What was put in.
        scores: Log-probability of each outcome: the clean run's, then each variant's.
    """
    names = list(item.forms)
    patched, clean, own = (part.double().cpu() for part in (scores[1:], scores[:1], donor.log_prob[None]))
    rows = places.loc[places.index.repeat(len(names))].reset_index(drop=True)
    rows["outcome"] = names * len(places)
    for column, part in (("log_prob", patched), ("clean_log_prob", clean), ("donor_log_prob", own)):
        rows[column] = part.expand_as(patched).flatten().numpy()
    one, none, whole = (contrast(part, names) for part in (patched, clean, own))
    reach = whole - none
    normalised = (one - none) / reach.where(reach.abs() > 1e-6, np.nan)
    effects = places.assign(
        contrast=one.numpy(), clean_contrast=float(none), donor_contrast=float(whole), normalised=normalised.numpy()
    )
    return rows, effects


def means(frame: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Mean of each of `values` with its 95 % interval, per group of `keys`.

    The units are pairs of subjects. NaN, and a warning, for a single one.
    """
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
    """Groups by `keys`, in order of appearance, their (group,) means of `value` and (resample, group) draws of those."""
    mean, draws = resampling.bootstrap_means(*_by_pair(frame, keys, value))
    return frame[keys].drop_duplicates().reset_index(drop=True), mean, draws


def _by_pair(frame: pd.DataFrame, keys: list[str], value: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(pair of subjects, group by `keys`) sums of `value` and how many each has."""
    groups = frame.groupby(keys, sort=False).ngroup()
    by_pair = frame[value].groupby([subject_pair(frame), groups])
    sums, counts = by_pair.sum().unstack(fill_value=0), by_pair.count().unstack(fill_value=0)
    return sums.to_numpy(), counts.to_numpy(dtype=float)


def subject_pair(frame: pd.DataFrame) -> pd.Series:
    """Which two people a row is about, whichever of them is the source."""
    one, two = frame.source_subject, frame.target_subject
    return one.where(one < two, two) + "-" + two.where(one < two, one)
