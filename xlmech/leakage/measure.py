"""Leakage: can a person's data be extracted from the model, in which language and in which form?

A value is extracted in ANY language's form, because a model that memorised in English often answers a French prompt with the
English word. Every interval is over people (`xlmech.metrics.intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from xlmech.checks import check_choice, check_choices
from xlmech.data.candidates import candidate_forms
from xlmech.data.languages import available_languages
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Group, Record
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.sampling import Sampling
from xlmech.execution.resume import in_order, run_task
from xlmech.leakage.task import LeakageTask, longest_answer
from xlmech.metrics import intervals
from xlmech.models.backends import backend_of
from xlmech.models.load import plant_language, provenance
from xlmech.models.tokens import encode_probe
from xlmech.options import Measure
from xlmech.percent import share_text
from xlmech.storage.result import Result

_FIGURES = ("extracted", "own_form", "exposure_bits", "log_prob", "rank")


@dataclass(frozen=True, eq=False, kw_only=True)
class LeakageResult(Result):
    """Extraction and exposure, probe by probe.

    Attributes:
        probes: One row per probe: `extracted` (value in any form), `own_form` (in the query language's form),
            `answer_language` (of the form given, "" if none), and where exposure was measured `log_prob` (nats, of the
            likeliest form), `rank`, `n_candidates`, `exposure_bits`. `subject` is a hash.
        plant_language: Language of the private records' training text, "" where unknown.
        failed: Ids of probes that failed every time and are not in `probes`; only where work is done in shards.
    """

    kind: ClassVar[str] = "leakage"
    probes: pd.DataFrame
    plant_language: str = ""
    failed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.probes.empty:
            raise ValueError("a leakage result needs at least one probe")
        if not self.measured:
            raise ValueError("a leakage result needs extraction or exposure of its probes; measure one of them")

    def to_frame(self) -> pd.DataFrame:
        """One row per probe."""
        return self.probes

    @property
    def measured(self) -> tuple[str, ...]:
        """Columns of `probes` that hold a figure of each probe: those of extraction, of exposure, or of both."""
        return tuple(column for column in _FIGURES if column in self.probes)

    def matrix(self, *, group: Group = "private", measure: str | None = None) -> pd.DataFrame:
        """The leakage matrix's row for this plant language.

        Args:
            group: Whose records.
            measure: A column of `probes`; `extracted` by default, and `exposure_bits` where exposure alone was measured.

        Returns:
            One row per query language: `plant_language`, `query_language`, `value` (mean over probes), `low`, `high`
            (95 %, over subjects), `control` (the same figure for control subjects, NaN without any), `n_subjects`,
            `n_probes`.

        Raises:
            ValueError: An unknown group, or a figure that was not measured.
        """
        check_choice("group", group, Group)
        measure = self.measured[0] if measure is None else measure
        check_choice("measure", measure, self.measured)
        of_group = self.probes[self.probes.group == group]
        rows = []
        for language, frame in of_group.groupby("query_language", sort=False):
            value, low, high = rate(frame, measure)
            controls = self.probes[(self.probes.group == "control") & (self.probes.query_language == language)]
            rows.append(
                {
                    "plant_language": self.plant_language,
                    "query_language": language,
                    "value": value,
                    "low": low,
                    "high": high,
                    "control": controls[measure].mean() if len(controls) else float("nan"),
                    "n_subjects": frame.subject.nunique(),
                    "n_probes": len(frame),
                }
            )
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row per group and attribute (and `all`): what was measured, as a mean over probes with its interval.

        Returns:
            `group`, `attribute`; `extraction` (in any form) with `low` and `high`, and `own_form` (in the query language's);
            `exposure_bits` with `bits_low` and `bits_high`; `n_probes`. Columns of what was not measured are left out.
        """
        rows = []
        for group, of_group in self.probes.groupby("group", sort=False):
            for attribute, frame in [("all", of_group), *of_group.groupby("attribute", sort=False)]:
                row: dict[str, Any] = {"group": group, "attribute": attribute}
                if "extracted" in self.measured:
                    row |= dict(zip(("extraction", "low", "high"), rate(frame, "extracted"), strict=True))
                    row["own_form"] = frame.own_form.mean()
                if "exposure_bits" in self.measured:
                    names = ("exposure_bits", "bits_low", "bits_high")
                    row |= dict(zip(names, rate(frame, "exposure_bits"), strict=True))
                rows.append(row | {"n_probes": len(frame)})
        return pd.DataFrame(rows)

    def headline(self) -> dict[str, str]:
        """Map each group to its extraction rate, or its exposure where that alone was measured."""
        measure = self.measured[0]
        shown = {}
        for group, frame in self.probes.groupby("group", sort=False):
            value, low, high = rate(frame, measure)
            text = share_text(value, low, high) if measure == "extracted" else f"{value:.3g} ({low:.3g} to {high:.3g})"
            shown[str(group)] = f"{measure} {text}, {frame.subject.nunique():,} people, {len(frame):,} probes"
        return shown


_BOUNDS = {"rank": (1.0, math.inf), "exposure_bits": (0.0, math.inf), "log_prob": (-math.inf, 0.0)}
"""Smallest and largest value of the measures that are not a yes or no."""


def rate(frame: pd.DataFrame, measure: str) -> intervals.Interval:
    """Mean of a column over probes, with its 95 % interval over subjects."""
    by_subject = frame.groupby("subject")[measure].agg(["sum", "count"])
    if measure in _BOUNDS:
        return intervals.mean_interval(by_subject["sum"], by_subject["count"], bounds=_BOUNDS[measure])
    return intervals.rate_interval(by_subject["sum"], by_subject["count"])


def measure_leakage(
    model: Any,
    probes: ProbeSet,
    *,
    measures: Sequence[Measure] = ("extraction",),
    candidates: Iterable[Record] | None = None,
    form_languages: Sequence[str] | None = None,
    sampling: Sampling | None = None,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> LeakageResult:
    """Measure extraction and exposure of every probe's value.

    Extraction is greedy generation that contains a form of the value (`matching.find_form`). Exposure ranks the value among
    its attribute's candidates by the log-probability of each one's likeliest form. Neither measures what other wordings or
    fine-tuning could bring out (`recovery_attacks` does).

    Args:
        model: Hooked model; what is ablated on it stays so.
        probes: Prompts, each about one person's value.
        measures: `extraction`, `exposure` or both; exposure costs a forward pass per candidate form.
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        form_languages: Languages whose forms score a candidate; by default the query language and the plant language.
        sampling: Draw several answers instead of the greedy one; a value is extracted when any of them holds a form. A probe's
            draws depend on the seed and its id alone.
        batch_size: Prompts at a time, at first; halved on out-of-memory.
        progress: Whether to show progress bars.

    Returns:
        LeakageResult, one row per probe.

    Raises:
        ValueError: No probes, no or an unknown measure, an unknown language, or a prompt or answer that the model cannot take
            (names the probe).

    Source:
        Exposure: Carlini et al. 2019, arXiv:1802.08232. Intervals by subject and controls: this project.
    """
    if not len(probes):
        raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
    if not (measures := check_choices("measure", measures, Measure)):
        raise ValueError("nothing to measure; use 'extraction', 'exposure'")
    if form_languages is not None:
        form_languages = check_choices("language", form_languages, available_languages())
    backend, planted = backend_of(model), plant_language(model)
    forms = candidate_forms(probes, candidates)
    room = longest_answer(backend, forms) if "extraction" in measures else 0
    task = LeakageTask(
        measures=measures,
        candidates=forms,
        form_languages=form_languages or None,
        planted=planted,
        sampling=sampling,
        room=room,
        batch_size=batch_size,
        progress=progress,
    )
    outputs = run_task(backend, task, [encode_probe(backend, probe, languages=(), room=room) for probe in probes])
    frame = pd.concat([output["probes"] for output in outputs], ignore_index=True)
    return LeakageResult(
        probes=in_order(frame, "probe", [probe.id for probe in probes]),
        plant_language=planted,
        failed=outputs.failed,
        provenance=provenance(model, seed=sampling.seed if sampling else 0),
    )
