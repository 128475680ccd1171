"""Fine-tune a hooked model for a few steps, and undo it afterwards to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.data.records import Record
from xlmech.engine.unembed import token_log_prob
from xlmech.models.backends import Backend, backend_of
from xlmech.models.in_context import encode_in_context
from xlmech.models.tokens import check_room
from xlmech.options import PlantOptions
from xlmech.planting.samples import pad, sample_batch
from xlmech.progress import progress_bar


@contextmanager
def finetuned(
    model: Any,
    records: Sequence[Record],
    options: PlantOptions,
    *,
    frame: PromptFormat = PLAIN,
    progress: bool = False,
) -> Iterator[tuple[float, ...]]:
    """Fine-tune the model on questions about `records` and their answers for the length of a `with` block.

    AdamW at a constant rate changes all parameters of all layers (neither embeddings nor the final norm) in place; ablations that
    are active on the model are kept. Memory: four times the layers' parameters, besides the model. In half precision small steps
    are rounded away.

    Args:
        model: Hooked model.
        records: Records of group `public` are taught in all languages of the options, of group `private` in its `language`.
        options: Steps, batch size, rate, languages, shares and seed; `rank` and `prompt` are not used.
        frame: Prompt format of the questions.
        progress: Whether to show a progress bar.

    Yields:
        Mean cross-entropy (nats) of the answers' tokens, per step.

    Raises:
        ValueError: The model cannot take a record's question or answer.
    """
    backend = backend_of(model)
    trained = list(dict.fromkeys(backend.model.blocks.parameters()))
    parameters = dict.fromkeys([*backend.model.parameters(), *trained])
    states = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    weights = [parameter.detach().to("cpu", copy=True) for parameter in trained]
    try:
        _reset(parameters)
        for parameter in trained:
            parameter.requires_grad_(True)
        losses = _train(backend, trained, tuple(records), options, frame, progress)
        _reset(trained)
        yield losses
    finally:
        with torch.no_grad():
            for parameter, weight in zip(trained, weights, strict=True):
                parameter.copy_(weight)
        for parameter, requires_grad, gradient in states:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


def _reset(parameters: Iterable[torch.Tensor]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def _train(
    backend: Backend,
    trained: Sequence[torch.Tensor],
    records: tuple[Record, ...],
    options: PlantOptions,
    frame: PromptFormat,
    progress: bool,
) -> tuple[float, ...]:
    optimiser = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0)
    losses = []
    with torch.enable_grad():
        for step in progress_bar(range(options.steps), "fine-tuning", shown=progress):
            loss = _answer_loss(backend, sample_batch(records, options, step, frame), frame)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            losses.append(loss.item())
    return tuple(losses)


def _answer_loss(backend: Backend, samples: Sequence[tuple[str, str]], frame: PromptFormat = PLAIN) -> torch.Tensor:
    """Return the mean cross-entropy (nats) of the answers' tokens."""
    encoded = []
    for prompt, answer in samples:
        item = encode_in_context(
            backend.tokenizer,
            prompt,
            [answer],
            add_special_tokens=frame.adds_special_tokens or not frame.fits(prompt),
            what="a fine-tuning prompt",
            what_answer="a fine-tuning answer",
        )
        check_room(backend, item.prompt, len(item.answers[0]), "a fine-tuning prompt")
        encoded.append((item.prompt, item.answers[0]))
    tokens, predicts, targets = pad(encoded)
    hidden, _ = backend.hidden(tokens)
    predicting = hidden[predicts.to(hidden.device)]
    return -token_log_prob(
        predicting, backend.unembed.detach(), targets.to(backend.device), **backend.unembed_options
    ).mean()
