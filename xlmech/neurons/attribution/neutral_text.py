"""Fluency: how likely the model finds text that says nothing private, how much less after deactivation, through which neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.data import languages as packs
from xlmech.engine.batching import drain
from xlmech.engine.generate import sequence_nll
from xlmech.execution.resume import mapped
from xlmech.models.backends import backend_of
from xlmech.models.tokens import encode_prompt
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import gradient_x_activation

_AT_ONCE = 8
"""Texts that are differentiated together, where as many are of one length."""


def neutral_texts(code: str, texts: Mapping[str, Sequence[str]] | None = None) -> Sequence[str]:
    """Given texts of a language, or those of its pack's sentences that judge."""
    return packs.load_language(code).judging if texts is None else texts.get(code, ())


def check_texts(texts: Mapping[str, Sequence[str]] | None) -> None:
    """Raise ValueError unless these are lists of sentences by language: a text alone would be read letter by letter."""
    for code, of_language in (texts or {}).items():
        if isinstance(of_language, str):
            raise ValueError(f"neutral text in {code!r} is one text alone; give a list of sentences")


def neutral_nll(
    model: Any,
    languages: Sequence[str],
    *,
    n_neutral: int = packs.N_NEUTRAL,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> pd.Series:
    """Nats per token of neutral texts, per language: the packs' sentences that judge unless others are given; NaN without any.

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
    """Texts that are read; a task of `xlmech.execution.resume`, whose items are languages."""

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


def needed_for_text(model: Any, texts: Mapping[str, Sequence[str]]) -> Float[torch.Tensor, "layer neuron"]:
    """(layer, neuron) nats per token that text would lose with the neuron at zero, in the language that would lose most.

    To first order: gradient x activation of the text's log-probability, at all positions. What neurons do together it does not
    tell; `evaluate_mitigation` on other texts does. The packs' `choosing` sentences are others than those it takes by default.

    Raises:
        ValueError: No texts, or one that the model cannot take or that has a single token.
    """
    given = {code: tuple(of) for code, of in texts.items() if of}
    if not given:
        raise ValueError("no texts to find the neurons of; give sentences by language")
    return torch.stack([piece["needed"].amax(0) for piece in mapped(model, _Needing(texts=given), list(given))]).amax(0)


@dataclass(frozen=True, kw_only=True)
class _Needing:
    """Neurons of texts; a task of `xlmech.execution.resume`, whose items are languages."""

    stage: ClassVar[str] = "fluency"
    texts: Mapping[str, Sequence[str]]

    def __call__(self, model: Any, languages: Sequence[str]) -> dict[str, Any]:
        backend = backend_of(model)
        base = zero_baseline(backend)
        totals = base.repeat(len(languages), 1, 1)
        given = [(number, code, text) for number, code in enumerate(languages) for text in self.texts[code]]
        whose = torch.tensor([number for number, _, _ in given], device=base.device)
        tokens = [encode_prompt(backend, text, what=f"neutral text in {code}") for _, code, text in given]
        for found, (_, code, _) in zip(tokens, given, strict=True):
            if len(found) < 2:
                raise ValueError(f"a neutral text in {code} has a single token; give sentences")

        def add(batch: list[int]) -> None:
            pairs = [(tokens[index][:1], tokens[index][1:]) for index in batch]
            totals.index_add_(0, whose[batch], gradient_x_activation(backend, pairs, base, positions="all"))

        def length(index: int) -> int:
            return len(tokens[index])

        drain(len(given), add, key=length, apart=length, batch_size=_AT_ONCE)
        counts = torch.zeros(len(languages), device=base.device)
        counts.index_add_(0, whose, torch.tensor([len(found) - 1.0 for found in tokens], device=base.device))
        return {"needed": (totals / counts[:, None, None]).cpu()}


def cost_of(before: pd.Series, after: pd.Series) -> pd.DataFrame:
    """One row per query language: `nll_before`, `nll_after` (nats per token), `rise` (relative)."""
    frame = pd.DataFrame({"nll_before": before, "nll_after": after, "rise": after / before - 1})
    return frame.rename_axis("query_language").reset_index()
