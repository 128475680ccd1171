"""Is a language's set of neurons specific to it? The language x language matrix: neurons of L off, leakage in M.

sets = {"fr": fr_mask.neurons(), "zh": zh_mask.neurons()}
found = specificity_matrix(model, held_out, sets)
found.matrix()        # one row per set and query language, with intervals
found.specificity()   # per set: reduction in its own language minus the largest in another
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from xlmech.data.probes import ProbeSet
from xlmech.data.records import Record
from xlmech.engine.batching import BATCH_SIZE
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation import reduction as reductions
from xlmech.mitigation.conditions import check_sets, named_sets
from xlmech.models.load import provenance
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.result import Result

_COLUMNS = ["probe", "record", "subject", "attribute", "query_language", "template"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SpecificityResult(Result):
    """Extraction in every query language, with every language's set deactivated.

    Attributes:
        probes: One row per set and private probe: `language` (of the set), `probe`, `record`, `subject` (a hash), `attribute`,
            `query_language`, `template`, and `before` and `after` (1 where the value came out in any form, else 0).
        sizes: Number of neurons per set.
        plant_language: As of the model.
    """

    kind: ClassVar[str] = "specificity"
    probes: pd.DataFrame
    sizes: dict[str, int]
    plant_language: str = ""

    def to_frame(self) -> pd.DataFrame:
        """One row per set and probe."""
        return self.probes

    def matrix(self) -> pd.DataFrame:
        """The language x language matrix, one row per cell.

        Returns:
            `language` (whose set is off), `query_language`, `before` and `after` (shares of probes), `reduction` = 1 -
            after/before with `low` and `high` (95 %, over subjects) and the `reason` where one is NaN, `after_low` and
            `after_high`, `risen` (records that came out more often), `n_subjects`, `n_probes`.
        """
        frame = self.probes
        was, now = frame.before.to_numpy(dtype=float), frame.after.to_numpy(dtype=float)
        rows = reductions.reduction_rows(frame, was, [now], by=["language", "query_language"])
        return rows.drop(columns=["n_draws", "control"])

    def specificity(self, *, min_before: float = 0.0) -> pd.DataFrame:
        """How much more each set reduces in its own language than where it reduces most besides.

        The interval is the lowest of those of the differences from each other language (`reductions.reduction_beyond`): with many
        languages or few subjects the largest other reduction is a chance one, and the figure cautious.

        Args:
            min_before: Query languages in which a smaller share of the probes came out before are no others: their reduction is
                one of next to nothing.

        Returns:
            One row per set: `language`, `specificity` (difference of two reductions; 0.3 is 30 points) with `low` and `high`
            (95 %) and the `reason` where one is NaN, `reduction` (in its own language), `other_language` and `other_reduction`
            (the largest other).

        Raises:
            ValueError: `min_before` is not in [0, 1).
        """
        if not 0 <= min_before < 1:
            raise ValueError(f"min_before must be in [0, 1), got {min_before}")
        return pd.DataFrame([self._of(language, min_before) for language in self.sizes])

    def _of(self, language: str, min_before: float) -> dict[str, Any]:
        """One set's row of `specificity`."""
        own = self.probes[self.probes.language == language]
        shares = own.groupby("query_language", sort=False).before.mean()
        leaking = [
            str(code) for code, share in shares.items() if share > 0 and share >= min_before and code != language
        ]
        sums = own.assign(asked=1.0).groupby(["subject", "query_language"])[["before", "after", "asked"]].sum()
        wide = sums.unstack(fill_value=0.0)
        before, after, asked = (
            wide[name][[language, *leaking]].to_numpy(dtype=float) for name in ("before", "after", "asked")
        )
        value, low, high, reason = reductions.reduction_beyond(before, after, asked)
        row = {"language": language, "specificity": value, "low": low, "high": high, "reason": reason}
        reduced = {
            code: 1 - after[:, number].sum() / total if (total := before[:, number].sum()) else float("nan")
            for number, code in enumerate([language, *leaking])
        }
        row["reduction"] = reduced.pop(language)
        other = max(reduced, key=lambda code: reduced[code], default="")
        return row | {"other_language": other, "other_reduction": reduced.get(other, float("nan"))}


def specificity_matrix(
    model: Any,
    probes: ProbeSet,
    sets: Mapping[str, NeuronSet],
    *,
    before: LeakageResult | None = None,
    candidates: Iterable[Record] | None = None,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> SpecificityResult:
    """Deactivate each language's set, and measure extraction of private values in every query language.

    A set that reduces as much in another language is not specific to its own, whatever its attributions are. What this does not
    measure: what the sets cost (`evaluate_mitigation`), and, on people who chose the neurons, others.

    Args:
        model: Hooked model.
        probes: Private probes are taken from it, in the sets' languages and others; of people who chose no neurons.
        sets: Neurons by language, e.g. `found.specific`; zeroed at all positions, whatever is asked.
        before: Leakage of these probes (or more) without deactivation, where it is known already.
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.

    Returns:
        SpecificityResult: `.matrix()`, `.specificity()`.

    Raises:
        ValueError: No private probes, or in one language only; no sets, an empty one, one of a language that is not asked, or of
            another model; `before` lacks a probe, or extraction.
    """
    private, sets = probes.filter(group="private"), named_sets(sets, ())
    _check(private, sets)
    check_sets(model, sets.values())
    known = tuple(candidates if candidates is not None else probes.records)

    def extracted() -> LeakageResult:
        return measure_leakage(model, private, candidates=known, batch_size=batch_size, progress=progress)

    first = _taken(before, private) if before is not None else extracted().probes
    frames = []
    for language, chosen in sets.items():
        with ablate(model, chosen):
            found = extracted()
        rows = found.probes[_COLUMNS].assign(before=first.extracted.to_numpy(), after=found.probes.extracted.to_numpy())
        frames.append(rows.assign(language=language))
    return SpecificityResult(
        probes=pd.concat(frames, ignore_index=True),
        sizes={language: len(chosen) for language, chosen in sets.items()},
        plant_language=found.plant_language,
        provenance=provenance(model),
    )


def _check(private: ProbeSet, sets: Mapping[str, NeuronSet]) -> None:
    if not len(private):
        raise ValueError("no private probes to ask; records of group 'private' are needed")
    asked = private.languages
    if len(asked) < 2:
        raise ValueError(
            f"probes in {asked[0]} only: what is specific to a language shows in the others; ask in two or more"
        )
    for language in sets:
        if language not in asked:
            raise ValueError(
                f"a set of {language!r}, and no private probe asks in it; they ask in {', '.join(asked)}. Name sets by their "
                "language"
            )


def _taken(before: LeakageResult, private: ProbeSet) -> pd.DataFrame:
    """The rows of `before` that are these probes', in their order."""
    if "extracted" not in before.probes:
        raise ValueError("`before` has no extraction; measure it with measures=('extraction',), or leave it out")
    by_probe = before.probes.set_index("probe")
    missing = [probe.id for probe in private if probe.id not in by_probe.index]
    if missing:
        raise ValueError(
            f"`before` lacks {len(missing)} of {len(private)} private probes, {missing[0]} the first of them"
        )
    return by_probe.loc[[probe.id for probe in private]]
