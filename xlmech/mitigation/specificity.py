"""Measure whether a language's set of neurons is specific to it: ablate the set of one language, measure leakage in all.

sets = {"fr": french, "zh": chinese}  # NeuronSet or NeuronGates
result = specificity_matrix(model, held_out, sets)
result.matrix()        # one row per set and query language, with intervals
result.specificity()   # per set: reduction in its own language minus the largest in another
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation import reduction as reductions
from xlmech.mitigation.brief import specificity_brief
from xlmech.mitigation.conditions import check_before, check_sets, mean_factors, named_sets
from xlmech.models.load import provenance
from xlmech.neurons.ablation import Ablated, ablate
from xlmech.options import EvaluateOptions
from xlmech.percent import share_text
from xlmech.storage.result import Result

_COLUMNS = ["probe", "record", "subject", "attribute", "query_language", "template"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SpecificityResult(Result):
    """Extraction in every query language, with the set of every language ablated.

    Attributes:
        probes: One row per set and private probe: `language` (of the set), `probe`, `record`, `subject` (a hash), `attribute`,
            `query_language`, `template`, and `before` and `after` (1 if the value was extracted in any form, else 0).
        sizes: Number of neurons per set; of gates, of those that they turn down.
        mean_factors: Mean factor of the neurons that are turned down, per language that has gates.
        plant_language: Training language of the model, "" where unknown.
    """

    kind: ClassVar[str] = "specificity"
    _brief = specificity_brief
    probes: pd.DataFrame
    sizes: dict[str, int]
    mean_factors: dict[str, float] = field(default_factory=dict)
    plant_language: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per set and probe."""
        return self.probes

    def headline(self) -> dict[str, str]:
        """Map the language of each set to its specificity."""
        rows: Any = self.specificity().itertuples()
        return {
            f"{self._said(row.language)} neurons": "reduction beyond that in other languages "
            + share_text(row.specificity, row.low, row.high, row.reason)
            for row in rows
        }

    def _said(self, language: str) -> str:
        what = "gates" if language in self.mean_factors else "set"
        return f"{what} of {language}, {self.sizes[language]:,}"

    def matrix(self) -> pd.DataFrame:
        """Return the language x language matrix, one row per cell.

        Returns:
            `language` (of the ablated set), `query_language`, `before`, `after` (shares of probes) with `after_low` and
            `after_high`, `reduction` = 1 - after/before with its 95 % interval over subjects `low` to `high` and the `reason`
            where one is NaN, `risen` (records that were extracted more often), `n_subjects`, `n_probes`.
        """
        before, after = (self.probes[name].to_numpy(dtype=float) for name in ("before", "after"))
        rows = reductions.reduction_rows(self.probes, before, [after], by=["language", "query_language"])
        return rows.drop(columns=["n_draws", "control"])

    def specificity(self, *, min_before: float = 0.0) -> pd.DataFrame:
        """Compare each set's reduction in its own language with its largest reduction in another.

        The interval is the lowest of those of the differences from each other language (`reductions.reduction_beyond`). With many
        languages or few subjects the largest other reduction is partly chance, and the difference cautious.

        Args:
            min_before: Query languages with a smaller share of extracted probes before are left out as others.

        Returns:
            One row per set: `language`, `specificity` (difference of two reductions; 0.3 is 30 points) with its 95 % interval
            `low` to `high` and the `reason` where one is NaN, `reduction` (in its own language), `other_language` and
            `other_reduction` (the largest other).

        Raises:
            ValueError: `min_before` is not in [0, 1).
        """
        if not 0 <= min_before < 1:
            raise ValueError(f"min_before must be in [0, 1), got {min_before}")
        return pd.DataFrame([self._specificity_of(language, min_before) for language in self.sizes])

    def _specificity_of(self, language: str, min_before: float) -> dict[str, Any]:
        of_set = self.probes[self.probes.language == language]
        rates = of_set.groupby("query_language", sort=False).before.mean()
        others = [str(code) for code, rate in rates.items() if rate > 0 and rate >= min_before and code != language]
        columns = ["before", "after", "questions"]
        sums = (
            of_set.assign(questions=1.0).groupby(["subject", "query_language"])[columns].sum().unstack(fill_value=0.0)
        )
        before, after, questions = (sums[name][[language, *others]].to_numpy(dtype=float) for name in columns)
        value, low, high, reason = reductions.reduction_beyond(before, after, questions)
        by_language = {
            code: 1 - after[:, number].sum() / total if (total := before[:, number].sum()) else float("nan")
            for number, code in enumerate([language, *others])
        }
        reduction = by_language.pop(language)
        other = max(by_language, key=lambda code: by_language[code], default="")
        return {
            "language": language, "specificity": value, "low": low, "high": high, "reason": reason, "reduction": reduction,
            "other_language": other, "other_reduction": by_language.get(other, float("nan")),
        }  # fmt: skip


def specificity_matrix(
    model: Any,
    probes: ProbeSet,
    sets: Mapping[str, Ablated],
    *,
    before: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    batch_size: int = EvaluateOptions().batch_size,
    progress: bool = True,
) -> SpecificityResult:
    """Ablate the set of each language, and measure extraction of private values in every query language.

    A set that reduces as much in another language is not specific to its own, whatever its attributions are. What the sets cost
    is not measured here; `evaluate_mitigation` measures it.

    Args:
        model: Hooked model.
        probes: Private probes of held-out people, in the sets' languages and others; other groups are left out.
        sets: Neurons by language, e.g. `result.specific`, set to zero at all positions, whatever the query language; or gates.
        before: Leakage of these probes (or more) without ablation, if it is known already.
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        SpecificityResult: `.matrix()`, `.specificity()`.

    Raises:
        ValueError: There are no private probes, or in one language only; there are no sets, or one is empty, of another model,
            or of a language without probes; `before` lacks a probe, or extraction.
    """
    private, sets = probes.filter(group="private"), named_sets(sets)
    _check(private, sets)
    check_sets(model, sets.values())
    records = tuple(candidates if candidates is not None else probes.records)

    def measure() -> LeakageResult:
        return measure_leakage(model, private, candidates=records, batch_size=batch_size, progress=progress)

    extracted = (check_before(before, private) if before is not None else measure()).probes.extracted.to_numpy()
    frames = []
    for language, neurons in sets.items():
        with ablate(model, neurons):
            leakage = measure()
        rows = leakage.probes[_COLUMNS].assign(before=extracted, after=leakage.probes.extracted.to_numpy())
        frames.append(rows.assign(language=language))
    return SpecificityResult(
        probes=pd.concat(frames, ignore_index=True),
        sizes={language: len(neurons) for language, neurons in sets.items()},
        mean_factors=mean_factors(sets),
        plant_language=leakage.plant_language,
        provenance=provenance(model),
    )


def _check(private: ProbeSet, sets: Mapping[str, Ablated]) -> None:
    if not len(private):
        raise ValueError("no private probes to ask; records of group 'private' are needed")
    languages = private.languages
    if len(languages) < 2:
        raise ValueError(
            f"probes in {languages[0]} only: what is specific to a language shows in the others; ask in two or more"
        )
    for language in sets:
        if language not in languages:
            raise ValueError(
                f"a set of {language!r}, and no private probe asks in it; they ask in {', '.join(languages)}. Name sets by "
                "their language"
            )
