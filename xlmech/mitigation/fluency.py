"""Fluency: how likely the model finds text that says nothing private, before and after ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.engine.score import sequence_nll
from xlmech.execution.resume import run_task
from xlmech.models.backends import Backend, backend_of
from xlmech.neurons.attribution.neutral_text import LanguageTexts, check_texts
from xlmech.options import EvaluateOptions


def neutral_nll(
    model: Any,
    languages: Sequence[str],
    *,
    n_neutral: int = EvaluateOptions().n_neutral,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> pd.Series:
    """Return nats per token of neutral texts by language, by default of the packs' `judging` sentences; NaN without texts.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        languages: Languages of the texts.
        n_neutral: Number of texts per language, the first ones.
        texts: Texts by language, in place of the packs'.

    Raises:
        ValueError: The model cannot take a text; an unknown language; texts that are no lists of sentences.
    """
    languages = check_list("language", languages)
    for code in languages if texts is None else ():
        packs.check_language(code)
    if texts is not None:
        check_texts(texts)
    given = {code: packs.find_language(code).judging for code in languages} if texts is None else texts
    items = [LanguageTexts(id=code, texts=tuple(given.get(code, ()))[:n_neutral]) for code in dict.fromkeys(languages)]
    frames = [output["nll"] for output in run_task(backend_of(model), _NllTask(), items)]
    nll: pd.Series = pd.concat(frames, ignore_index=True).set_index("query_language")["nll"]
    return nll.rename_axis(None).reindex(list(languages))


@dataclass(frozen=True, kw_only=True)
class _NllTask:
    """The likelihood of texts; a task of `run_task`."""

    stage: ClassVar[str] = "neutral"

    def __call__(self, backend: Backend, items: Sequence[LanguageTexts]) -> dict[str, Any]:
        # The texts of all languages are run together: languages may have one short text each.
        texts = [(item.id, tokens) for item in items for tokens in item.encode(backend)]
        sums = {item.id: [0.0, 0] for item in items}
        if texts:
            totals, counts = sequence_nll(backend, [tokens for _, tokens in texts])
            for (code, _), total, count in zip(texts, totals.tolist(), counts, strict=True):
                sums[code][0] += total
                sums[code][1] += count
        rows = [(code, total / count if count else math.nan) for code, (total, count) in sums.items()]
        return {"nll": pd.DataFrame(rows, columns=["query_language", "nll"])}


def cost_of(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """Return one row per query language: `nll_before`, `nll_after` (nats per token), `rise` (relative)."""
    frame = pd.DataFrame({"nll_before": before, "nll_after": after, "rise": after / before - 1})
    return frame.rename_axis("query_language").reset_index()
