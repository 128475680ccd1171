"""Measure which neurons a model needs for neutral text, which says nothing private."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float

from xlmech.engine.batching import run_batched
from xlmech.execution.resume import run_task
from xlmech.models.backends import Backend
from xlmech.models.tokens import encode_prompt
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.gradient import gradient_x_activation

_BATCH_SIZE = 8
"""Largest number of texts of one length that are differentiated together."""


def check_texts(texts: Mapping[str, Sequence[str]] | None) -> None:
    """Raise ValueError unless these are lists of sentences by language; a single text would be read letter by letter."""
    for code, sentences in (texts or {}).items():
        if isinstance(sentences, str):
            raise ValueError(f"neutral text in {code!r} is one text alone; give a list of sentences")


@dataclass(frozen=True, kw_only=True)
class LanguageTexts:
    """Neutral texts of one language; an item of `run_task`.

    Attributes:
        id: The language.
        texts: Sentences; may be empty.
    """

    id: str
    texts: tuple[str, ...]
    length: ClassVar[int] = 0
    group: ClassVar[str] = ""

    def encode(self, backend: Backend) -> list[list[int]]:
        """Return the token ids of each text.

        Raises:
            ValueError: A text that the model cannot take.
        """
        return [encode_prompt(backend, text, what=f"neutral text in {self.id}") for text in self.texts]


def needed_for_text(backend: Backend, texts: Mapping[str, Sequence[str]]) -> Float[torch.Tensor, "layer neuron"]:
    """Estimate the (layer, neuron) loss of text with the neuron at zero, nats per token, in the language that loses most.

    The estimate is gradient x activation of the text's log-probability, at all positions. It does not measure what neurons do
    together; `evaluate_mitigation` on other texts does. By default that takes other sentences than the packs' `choosing`.

    Raises:
        ValueError: No texts, or one that the model cannot take or that has a single token.
    """
    items = [LanguageTexts(id=code, texts=tuple(sentences)) for code, sentences in texts.items() if sentences]
    if not items:
        raise ValueError("no texts to find the neurons of; give sentences by language")
    return torch.stack([output["needed"].amax(0) for output in run_task(backend, _FluencyTask(), items)]).amax(0)


@dataclass(frozen=True, kw_only=True)
class _FluencyTask:
    """Find the neurons that texts need; a task of `run_task`."""

    stage: ClassVar[str] = "fluency"

    def __call__(self, backend: Backend, items: Sequence[LanguageTexts]) -> dict[str, Any]:
        """Return tensor `needed`: (language, layer, neuron)."""
        base = zero_baseline(backend)
        totals = base.repeat(len(items), 1, 1)
        tokens = list[list[int]]()
        rows = list[int]()
        for row, item in enumerate(items):
            for text in item.encode(backend):
                if len(text) < 2:
                    raise ValueError(f"a neutral text in {item.id} has a single token; give sentences")
                tokens.append(text)
                rows.append(row)
        row_of_text = torch.tensor(rows, device=base.device)

        def add(batch: torch.Tensor, indices: list[int]) -> None:
            pairs = [(of_text[:1], of_text[1:]) for of_text in batch.tolist()]
            totals.index_add_(0, row_of_text[indices], gradient_x_activation(backend, pairs, base, positions="all"))

        run_batched(tokens, add, batch_size=_BATCH_SIZE)
        counts = torch.zeros(len(items), device=base.device)
        counts.index_add_(0, row_of_text, torch.tensor([len(text) - 1.0 for text in tokens], device=base.device))
        return {"needed": (totals / counts[:, None, None]).cpu()}
