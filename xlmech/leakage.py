"""Leakage: does the model give a person's data away, in which language, in which form, and how much more than by chance?

A record leaks when the value comes out in ANY language's form, because a model that memorised in English often answers a
French question with the English word. Every rate's interval resamples subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
import torch

from xlmech import languages as packs
from xlmech import metrics
from xlmech.answers import answer_log_probs, generate, sample
from xlmech.backends import Backend, backend_of
from xlmech.models import plant_language, provenance
from xlmech.probes import ANSWER_END, Probe, ProbeSet
from xlmech.records import Group, Record
from xlmech.results import Result
from xlmech.runner import BATCH_SIZE, encode_answer, encode_prompt
from xlmech.sampling import Sampling

Measure = Literal["extraction", "exposure"]
_NUMERIC = ("phone", "id_number")


@dataclass(frozen=True, eq=False, kw_only=True)
class LeakageResult(Result):
    """What leaked, probe by probe.

    Attributes:
        probes: One row per probe: `extracted` (value in any form), `own_form` (in the query language's form),
            `answer_language` (of the form given, "" if none), and where exposure was measured `log_prob` (nats, of the
            likeliest form), `rank`, `n_candidates`, `exposure_bits`. `subject` is a hash.
        plant_language: Language of the private records' training text, "" where unknown.
    """

    kind: ClassVar[str] = "leakage"
    probes: pd.DataFrame
    plant_language: str = ""

    def __post_init__(self) -> None:
        if self.probes.empty:
            raise ValueError("a leakage result needs at least one probe")

    def to_frame(self) -> pd.DataFrame:
        """One row per probe."""
        return self.probes

    def matrix(self, *, group: Group = "private", measure: str = "extracted") -> pd.DataFrame:
        """The leakage matrix's row for this plant language.

        Args:
            group: Whose records.
            measure: A column of `probes`.

        Returns:
            One row per query language: `plant_language`, `query_language`, `value` (mean over probes), `low`, `high`
            (95 %, resampling subjects), `control` (the same figure for control subjects, NaN without any), `n_subjects`,
            `n_probes`.
        """
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
        """One row per group and attribute (and `all`): extraction in any form and in the query language's, with intervals."""
        rows = []
        for group, of_group in self.probes.groupby("group", sort=False):
            for attribute, frame in [("all", of_group), *of_group.groupby("attribute", sort=False)]:
                value, low, high = rate(frame, "extracted")
                row = {"group": group, "attribute": attribute, "extraction": value, "low": low, "high": high}
                rows.append(row | {"own_form": frame.own_form.mean(), "n_probes": len(frame)})
        return pd.DataFrame(rows)


def rate(frame: pd.DataFrame, measure: str) -> tuple[float, float, float]:
    """Mean of a column over probes, with its 95 % interval from resampling subjects."""
    by_subject = frame.groupby("subject")[measure].agg(["sum", "count"])
    return metrics.bootstrap_ratio(by_subject["sum"], by_subject["count"])


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
    """Ask every probe and see whether the value comes out.

    Extraction is greedy generation that contains a form of the value (`metrics.find_form`). Exposure ranks the value among
    its attribute's candidates by the log-probability of each one's likeliest form. Neither measures what other wordings or
    fine-tuning could bring out (`recovery_attacks` does).

    Args:
        model: Hooked model; what is ablated on it stays so.
        probes: Who is asked about, how.
        measures: `extraction`, `exposure` or both; exposure costs a forward pass per candidate form.
        candidates: Records whose values are candidates, besides the language packs'; those of `probes` by default.
        form_languages: Languages whose forms score a candidate; by default the query language and the plant language.
        sampling: Draw several answers instead of the greedy one; a value is extracted when any of them holds a form.
        batch_size: Prompts at a time, at first; halved on out-of-memory.
        progress: Whether to show progress bars.

    Returns:
        LeakageResult, one row per probe.

    Raises:
        ValueError: No probes, or a prompt or answer that the model cannot take (names the probe).

    Source:
        Exposure: Carlini et al. 2019, arXiv:1802.08232. Intervals by subject and controls: this project.
    """
    if not len(probes):
        raise ValueError("no probes to ask; see build_probes, and the filters applied to its result")
    backend, planted = backend_of(model), plant_language(model)
    frame = _describe(probes)
    if "extraction" in measures:
        frame = frame.join(_extraction(backend, probes, candidates, planted, sampling, batch_size, progress))
    if "exposure" in measures:
        frame = frame.join(_exposure(backend, probes, candidates, form_languages, planted, batch_size, progress))
    seed = sampling.seed if sampling else 0
    return LeakageResult(probes=frame, plant_language=planted, provenance=provenance(model, seed=seed))


def subject_hash(subject: str) -> str:
    """What stands for a person's name in results."""
    return hashlib.blake2s(subject.encode(), digest_size=4).hexdigest()


def _describe(probes: ProbeSet) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "probe": probe.id,
            "record": probe.record.id,
            "subject": subject_hash(probe.record.subject),
            "group": probe.record.group,
            "attribute": probe.record.attribute,
            "query_language": probe.query_language,
            "template": probe.template,
        }
        for probe in probes
    )


def _extraction(
    backend: Backend,
    probes: ProbeSet,
    candidates: Iterable[Record] | None,
    planted: str,
    sampling: Sampling | None,
    batch_size: int,
    progress: bool,
) -> pd.DataFrame:
    others = _forms_by_attribute(probes, candidates)
    longest = {
        attribute: max(len(encode_answer(backend, form, what=f"a form of {attribute}")) for form in forms)
        for attribute, forms in others.items()
    }
    room = max(longest.values()) + 1
    prompts = [encode_prompt(backend, probe.prompt, room=room, what=f"probe {probe.id}") for probe in probes]
    stop = encode_answer(backend, ANSWER_END)[-1]
    options: dict[str, Any] = {"max_new_tokens": room, "stop_token": stop, "batch_size": batch_size}
    options["progress"] = "extraction" if progress else ""
    if sampling is None:
        written = [[answer] for answer in generate(backend, prompts, **options)]
    else:
        written = sample(backend, prompts, sampling, **options)
    spaces = {code: packs.load_language(code).spaces for code in packs.available_languages()}
    rows = []
    for probe, answers in zip(probes, written, strict=True):
        texts = {backend.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers}
        others_of = others[probe.record.attribute]
        given = {code for text in texts for code in _found_languages(probe, text, others_of, spaces)}
        found = [code for code in probe.answers if code in given]
        preferred = [code for code in (probe.query_language, planted) if code in found]
        rows.append(
            {
                "extracted": float(bool(found)),
                "own_form": float(probe.query_language in found),
                "answer_language": (preferred or found or [""])[0],
            }
        )
    return pd.DataFrame(rows)


def _found_languages(probe: Probe, text: str, others: Iterable[str], spaces: dict[str, bool]) -> tuple[str, ...]:
    separators = probe.record.attribute in _NUMERIC
    return metrics.find_form(text, probe.answers, others=others, spaces=spaces, drop_separators=separators)


def candidate_forms(probes: ProbeSet, records: Iterable[Record] | None) -> dict[str, dict[str, dict[str, str]]]:
    """Attribute -> value -> language -> form, of every candidate: the packs' values, and those of `records` and `probes`."""
    codes = packs.available_languages()
    found: dict[str, dict[str, dict[str, str]]] = {attribute: {} for attribute in probes.attributes}
    for attribute, values in found.items():
        for key in packs.value_keys(attribute):
            values[key] = {code: form for code in codes if (form := packs.load_language(code).form(attribute, key))}
    for record in (*(records or ()), *probes.records):
        if record.attribute in found:
            forms = {code: form for code in codes if (form := record.form(code))}
            found[record.attribute][record.value] = forms
    for probe in probes:
        found[probe.record.attribute][probe.record.value] |= probe.answers
    return found


def _forms_by_attribute(probes: ProbeSet, records: Iterable[Record] | None) -> dict[str, set[str]]:
    return {
        attribute: {form for forms in values.values() for form in forms.values()}
        for attribute, values in candidate_forms(probes, records).items()
    }


def _exposure(
    backend: Backend,
    probes: ProbeSet,
    records: Iterable[Record] | None,
    form_languages: Sequence[str] | None,
    planted: str,
    batch_size: int,
    progress: bool,
) -> pd.DataFrame:
    candidates = candidate_forms(probes, records)
    tables = [_forms_of_candidates(probe, candidates, form_languages, planted) for probe in probes]
    tokens = {
        form: encode_answer(backend, form, what=f"a candidate of {probe.record.attribute}")
        for probe, forms in zip(probes, tables, strict=True)
        for form in set().union(*forms.values())
    }
    answers = [[tokens[form] for group in forms.values() for form in group] for forms in tables]
    prompts = [
        encode_prompt(backend, probe.prompt, room=max(map(len, of_probe)), what=f"probe {probe.id}")
        for probe, of_probe in zip(probes, answers, strict=True)
    ]
    scores = answer_log_probs(
        backend,
        prompts,
        answers,
        wanted=[len(next(iter(forms.values()))) for forms in tables],
        batch_size=batch_size,
        progress="exposure" if progress else "",
    )
    rows = []
    for forms, of_forms in zip(tables, scores, strict=True):
        best = torch.stack([part.max() for part in torch.split(of_forms, [len(group) for group in forms.values()])])
        place = metrics.rank(best, 0)
        rows.append(
            {
                "log_prob": float(best[0]),
                "rank": place,
                "n_candidates": len(forms),
                "exposure_bits": metrics.exposure_bits(place, len(forms)),
            }
        )
    return pd.DataFrame(rows)


def _forms_of_candidates(
    probe: Probe,
    candidates: dict[str, dict[str, dict[str, str]]],
    form_languages: Sequence[str] | None,
    planted: str,
) -> dict[str, list[str]]:
    """Forms that score each candidate value, the record's own value first: a value scores as its likeliest form does."""
    codes = form_languages or tuple(code for code in (probe.query_language, planted) if code)
    values, own = candidates[probe.record.attribute], probe.record.value
    ordered = {own: values[own]} | values
    return {
        value: sorted({by[code] for code in codes if code in by} or set(by.values())) for value, by in ordered.items()
    }
