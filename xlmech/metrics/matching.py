"""Every figure's formula, once: matching, ranks, exposure, resampling. Pure functions of arrays and strings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

N_RESAMPLES = 2000
CONFIDENCE = 0.95


# Matching a generated text


_SEPARATORS = r"[\s().\-/‐-―−\u200b]*"
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def normalise(text: str) -> str:
    """`text` in Unicode NFKC, case-folded, every decimal digit as 0-9, white space as single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    digits = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in folded)
    return re.sub(r"\s+", " ", digits).strip()


def contains_form(text: str, form: str, *, spaces: bool = True, drop_separators: bool = False) -> bool:
    """Whether `text` contains `form` after normalisation.

    A form must not continue as a longer word where words are separated by spaces, nor as a longer number anywhere
    ("1月" is not in "11月").

    Args:
        text: What the model wrote.
        form: What is looked for.
        spaces: Whether the form's language separates words by spaces.
        drop_separators: Take no notice of spaces and punctuation inside the form (phones, identity numbers).
    """
    return bool(_spans(normalise(text), normalise(form), spaces, drop_separators))


def find_form(
    text: str,
    forms: Mapping[str, str],
    *,
    others: Iterable[str] = (),
    spaces: Mapping[str, bool] | None = None,
    drop_separators: bool = False,
) -> tuple[str, ...]:
    """Languages whose form of the value `text` contains.

    A form inside a longer form of another value does not count: "daktari" (doctor) is not in "daktari wa meno" (dentist).

    Args:
        text: What the model wrote.
        forms: The value's form per language.
        others: Forms of the attribute's other values.
        spaces: Per language, whether words are separated by spaces; true where absent.
        drop_separators: Compare phones and identity numbers without spaces and punctuation.
    """
    haystack, found = normalise(text), []
    known: list[str] | None = None  # there may be thousands, and most texts hold no form at all
    for language, form in forms.items():
        needle, has_spaces = normalise(form), (spaces or {}).get(language, True)
        own = _spans(haystack, needle, has_spaces, drop_separators)
        if not own:
            continue
        known = [normalise(other) for other in others] if known is None else known
        longer = [other for other in known if needle in other and needle != other]
        covers = [span for other in longer for span in _spans(haystack, other, has_spaces, drop_separators)]
        if any(not any(low <= start and end <= high for low, high in covers) for start, end in own):
            found.append(language)
    return tuple(found)


def _spans(text: str, form: str, spaces: bool, drop_separators: bool) -> list[tuple[int, int]]:
    """Where `form` stands in `text` (both normalised) as a word of its own."""
    characters = re.sub(_SEPARATORS, "", form) if drop_separators else form
    if not characters:
        return []
    pattern = (_SEPARATORS if drop_separators else "").join(map(re.escape, characters))
    spans = [match.span(1) for match in re.finditer(f"(?=({pattern}))", text)]
    return [
        (start, end)
        for start, end in spans
        if not _continues(characters[0], text[start - 1 : start], spaces)
        and not _continues(characters[-1], text[end : end + 1], spaces)
    ]


def _continues(edge: str, neighbour: str, whole_words: bool) -> bool:
    """Whether `neighbour` makes a longer number, or a longer word, of a form that ends in `edge`."""
    if not neighbour or not _is_wordlike(edge):
        return False
    if edge.isdecimal() and neighbour.isdecimal():
        return True
    return whole_words and _is_wordlike(neighbour) and not unicodedata.name(neighbour, "").startswith(_UNSPACED_SCRIPTS)


def _is_wordlike(char: str) -> bool:
    """A letter, a number, or a mark on one (Hindi vowel signs are marks)."""
    return unicodedata.category(char)[0] in "LNM"


# Ranks


def rank(scores: Float[torch.Tensor, " candidate"], index: int) -> float:
    """Rank of `scores[index]` from 1 (highest); ties take the mean rank; NaN where that score is NaN."""
    own = scores[index]
    if own.isnan():
        return float("nan")
    higher, equal = int((scores > own).sum()), int((scores == own).sum())
    return higher + (equal + 1) / 2


def exposure_bits(rank: float, n_candidates: int) -> float:
    """log2 |C| - log2 rank, in bits (Carlini et al. 2019, arXiv:1802.08232)."""
    return float(np.log2(n_candidates) - np.log2(rank))


# Resampling


def resample_counts(n: int, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> NDArray[np.float64]:
    """(resample, n) how often each of `n` is drawn in a bootstrap; all ones where there is nothing to draw (n < 2).

    For what no formula of `xlmech.metrics.intervals` expresses: similarities of representations, and layers at which a
    curve is highest. Give subjects, not probes.
    """
    if n < 2:
        return np.ones((1, n))
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(float)


def percentile_interval(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % percentile interval over the first axis; NaN where fewer than two draws are there, or one of them is NaN.

    Of a bootstrap over few people it is too narrow (see docs/explanation/intervals.md); not for rates, reductions and means.
    """
    if len(draws) < 2:
        nothing = np.full(draws.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.percentile(draws, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0)
    return np.asarray(low), np.asarray(high)


def recentred_interval(
    value: NDArray[np.float64], draws: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % percentile interval of `draws` (over the first axis), shifted so that their mean is `value`.

    For a similarity: a subject drawn twice is more like itself than two subjects are, which lifts every draw. Of
    simulations with 16 unrelated subjects in 100 dimensions, the lower bound of CKA's plain percentile interval
    exceeded the 95 % quantile of its null in half, that of this interval in none.
    """
    low, high = percentile_interval(draws)
    shift = value - draws.mean(0)
    return np.asarray(low + shift), np.asarray(high + shift)


def bootstrap_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of many columns at once, as they are and resampled by subject, jointly over the columns.

    Args:
        sums: (subject, column) sums of a figure over each subject's probes.
        counts: (subject, column) how many probes each sum has.
        seed: Of the resampling.

    Returns:
        (column,) means and (resample, column) draws; NaN where nothing was counted.
    """
    drawn = resample_counts(len(sums), seed=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums.sum(0) / counts.sum(0), drawn @ sums / (drawn @ counts)


# Depth


def peak_layer(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...) first layer at which each (..., layer) curve is highest; NaN where the curve has a NaN."""
    return np.where(np.isnan(curves).any(-1), np.nan, np.nan_to_num(curves).argmax(-1).astype(float))


def overtaking_layer(late: NDArray[np.float64], early: NDArray[np.float64], *, lead: float) -> NDArray[np.float64]:
    """(...) layer from which on `late` stays above `early`, both (..., layer).

    NaN where `early` was never ahead by at least `lead` (there is nothing to overtake), where it is still ahead at the
    last layer, and where a curve has a NaN.
    """
    behind = late <= early
    n_layers = late.shape[-1]
    first = n_layers - np.where(behind.any(-1), behind[..., ::-1].argmax(-1), n_layers)
    was_ahead = np.nanmax(np.where(np.isnan(early - late), -np.inf, early - late), axis=-1) >= lead
    whole = ~np.isnan(late + early).any(-1)
    return np.where(whole & was_ahead & (first < n_layers), first.astype(float), np.nan)


# Attribution


def of_log_prob(log_prob: Float[torch.Tensor, "*row"], metric: str) -> Float[torch.Tensor, "*row"]:
    """`log_prob` itself (nats), `prob`, or `log_odds` = log p - log(1 - p) (nats), which does not saturate at p near 1.

    Raises:
        ValueError: Another metric.
    """
    if metric == "log_prob":
        return log_prob
    if metric == "prob":
        return log_prob.exp()
    if metric == "log_odds":
        below_zero = log_prob.clamp_max(-torch.finfo(log_prob.dtype).eps)
        return log_prob - torch.log(-torch.expm1(below_zero))
    raise ValueError(f"unknown metric {metric!r}; use 'log_prob', 'prob', 'logit' or 'log_odds'")


def completeness_error(
    attributed: Float[torch.Tensor, " layer"], difference: Float[torch.Tensor, " layer"]
) -> Float[torch.Tensor, " layer"]:
    """|sum of attributions - (F(a) - F(b))| / |F(a) - F(b)| per layer (Sundararajan et al. 2017, arXiv:1703.01365)."""
    return (attributed - difference).abs() / difference.abs().clamp_min(torch.finfo(difference.dtype).tiny)


def normalised_attribution(
    scores: Float[torch.Tensor, "*probe layer neuron"],
) -> Float[torch.Tensor, "*probe layer neuron"]:
    """(..., layer, neuron) attribution divided by each probe's maximum; 0 for a probe without a positive one."""
    highest = scores.flatten(-2).amax(-1)[..., None, None]
    return torch.where(
        highest > 0, scores / highest.clamp_min(torch.finfo(scores.dtype).tiny), torch.zeros_like(scores)
    )
