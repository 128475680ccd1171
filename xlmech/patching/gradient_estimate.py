"""Estimate every patch of a sweep to first order, by one forward and one backward pass."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float

from xlmech.models.backends import Backend
from xlmech.patching.plan import contrast
from xlmech.patching.runs import PatchedPrompt, Sweep, first_tokens


def estimated_changes(
    backend: Backend, sweep: Sweep, item: PatchedPrompt, values: torch.Tensor
) -> Float[torch.Tensor, " variant"]:
    """Estimate how each variant of a sweep changes the contrast (nats), layer by layer: gradient times difference.

    The contrast is that of the outcomes' first tokens; the gradient is taken in the unpatched run.

    Args:
        backend: The model.
        sweep: Activations to overwrite, one layer at a time.
        item: Prompt to overwrite.
        values: (layer, position, ...) donor activations.

    Raises:
        ValueError: The sweep patches onward, which one gradient does not estimate.
    """
    if sweep.onward:
        raise ValueError("attribution patching estimates one layer at a time; use layers='single'")
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        kept.append(value if kept else value.detach().requires_grad_())  # layer 0 starts the graph
        return kept[-1]

    hooks = [(backend.hook_name(sweep.hook, layer), keep) for layer in range(backend.n_layers)]
    with torch.enable_grad(), backend.hooks(hooks):
        hidden, _ = backend.hidden(torch.tensor([list(item.prompt)]))
        score = contrast(first_tokens(backend, hidden[:, -1], item), list(item.forms))
        gradients = torch.autograd.grad(score.sum(), kept)
    changes = []
    positions = list(item.positions)
    for layer, mask in sorted(sweep.masks.items()):
        step = values[layer].to(kept[layer].dtype) - kept[layer].detach()[0, positions]
        changes.append((gradients[layer][0, positions] * step * mask.to(step.device)).flatten(1).sum(1))
    return torch.cat(changes)
