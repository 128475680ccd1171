"""Similarity of two languages' representations of prompts about the same person, layer by layer.

Two measures compare a record's prompts in two languages: the mean cosine after each language's mean is subtracted, and linear
CKA (Kornblith et al. 2019, arXiv:1905.00414), which also sees agreement up to a rotation. Prompts about DIFFERENT people are
alike too, so each figure has a null that pairs every person with another one of the same attribute and template.

Example:
    >>> probes = build_probes(demo_records(), ["en", "fr"], attributes=["birth_country"], templates=[0])
    >>> representation_similarity(load_model("demo"), probes.filter(group="private")).shared_layers()
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from xlmech.checks import check_choice, check_choices
from xlmech.data.probes import Probe, ProbeSet
from xlmech.engine.batching import BATCH_SIZE, Recorder, run_batched
from xlmech.engine.token_spans import Position, token_position
from xlmech.metrics import resampling
from xlmech.metrics.similarity import centred_cosine, linear_cka, permuted_cka
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import encode_probe, warn_of_straddling
from xlmech.storage.result import Result

Measure = Literal["cosine", "cka"]
_MEASURES: tuple[Measure, ...] = ("cosine", "cka")
_AlignedProbes = dict[str, Probe]  # probes of one fact and template by query language


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityResult(Result):
    """Similarity of two languages' representations, with a null of mismatched subjects.

    Attributes:
        pairs: One row per (measure, language_a, language_b, position, layer): `value`, its 95 % bootstrap interval over
            subjects `low`, `high` (`resampling.recentred_interval`), the null's mean `null_mean` and its `null_quantile`
            quantile `null`.
        pooled: The same for the mean over all language pairs.
        languages: The query languages compared.
        null_quantile: Quantile of the null that a shared layer's lower bound must exceed.
        n_subjects: Distinct people.
        n_probes: Aligned probes per language.
        n_unaligned: Probes left out because some language does not ask them.
    """

    kind: ClassVar[str] = "similarity"
    pairs: pd.DataFrame
    pooled: pd.DataFrame
    languages: tuple[str, ...]
    null_quantile: float
    n_subjects: int
    n_probes: int
    n_unaligned: int = 0

    def __post_init__(self) -> None:
        if self.pairs.empty:
            raise ValueError("a similarity result needs at least one pair of languages")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per measure, pair of languages, position and layer."""
        return self.pairs

    def headline(self) -> dict[str, str]:
        """Map each measure and position to its highest value over layers, of the mean over pairs of languages, and its null."""
        best = self.pooled.loc[self.pooled.groupby(["measure", "position"], sort=False).value.idxmax()]
        return {
            f"{row.measure}, {row.position}": f"highest {row.value:.2f} ({row.low:.2f} to {row.high:.2f}) at layer {row.layer}, "
            f"null {row.null:.2f}, {self.n_subjects:,} people"
            for row in best.itertuples()
        }

    def shared_layers(self, *, measure: Measure = "cosine", position: Position = "last") -> dict[str, tuple[int, ...]]:
        """Find the layers at which the interval's lower bound exceeds the null's quantile.

        Both are stricter than a permutation test alone (`value` above `null`), and with few people CKA seldom passes:
        its null is high then. Each layer is tested by itself.

        Returns:
            Layers per pair of languages (`"en-fr"`), and of the mean over pairs (`"all"`).

        Raises:
            ValueError: A measure or position that this result does not have.
        """
        check_choice("measure", measure, self.pairs.measure.unique())
        check_choice("position", position, self.pairs.position.unique())
        named = self.pairs.assign(pair=self.pairs.language_a + "-" + self.pairs.language_b)
        frame = pd.concat([named, self.pooled.assign(pair="all")])
        frame = frame[(frame.measure == measure) & (frame.position == position)]
        return {
            str(pair): tuple(int(layer) for layer in part.layer[part.low > part.null])
            for pair, part in frame.groupby("pair", sort=False)
        }


def representation_similarity(
    model: Any,
    probes: ProbeSet,
    *,
    positions: Sequence[Position] = ("subject_last", "last"),
    n_null: int = 200,
    null_quantile: float = 0.95,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> SimilarityResult:
    """Compare `resid_post` of the same question in every pair of languages, per layer and position.

    It does not show that the model uses what the languages share, nor that the private fact is in it: the name alone makes two
    prompts alike. Patching does.

    Args:
        model: Hooked model.
        probes: The same records and templates in at least two languages; what some language does not ask is left out.
        positions: Tokens compared: the subject's last one (by the tokenizer's offsets), the prompt's last one.
        n_null: Draws of the null. Each pairs every person with another who is asked the same attribute with the same
            template, the same in all language pairs and layers.
        null_quantile: Quantile of the null that `shared_layers` tests against.
        seed: Of the bootstrap and the null.
        batch_size: Prompts at a time, at first.
        progress: Whether to show a progress bar.

    Returns:
        SimilarityResult. With a single subject there is neither an interval nor a null (NaN, and a warning).

    Raises:
        ValueError: No two languages with a common probe; an unknown position; a subject that is not found in the tokens;
            an attribute and template about which too few people are asked; a quantile outside 0 to 1.
    """
    positions = check_choices("position", positions, Position)
    if not 0 < null_quantile < 1:
        raise ValueError(f"null_quantile must be between 0 and 1, not {null_quantile}")
    rows = _aligned(probes)
    subjects = [next(iter(row.values())).record.subject for row in rows]
    people = list(dict.fromkeys(subjects))
    counts, partners = _draws(rows, subjects, n_null=n_null, seed=seed)
    states = _read(backend_of(model), rows, probes.languages, positions, batch_size=batch_size, progress=progress)
    rows_of_pairs = [
        {"measure": measure, "position": position, "layer": layer} | entry
        for slot, position in enumerate(positions)
        for layer in range(states.shape[3])
        for measure in _MEASURES
        for entry in _compare(states[:, :, slot, layer], probes.languages, measure, counts, partners, null_quantile)
    ]
    frame = pd.DataFrame(rows_of_pairs)
    order = ["measure", "position", "language_a", "language_b", "layer"]
    pooled = frame.language_a == ""
    return SimilarityResult(
        pairs=frame[~pooled].sort_values(order, kind="stable", ignore_index=True),
        pooled=frame[pooled].drop(columns=["language_a", "language_b"]).reset_index(drop=True),
        languages=probes.languages,
        null_quantile=null_quantile,
        n_subjects=len(people),
        n_probes=len(rows),
        n_unaligned=len(probes) - len(rows) * len(probes.languages),
        provenance=provenance(model, seed=seed),
    )


def _aligned(probes: ProbeSet) -> list[_AlignedProbes]:
    if len(probes.languages) < 2:
        codes = ", ".join(probes.languages) or "no language"
        raise ValueError(f"similarity needs probes in two languages or more; these are asked in {codes}")
    rows: dict[tuple[str, int], _AlignedProbes] = {}
    for probe in probes:
        rows.setdefault((probe.record.id, probe.template), {})[probe.query_language] = probe
    whole = [row for row in rows.values() if len(row) == len(probes.languages)]
    if not whole:
        raise ValueError(
            f"no record is asked with the same template in all of {', '.join(probes.languages)}; build the probes of all "
            "languages together, or filter to languages that share records"
        )
    return whole


def _draws(
    rows: list[_AlignedProbes], subjects: list[str], *, n_null: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Draw (resample, row) counts of a bootstrap over subjects, and (draw, row) partners of the null."""
    people = list(dict.fromkeys(subjects))
    subject_indices = np.array([people.index(subject) for subject in subjects])
    counts = resampling.resample_counts(len(people), seed=seed)[:, subject_indices]
    if len(people) < 2:
        warnings.warn("a single subject: there is no interval and no null (NaN); ask about more people", stacklevel=3)
        return counts, np.empty((0, len(rows)), dtype=np.intp)
    rng = np.random.default_rng(seed)
    return counts, np.stack([_mismatched(rows, subject_indices, rng) for _ in range(n_null)])


def _mismatched(
    rows: list[_AlignedProbes], subject_indices: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw for each (row,) a row of another subject: same attribute, group and template, subjects in a random circle."""
    circle_order = rng.permutation(subject_indices.max() + 1)
    strata: dict[tuple[str, str, int], list[int]] = {}
    for number, row in enumerate(rows):
        probe = next(iter(row.values()))
        strata.setdefault((probe.record.attribute, probe.record.group, probe.template), []).append(number)
    partner = np.empty(len(rows), dtype=np.intp)
    for (attribute, group, template), members in strata.items():
        circle = sorted(members, key=lambda number: int(circle_order[subject_indices[number]]))
        # Shifted by as many rows as the most frequent subject has, no one is paired with themselves.
        shift = int(np.bincount(subject_indices[circle]).max())
        if len(circle) < 2 * shift:
            raise ValueError(
                f"{attribute}, template {template}: too few {group} people are asked it for a null that mismatches them "
                f"({len(set(subject_indices[circle].tolist()))}, for {len(circle)} records); ask about more, or leave it out"
            )
        partner[circle] = circle[shift:] + circle[:shift]
    return partner


def _read(
    backend: Backend,
    rows: list[_AlignedProbes],
    languages: Sequence[str],
    positions: Sequence[Position],
    *,
    batch_size: int,
    progress: bool,
) -> Float[torch.Tensor, "language row position layer d_model"]:
    probes = [row[code] for code in languages for row in rows]
    token_positions = [[token_position(backend, probe, position) for position in positions] for probe in probes]
    encoded = [encode_probe(backend, probe, languages=()) for probe in probes]
    warn_of_straddling([item.n_straddling for item in encoded], stacklevel=4)
    prompts = [item.prompt for item in encoded]
    states = torch.empty(len(probes), len(positions), backend.n_layers, backend.d_model)
    recorder = Recorder(backend, "hook_resid_post")

    @torch.no_grad()
    def read(tokens: torch.Tensor, indices: list[int]) -> None:
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        for layer, resid in enumerate(recorder.kept):
            for row, index in enumerate(indices):
                states[index, :, layer] = resid[row, token_positions[index]].float().cpu()

    run_batched(prompts, read, batch_size=batch_size, progress="similarity" if progress else "")
    return states.view(len(languages), len(rows), *states.shape[1:])


def _compare(
    states: Float[torch.Tensor, "language row d_model"],
    languages: Sequence[str],
    measure: Measure,
    counts: NDArray[np.float64],
    partners: NDArray[np.intp],
    null_quantile: float,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one measure, position and layer: one per pair of languages, and their mean without languages."""
    centred = (states.double() - states.double().mean(1, keepdim=True)).numpy()
    values, draws, nulls = [], [], []
    for a, b in combinations(centred, 2):
        grams = (a @ b.T, a @ a.T, b @ b.T)
        unit_counts, null_counts = np.ones((1, states.shape[1])), np.ones(partners.shape)
        if measure == "cosine":
            values.append(centred_cosine(*grams, unit_counts))
            draws.append(centred_cosine(*grams, counts))
            nulls.append(centred_cosine(*grams, null_counts, partners))
        else:
            values.append(linear_cka(*grams[1:], unit_counts))
            draws.append(linear_cka(*grams[1:], counts))
            nulls.append(permuted_cka(*grams[1:], partners))
    pairs = combinations(languages, 2)
    for (first, second), value, draw, null in zip(pairs, values, draws, nulls, strict=True):
        yield {"language_a": first, "language_b": second} | _summary(value, draw, null, null_quantile)
    value, draw, null = (np.asarray(np.mean(part, axis=0)) for part in (values, draws, nulls))
    yield {"language_a": "", "language_b": ""} | _summary(value, draw, null, null_quantile)


def _summary(
    value: NDArray[np.float64], draws: NDArray[np.float64], null: NDArray[np.float64], quantile: float
) -> dict[str, float]:
    low, high = resampling.recentred_interval(value[0], draws)
    has_null = len(null) > 0
    return {
        "value": float(value[0]),
        "low": float(low),
        "high": float(high),
        "null_mean": float(null.mean()) if has_null else float("nan"),
        "null": float(np.quantile(null, quantile)) if has_null else float("nan"),
    }
