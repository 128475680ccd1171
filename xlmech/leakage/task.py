"""Measure leakage on any shard of the probes: encoded probes and the candidates' forms in, a row per probe out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.data import languages as packs
from xlmech.data.candidates import Forms, all_forms
from xlmech.data.probes import Probe
from xlmech.data.questions import ANSWER_END
from xlmech.data.records import subject_hash
from xlmech.engine.generate import generate, sample
from xlmech.engine.sampling import Sampling
from xlmech.engine.score import answer_log_probs
from xlmech.metrics import matching, ranking
from xlmech.models.backends import Backend
from xlmech.models.tokens import EncodedProbe, check_room, encode_answer
from xlmech.options import Measure

_NUMERIC = ("phone", "id_number")


@dataclass(frozen=True, kw_only=True)
class LeakageTask:
    """How leakage is measured; a task of `run_task` whose items leave room for the answer (`EncodedProbe`).

    Attributes:
        measures: What is measured.
        candidates: Forms of every candidate.
        form_languages: Languages whose forms score a candidate, None for the query language and the plant language.
        planted: Language of the private records' training text, "" where unknown.
        sampling: How answers are drawn, None for the greedy ones.
        room: Most tokens that are written after a prompt.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.
    """

    stage: ClassVar[str] = "leakage"
    measures: tuple[Measure, ...]
    candidates: Forms
    form_languages: tuple[str, ...] | None
    planted: str
    sampling: Sampling | None
    room: int
    batch_size: int
    progress: bool = field(default=False, compare=False)

    def __call__(self, backend: Backend, items: Sequence[EncodedProbe]) -> dict[str, Any]:
        """Frame `probes`: a row per probe, as in `LeakageResult`."""
        frame = describe(item.probe for item in items)
        if "extraction" in self.measures:
            frame = frame.join(self._extraction(backend, items))
        if "exposure" in self.measures:
            frame = frame.join(self._exposure(backend, items))
        return {"probes": frame}

    def _extraction(self, backend: Backend, items: Sequence[EncodedProbe]) -> pd.DataFrame:
        """One row per probe: `extracted`, `own_form`, `answer_language`."""
        prompts = [item.prompt for item in items]
        stop = encode_answer(backend, ANSWER_END)[-1]
        options: dict[str, Any] = {"max_new_tokens": self.room, "stop_token": stop, "batch_size": self.batch_size}
        options["progress"] = "extraction" if self.progress else ""
        if self.sampling is None:
            written = [[answer] for answer in generate(backend, prompts, **options)]
        else:
            written = sample(backend, prompts, self.sampling, names=[item.id for item in items], **options)
        spaces = {code: packs.load_language(code).spaces for code in packs.available_languages()}
        others = {attribute: all_forms(values) for attribute, values in self.candidates.items()}
        rows = []
        for probe, answers in zip((item.probe for item in items), written, strict=True):
            texts = {backend.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers}
            attribute = probe.record.attribute
            matched: dict[str, Any] = {
                "others": others[attribute],
                "spaces": spaces,
                "drop_separators": attribute in _NUMERIC,
            }
            given = {code for text in texts for code in matching.find_form(text, probe.answers, **matched)}
            extracted = [code for code in probe.answers if code in given]
            preferred = [code for code in (probe.query_language, self.planted) if code in extracted]
            rows.append(
                {
                    "extracted": float(bool(extracted)),
                    "own_form": float(probe.query_language in extracted),
                    "answer_language": (preferred or extracted or [""])[0],
                }
            )
        return pd.DataFrame(rows)

    def _exposure(self, backend: Backend, items: Sequence[EncodedProbe]) -> pd.DataFrame:
        tables = [
            _forms_of_candidates(item.probe, self.candidates, self.form_languages, self.planted) for item in items
        ]
        tokens = {
            form: encode_answer(backend, form, what=f"a candidate of {item.probe.record.attribute}")
            for item, forms in zip(items, tables, strict=True)
            for form in set().union(*forms.values())
        }
        answers = [[tokens[form] for group in forms.values() for form in group] for forms in tables]
        for item, of_probe in zip(items, answers, strict=True):
            check_room(backend, item, max(map(len, of_probe)))
        scores = answer_log_probs(
            backend,
            [item.prompt for item in items],
            answers,
            wanted=[len(next(iter(forms.values()))) for forms in tables],
            batch_size=self.batch_size,
            progress="exposure" if self.progress else "",
        )
        rows = []
        for forms, of_forms in zip(tables, scores, strict=True):
            best = torch.stack([part.max() for part in torch.split(of_forms, [len(group) for group in forms.values()])])
            rank = ranking.rank(best, 0)
            rows.append(
                {
                    "log_prob": float(best[0]),
                    "rank": rank,
                    "n_candidates": len(forms),
                    "exposure_bits": ranking.exposure_bits(rank, len(forms)),
                }
            )
        return pd.DataFrame(rows)


def longest_answer(backend: Backend, candidates: Forms) -> int:
    """Tokens of the longest form of all candidates, and one that ends it.

    Raises:
        ValueError: A form that tokenises to nothing (names its attribute).
    """
    return 1 + max(
        len(encode_answer(backend, form, what=f"a form of {attribute}"))
        for attribute, values in candidates.items()
        for form in all_forms(values)
    )


def describe(probes: Iterable[Probe]) -> pd.DataFrame:
    """Name every probe in a row; the subject is a hash."""
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


def _forms_of_candidates(
    probe: Probe,
    candidates: Forms,
    form_languages: Sequence[str] | None,
    planted: str,
) -> dict[str, list[str]]:
    """List the forms that score each candidate value, the record's own value first."""
    codes = form_languages or tuple(code for code in (probe.query_language, planted) if code)
    values, own = candidates[probe.record.attribute], probe.record.value
    ordered = {own: values[own]} | values
    return {
        value: sorted({by[code] for code in codes if code in by} or set(by.values())) for value, by in ordered.items()
    }
