"""Measure leakage on any shard of the probes: encoded probes and the candidates' forms in, a row per probe out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.data.candidates import Forms
from xlmech.data.probes import Probe
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.records import subject_hash
from xlmech.engine.generate import first_line, generate, sample
from xlmech.engine.sampling import Sampling
from xlmech.engine.score import answer_log_probs
from xlmech.leakage.extraction import extracted_languages, other_spellings
from xlmech.metrics import ranking
from xlmech.models.backends import Backend
from xlmech.models.prompts import end_tokens
from xlmech.models.tokens import EncodedProbe, encode_choices
from xlmech.options import Measure


@dataclass(frozen=True, kw_only=True)
class LeakageTask:
    """How leakage is measured; a task of `run_task` whose items leave room for the answer (`EncodedProbe`).

    Attributes:
        measures: What is measured.
        candidates: Forms of every candidate.
        form_languages: Languages whose forms score a candidate, None for the query language and the plant language.
        planted: Language of the private records' training text, "" where unknown.
        sampling: How answers are drawn, None for the greedy ones.
        max_new_tokens: Most tokens that are written after a prompt.
        batch_size: Prompts at a time, at first.
        progress: Whether to show progress bars.
    """

    stage: ClassVar[str] = "leakage"
    measures: tuple[Measure, ...]
    candidates: Forms
    form_languages: tuple[str, ...] | None
    planted: str
    sampling: Sampling | None
    max_new_tokens: int
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
        return self.judged(items, self.written(backend, items))

    def judged(self, items: Sequence[EncodedProbe], written: Sequence[Sequence[tuple[str, bool]]]) -> pd.DataFrame:
        """One row per probe: `extracted`, `own_form`, `answer_language`, and how many answers are `truncated` and `empty`."""
        others = other_spellings(self.candidates)
        rows = []
        for item, texts in zip(items, written, strict=True):
            probe = item.probe
            extracted = extracted_languages(probe, {text for text, _ in texts}, others[probe.record.attribute])
            preferred = [code for code in (probe.query_language, self.planted) if code in extracted]
            rows.append(
                {
                    "extracted": float(bool(extracted)),
                    "own_form": float(probe.query_language in extracted),
                    "answer_language": (*preferred, *extracted, "")[0],
                    "truncated": sum(is_cut for _, is_cut in texts),
                    "empty": sum(not text.strip() for text, _ in texts),
                }
            )
        return pd.DataFrame(rows)

    def written(self, backend: Backend, items: Sequence[EncodedProbe]) -> list[list[tuple[str, bool]]]:
        """Return each item's answers: the text up to where it ends, and whether the budget cut it off before that."""
        return [
            [self._text(backend, item.probe.format, tokens) for tokens in answers]
            for item, answers in zip(items, self._answers(backend, items), strict=True)
        ]

    def _answers(self, backend: Backend, items: Sequence[EncodedProbe]) -> list[list[list[int]]]:
        """Token ids of every answer, per item; the items of one prompt format are written together."""
        answers: dict[str, list[list[int]]] = {}
        for frame in dict.fromkeys(item.probe.format for item in items):
            part = [item for item in items if item.probe.format == frame]
            prompts = [item.written_after(backend.tokenizer) for item in part]
            ids = [item.id for item in part]
            options: dict[str, Any] = {
                "max_new_tokens": self.max_new_tokens,
                "end_tokens": end_tokens(backend, frame),
                "lines_end_answers": frame.lines_end_answers,
                "batch_size": self.batch_size,
                "progress": "extraction" if self.progress else "",
            }
            if self.sampling is None:
                written = [[answer] for answer in generate(backend, prompts, **options)]
            else:
                written = sample(backend, prompts, self.sampling, names=ids, **options)
            answers |= zip(ids, written, strict=True)
        return [answers[item.id] for item in items]

    def _text(self, backend: Backend, frame: PromptFormat, tokens: Sequence[int]) -> tuple[str, bool]:
        """Return an answer's text up to where it ends, and whether the budget cut it off before that."""
        text = backend.tokenizer.decode(list(tokens), skip_special_tokens=True)
        answer = first_line(text) if frame.lines_end_answers else text
        return answer, len(tokens) >= self.max_new_tokens and answer == text

    def _exposure(self, backend: Backend, items: Sequence[EncodedProbe]) -> pd.DataFrame:
        tables = [
            _forms_of_candidates(item.probe, self.candidates, self.form_languages, self.planted) for item in items
        ]
        encoded = [
            encode_choices(
                backend,
                item.probe,
                [form for group in forms.values() for form in group],
                what=f"a candidate of {item.probe.record.attribute}",
            )
            for item, forms in zip(items, tables, strict=True)
        ]
        scores = answer_log_probs(
            backend,
            [of_probe.prompt for of_probe in encoded],
            [of_probe.answers for of_probe in encoded],
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
            "guessable": probe.kind.guessable,
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
