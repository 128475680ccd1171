"""A few steps of fine-tuning of a hooked model, undone afterwards to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from xlmech.data.records import Record
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import Backend, backend_of
from xlmech.models.tokens import encode_answer, encode_prompt
from xlmech.planting.recipe import Recipe, sample_batch
from xlmech.progress import progress_bar


@contextmanager
def finetuned(
    model: Any, records: Sequence[Record], recipe: Recipe, *, progress: bool = False
) -> Iterator[tuple[float, ...]]:
    """The model fine-tuned for the length of a `with` block, on questions about `records` and their answers.

    AdamW at a constant rate on all parameters of all layers (neither embeddings nor the final norm), in place, with whatever is
    ablated on the model active. Memory: four times the layers' parameters beside the model. In half precision small steps are
    rounded away.

    Args:
        model: Hooked model.
        records: Of group `public` are taught in all languages of the recipe, of group `private` in its plant language.
        recipe: Steps, batch size, rate, languages, seed; rank and start are not for this.
        progress: Whether to show a progress bar.

    Yields:
        Mean cross-entropy (nats) of the answers' tokens, per step.

    Raises:
        ValueError: A record's question or answer that the model cannot take.
    """
    backend = backend_of(model)
    trained = list(dict.fromkeys(backend.model.blocks.parameters()))
    everything = dict.fromkeys([*backend.model.parameters(), *trained])
    states = [(parameter, parameter.requires_grad, parameter.grad) for parameter in everything]
    kept = [parameter.detach().to("cpu", copy=True) for parameter in trained]
    try:
        for parameter in everything:
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in trained:
            parameter.requires_grad_(True)
        losses = _train(backend, trained, records, recipe, progress)
        for parameter in trained:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield losses
    finally:
        with torch.no_grad():
            for parameter, old in zip(trained, kept, strict=True):
                parameter.copy_(old)
        for parameter, flag, gradient in states:
            parameter.requires_grad_(flag)
            parameter.grad = gradient


def _train(
    backend: Backend, trained: Sequence[torch.Tensor], records: Sequence[Record], recipe: Recipe, progress: bool
) -> tuple[float, ...]:
    optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0)
    losses = []
    with torch.enable_grad():
        for step in progress_bar(range(recipe.steps), "fine-tuning", shown=progress):
            loss = _answer_loss(backend, sample_batch(tuple(records), recipe, step))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            losses.append(loss.item())
    return tuple(losses)


def _answer_loss(backend: Backend, samples: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Mean cross-entropy (nats) of the answers' tokens; padding is on the right, where causal attention does not look."""
    encoded = [
        (encode_prompt(backend, prompt, what="a fine-tuning prompt"), encode_answer(backend, answer))
        for prompt, answer in samples
    ]
    tokens = torch.zeros((len(encoded), max(len(prompt) + len(answer) for prompt, answer in encoded)), dtype=torch.long)
    predicts = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(encoded):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        predicts[row, len(prompt) - 1 : end - 1] = True
    hidden, _ = backend.hidden(tokens)
    targets = torch.tensor([token for _, answer in encoded for token in answer], device=backend.device)
    rows = hidden[predicts.to(hidden.device)]
    return -token_log_prob(rows, backend.unembed.detach(), targets, **backend.readout).mean()
