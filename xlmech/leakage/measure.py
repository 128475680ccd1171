"""Leakage: can a person's data be extracted from the model, in which language and in which form?

A value counts in ANY language's form: a model that memorised in English often answers in English. Intervals are over people.

An answer ends at an end token, at the budget of new tokens, or, where lines end answers, at the first newline after some text.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from xlmech.checks import check_choice, check_choices
from xlmech.data.candidates import candidate_forms
from xlmech.data.probes import ProbeSet
from xlmech.data.records import Group, Record
from xlmech.engine.batching import BATCH_SIZE
from xlmech.engine.sampling import Sampling
from xlmech.execution.resume import in_order, run_task
from xlmech.leakage.brief import leakage_brief
from xlmech.leakage.rates import any_wording_rates, rate, wording_rates
from xlmech.leakage.task import LeakageTask
from xlmech.models.backends import backend_of
from xlmech.models.load import plant_language, provenance
from xlmech.models.tokens import check_budget, encode_probe, warn_of_straddling
from xlmech.options import MAX_NEW_TOKENS, Measure
from xlmech.percent import share_text
from xlmech.storage.result import Result

_WARN_SHARE = 0.05
"""Share of answers that may be cut off or empty without a warning."""
_FIGURES = ("extracted", "own_form", "exposure_bits", "log_prob", "rank")


@dataclass(frozen=True, eq=False, kw_only=True)
class LeakageResult(Result):
    """Extraction and exposure, probe by probe.

    Attributes:
        probes: One row per probe: `extracted` (value in any form), `own_form` (in the query language's form),
            `answer_language` (of the form given, "" if none), `truncated` and `empty` (number of the probe's answers that the
            budget cut off, and that hold nothing but white space), and where exposure was measured `log_prob` (nats, of the
            likeliest form), `rank`, `n_candidates`, `exposure_bits`. `subject` is a hash.
        plant_language: Language of the private records' training text, "" where unknown.
        failed: Ids of probes that failed every time and are not in `probes`; only where work is done in shards.
        max_new_tokens: Budget of new tokens per answer; 0 where unknown or nothing was generated.
        n_samples: Number of answers per probe.
        temperature: At which answers were drawn, 0 for greedy ones.
        prompt: Prompt format of the first probe, as of `PromptFormat.to_dict`; empty where unknown.
    """

    kind: ClassVar[str] = "leakage"
    _brief = leakage_brief
    probes: pd.DataFrame
    plant_language: str = ""
    failed: tuple[str, ...] = ()
    max_new_tokens: int = 0
    n_samples: int = 1
    temperature: float = 0.0
    prompt: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.probes.empty:
            raise ValueError("a leakage result needs at least one probe")
        if not self.measured:
            raise ValueError("a leakage result needs extraction or exposure of its probes; measure one of them")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per probe."""
        return self.probes

    @property
    def measured(self) -> tuple[str, ...]:
        """Columns of `probes` that hold a figure of each probe: those of extraction, of exposure, or of both."""
        return tuple(column for column in _FIGURES if column in self.probes)

    @property
    def n_answers(self) -> int:
        """Number of answers that were generated."""
        return self.n_samples * len(self.probes) if "extracted" in self.probes else 0

    @property
    def n_truncated(self) -> int:
        """Number of answers that the budget of new tokens cut off; 0 in results of earlier versions, which did not count them."""
        return int(self.probes.truncated.sum()) if "truncated" in self.probes else 0

    @property
    def n_empty(self) -> int:
        """Number of answers without anything but white space; 0 in results of earlier versions, which did not count them."""
        return int(self.probes["empty"].sum()) if "empty" in self.probes else 0

    def matrix(self, *, group: Group = "private", measure: str | None = None) -> pd.DataFrame:
        """Return the leakage matrix's row for this plant language.

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
        """Return one row per group and attribute (and `all`): what was measured, as a mean over probes with its interval.

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

    def by_wording(self, *, group: Group = "private") -> pd.DataFrame:
        """Compare the wordings: extraction by each question template alone.

        Args:
            group: Whose records.

        Returns:
            One row per query language and template: `query_language`, `template`, `value` (share of probes), `low`, `high`
            (95 %, over subjects), `control` (the same for control subjects, NaN without any), `n_subjects`, `n_probes`.

        Raises:
            ValueError: An unknown group, or extraction was not measured.
        """
        check_choice("group", group, Group)
        return wording_rates(self.probes, group)

    def any_wording(self, *, group: Group = "private") -> pd.DataFrame:
        """Measure extraction by all wordings together: a record is extracted if any of its question templates brings it out.

        Args:
            group: Whose records.

        Returns:
            One row per query language: `query_language`, `value` (share of records), `low`, `high` (95 %, over subjects),
            `control` (the same for control subjects, NaN without any), `n_subjects`, `n_records`, `n_templates`.

        Raises:
            ValueError: An unknown group, or extraction was not measured.
        """
        check_choice("group", group, Group)
        return any_wording_rates(self.probes, group)

    def leaking_languages(self) -> tuple[str, ...]:
        """Return the query languages in which `above_controls.compare` judges that private data leak."""
        from xlmech.leakage.above_controls import compare  # which takes results of this module

        return tuple(code for code, each in compare(self).languages.items() if each.judgement == "leaks")

    def headline(self) -> dict[str, str]:
        """Map each group to its extraction rate, or its exposure where that alone was measured."""
        measure = self.measured[0]
        shown = {}
        for group, frame in self.probes.groupby("group", sort=False):
            value, low, high = rate(frame, measure)
            text = share_text(value, low, high) if measure == "extracted" else f"{value:.3g} ({low:.3g} to {high:.3g})"
            shown[str(group)] = f"{measure} {text}, {frame.subject.nunique():,} people, {len(frame):,} probes"
        return shown


def measure_leakage(
    model: Any,
    probes: ProbeSet,
    *,
    measures: Sequence[Measure] = ("extraction",),
    candidates: Iterable[Record] | None = None,
    form_languages: Sequence[str] | None = None,
    sampling: Sampling | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 4 * BATCH_SIZE,
    progress: bool = True,
) -> LeakageResult:
    """Measure extraction and exposure of every probe's value.

    Extraction is greedy generation that contains a form of the value (`matching.find_form`), anywhere in what is written up to
    the stop: an end token, the budget, or a newline where the prompt format's lines end answers (`PromptFormat`). Exposure ranks
    the value among its attribute's candidates by the log-probability of each one's likeliest form. Neither measures what other
    wordings or fine-tuning could bring out (`recovery_attacks` does).

    Args:
        model: Hooked model; ablations that are active on it are kept.
        probes: Prompts, each about one person's value.
        measures: `extraction`, `exposure` or both; exposure costs a forward pass per candidate form.
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        form_languages: Languages whose forms score a candidate; by default the query language and the plant language.
        sampling: Draw several answers instead of the greedy one; a value is extracted when any of them holds a form. A probe's
            draws depend on the seed and its id alone.
        max_new_tokens: Budget of new tokens per answer, the same for every record. A larger one reads longer answers.
        batch_size: Prompts at a time, at first; halved on out-of-memory.
        progress: Whether to show progress bars.

    Returns:
        LeakageResult, one row per probe. A UserWarning is given where more than 5 % of the answers are cut off by the budget, or
        empty.

    Raises:
        ValueError: No probes, a budget below 1, no or an unknown measure, an unknown language, or a prompt or answer that the
            model cannot take (names the probe).

    Source:
        Exposure: Carlini et al. 2019, arXiv:1802.08232. Intervals by subject and controls: this project.
    """
    if not len(probes):
        raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
    if not (measures := check_choices("measure", measures, Measure)):
        raise ValueError("nothing to measure; use 'extraction', 'exposure'")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if form_languages is not None:
        form_languages = check_choices(
            "language", form_languages, dict.fromkeys(code for probe in probes for code in probe.answers)
        )
    backend, planted = backend_of(model), plant_language(model)
    forms = candidate_forms(probes, candidates)
    room = max_new_tokens if "extraction" in measures else 0
    task = LeakageTask(
        measures=measures,
        candidates=forms,
        form_languages=form_languages or None,
        planted=planted,
        sampling=sampling,
        max_new_tokens=room,
        batch_size=batch_size,
        progress=progress,
    )
    encoded = [encode_probe(backend, probe, languages=(), room=0) for probe in probes]
    if room:
        check_budget(backend, encoded, room)
    warn_of_straddling([item.n_straddling for item in encoded])
    outputs = run_task(backend, task, encoded)
    frame = pd.concat([output["probes"] for output in outputs], ignore_index=True)
    frames = [probe.format for probe in probes]
    names = ", ".join(dict.fromkeys(frame.name for frame in frames))
    n_samples, temperature = (sampling.n_samples, sampling.temperature) if sampling else (1, 0.0)
    settings = {"prompt": names, "max_new_tokens": room, "n_samples": n_samples, "temperature": temperature}
    result = LeakageResult(
        probes=in_order(frame, "probe", [probe.id for probe in probes]),
        plant_language=planted,
        failed=outputs.failed,
        max_new_tokens=room,
        n_samples=n_samples,
        temperature=temperature,
        prompt=frames[0].to_dict(),
        provenance=provenance(model, seed=sampling.seed if sampling else 0, settings=settings),
    )
    _warn(result)
    return result


def _warn(result: LeakageResult) -> None:
    """Warn where many answers cannot tell what the model knows, and say what to do."""
    budget = f"were cut off after {result.max_new_tokens} new tokens, and a value after them is not read"
    remedies = {
        f"{budget}; give a larger max_new_tokens": result.n_truncated,
        "are empty; ask in another prompt format, such as the one that prompt_format(model) chooses": result.n_empty,
    }
    for text, count in remedies.items():
        if count > _WARN_SHARE * result.n_answers:
            warnings.warn(f"{count} of {result.n_answers} answers {text}", stacklevel=3)
