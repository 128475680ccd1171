"""Gradient x activation: the effect of each neuron on a forced answer, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int

from xlmech.models.backends import NEURON_HOOK, Backend
from xlmech.neurons.attribution.effects import Metric, token_metric

PromptAndAnswer = tuple[Sequence[int], Sequence[int]]
"""Tokens of a prompt and of the answer that is forced after it."""


def gradient_x_activation(
    backend: Backend,
    pairs: Sequence[PromptAndAnswer],
    base: Float[torch.Tensor, "layer neuron"],
    *,
    positions: Literal["last", "all"] | Sequence[range],
    metric: Metric = "log_prob",
    whole_vocabulary: bool = False,
) -> Float[torch.Tensor, "pair layer neuron"]:
    """Compute (pair, layer, neuron) attributions: (activation - base) * gradient of the answer's score, summed over positions.

    One backward pass serves all pairs, since rows of a batch do not affect each other.

    Args:
        backend: The model.
        pairs: Prompts and answers, of one length together.
        base: (layer, neuron) activations without the neuron.
        positions: As of `integrated_gradients`, or each pair's range.
        metric: Of each token; the score of an answer is its sum.
        whole_vocabulary: See `token_metric`.
    """
    base = base.to(backend.device)
    rows, columns, targets = answer_tokens(backend, pairs)
    with torch.enable_grad():
        hidden, activations = _with_graph(backend, torch.tensor([[*prompt, *answer] for prompt, answer in pairs]))
        scores = token_metric(backend, metric, hidden[rows, columns], targets, whole_vocabulary=whole_vocabulary)
        if positions != "last":
            gradients = torch.autograd.grad(scores.sum(), activations)
            spans = [range(hidden.shape[1])] * len(pairs) if positions == "all" else positions
            is_inside = inside_spans(spans, hidden)
            layers = zip(activations, gradients, base, strict=True)
            return torch.stack(
                [((value.detach() - start) * slope * is_inside).sum(1) for value, slope, start in layers], dim=1
            )
        # At `last`, a token's score moves only through the activation at the position that predicts the token.
        total = torch.zeros(len(pairs), *base.shape, dtype=base.dtype, device=base.device)
        numbers = torch.tensor([number for _, answer in pairs for number in range(len(answer))])
        for number in range(int(numbers.max()) + 1):
            is_number = numbers == number
            gradients = torch.autograd.grad(scores[is_number].sum(), activations, retain_graph=True)
            row, column = rows[is_number], columns[is_number]
            for layer, (value, slope, start) in enumerate(zip(activations, gradients, base, strict=True)):
                total[row, layer] += (value.detach()[row, column] - start) * slope[row, column]
        return total


def answer_tokens(
    backend: Backend, pairs: Sequence[PromptAndAnswer]
) -> tuple[Int[torch.Tensor, " token"], Int[torch.Tensor, " token"], Int[torch.Tensor, " token"]]:
    """List the (token,) row, predicting position and id of every answer token of a batch of prompts with their answers."""
    tokens = [
        (row, len(prompt) - 1 + number, token)
        for row, (prompt, answer) in enumerate(pairs)
        for number, token in enumerate(answer)
    ]
    rows, columns, targets = torch.tensor(tokens, device=backend.device).T
    return rows, columns, targets


def inside_spans(spans: Sequence[range], batch: torch.Tensor) -> torch.Tensor:
    """Mark with True, (row, position, 1), the positions of a (row, position, ...) batch that are in their row's range."""
    positions = torch.arange(batch.shape[1], device=batch.device)
    return torch.stack([(positions >= span.start) & (positions < span.stop) for span in spans])[..., None]


def _with_graph(backend: Backend, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute the final hidden states of `tokens`, and the activations of every layer, by which they are differentiable."""
    activations: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        # Layer 0 starts the graph; later layers are in it.
        activations.append(value if activations else value.requires_grad_())
        return activations[-1]

    with backend.hooks([(backend.hook_name(NEURON_HOOK, layer), keep) for layer in range(backend.n_layers)]):
        hidden, _ = backend.hidden(tokens)
    return hidden, activations
