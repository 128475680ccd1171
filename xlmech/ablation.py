"""Deactivate neurons for the length of a `with` block, in every forward pass and generation step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from xlmech.backends import Backend, backend_of
from xlmech.effects import COMPONENT
from xlmech.neurons import NeuronSet

Mode = Literal["zero", "scale"]


@contextmanager
def ablate(model: Any, neurons: NeuronSet, *, mode: Mode = "zero", factor: float = 0.0) -> Iterator[Any]:
    """Deactivate `neurons` at all positions while the block runs.

    Blocks nest, and compose with hooks of your own; on any exit exactly these hooks are removed.

    Args:
        model: Hooked model.
        neurons: Which to deactivate.
        mode: `zero`, or `scale` to multiply by `factor`.
        factor: What is left of each activation with mode `scale`.

    Yields:
        The model.

    Raises:
        ValueError: A set from a model of another shape, or an unknown mode.
    """
    backend = backend_of(model)
    _check(backend, neurons, mode)
    kept = 0.0 if mode == "zero" else factor
    hooks = [
        (backend.hook_name(COMPONENT, layer), _scaling(torch.tensor(indices, device=backend.device), kept))
        for layer, indices in neurons.by_layer().items()
    ]
    with backend.hooks(hooks):
        yield model


def _check(backend: Backend, neurons: NeuronSet, mode: str) -> None:
    if mode not in ("zero", "scale"):
        raise ValueError(f"unknown mode {mode!r}; use 'zero' or 'scale'")
    shape, wanted = (neurons.n_layers, neurons.d_mlp), (backend.n_layers, backend.d_mlp)
    if shape != wanted:
        raise ValueError(f"neurons of a model with (layers, neurons per layer) {shape}; this one has {wanted}")


def _scaling(indices: torch.Tensor, factor: float) -> Callable[..., torch.Tensor]:
    def scale(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        value = value.clone()
        value[..., indices] = (
            value[..., indices] * factor if factor else torch.zeros((), dtype=value.dtype, device=value.device)
        )
        return value

    return scale
