"""Fluency: how likely the model finds text that says nothing private, and by how much less after deactivation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from xlmech import languages as packs
from xlmech.answers import sequence_nll
from xlmech.backends import backend_of
from xlmech.parts import mapped
from xlmech.runner import encode_prompt


def neutral_texts(code: str, texts: Mapping[str, Sequence[str]] | None = None) -> Sequence[str]:
    """Given texts of a language, or its pack's sentences."""
    return packs.load_language(code).neutral if texts is None else texts.get(code, ())


def neutral_nll(
    model: Any,
    languages: Sequence[str],
    *,
    n_neutral: int = packs.N_NEUTRAL,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> pd.Series:
    """Nats per token of neutral texts, per language: the packs' sentences unless others are given; NaN without any.

    Raises:
        ValueError: A text that the model cannot take.
    """
    asking = _Reading(
        n_neutral=n_neutral, texts=None if texts is None else {code: tuple(of) for code, of in texts.items()}
    )
    frames = [piece["nll"] for piece in mapped(model, asking, languages)]
    found: pd.Series = pd.concat(frames, ignore_index=True).set_index("query_language")["nll"]
    return found.rename_axis(None).reindex(list(languages))


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Texts that are read; a task of `xlmech.parts`, whose items are languages."""

    stage: ClassVar[str] = "neutral"
    n_neutral: int
    texts: Mapping[str, Sequence[str]] | None

    def __call__(self, model: Any, languages: Sequence[str]) -> dict[str, Any]:
        backend, found = backend_of(model), dict.fromkeys(languages, float("nan"))
        for code in languages:
            some = list(neutral_texts(code, self.texts))[: self.n_neutral]
            tokens = [encode_prompt(backend, text, what=f"neutral text in {code}") for text in some]
            if tokens:
                totals, counts = sequence_nll(backend, tokens)
                found[code] = float(totals.sum() / sum(counts)) if sum(counts) else float("nan")
        return {"nll": pd.DataFrame({"query_language": list(found), "nll": list(found.values())})}


def price_of(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """One row per query language: `nll_before`, `nll_after` (nats per token), `rise` (relative)."""
    frame = pd.DataFrame({"nll_before": before, "nll_after": after, "rise": after / before - 1})
    return frame.rename_axis("query_language").reset_index()
