"""Edit the weights through which each MLP neuron of a transformers model acts: its column of the down projection."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from xlmech.neurons.ablation import Ablated
from xlmech.neurons.neuron_gates import NeuronGates


def layer_count(model: nn.Module) -> int:
    """Return the number of layers of a transformers model."""
    config: Any = model.config
    return int(config.get_text_config().num_hidden_layers)


def down_projections(model: nn.Module, d_mlp: int) -> dict[int, tuple[str, Any]]:
    """Return the name and module of every layer's down projection, whose input is the MLP's hidden activation.

    It is the one linear module of the layer, outside of attention, from `d_mlp` inputs to the residual stream's width.

    Raises:
        ValueError: A layer has none or several (a mixture of experts, quantised weights, neurons of another model).
    """
    n_layers, d_model = layer_count(model), model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    modules = dict(model.named_modules())
    stack = next(
        (name for name, part in modules.items() if isinstance(part, nn.ModuleList) and len(part) == n_layers), "?"
    )
    projections: dict[int, tuple[str, Any]] = {}
    for layer in range(n_layers):
        fitting = [
            (name, part)
            for name, part in modules.items()
            if name.startswith(f"{stack}.{layer}.")
            and "attn" not in name
            and "attention" not in name
            and _shape(part) == (d_mlp, d_model)
        ]
        if len(fitting) != 1:
            raise ValueError(
                f"layer {layer} has {len(fitting)} linear modules from {d_mlp} neurons to {d_model} channels, and one is needed "
                "to write the neurons' columns: these are neurons of another model, or the layer has experts or is quantised"
            )
        projections[layer] = fitting[0]
    return projections


def _shape(part: nn.Module) -> tuple[int, int] | None:
    """Return inputs and outputs of a linear module; None for other modules, and for quantised weights."""
    weight = getattr(part, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    if isinstance(part, nn.Linear):
        return weight.shape[1], weight.shape[0]
    return (weight.shape[0], weight.shape[1]) if _is_transposed(part) else None


def _is_transposed(part: nn.Module) -> bool:
    """Tell whether a module is transformers' Conv1D, a linear module with a transposed weight."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(part, Conv1D)


@torch.no_grad()
def edited_weights(
    model: nn.Module, neurons: Ablated, factor: float, values: Float[torch.Tensor, "layer neuron"] | None
) -> dict[str, torch.Tensor]:
    """Return new tensors by parameter name: weights whose columns are scaled, and biases that hold `values` in place of columns.

    Columns of gates are scaled by their own factors, those of a set by `factor`.

    Raises:
        ValueError: No down projection is found, or it has no bias for `values`.
    """
    projections, edits = down_projections(model, neurons.d_mlp), {}
    for layer, indices in neurons.by_layer().items():
        name, part = projections[layer]
        weight, bias = part.weight.clone(), getattr(part, "bias", None)
        columns = weight.T if _is_transposed(part) else weight  # (d_model, d_mlp), a view
        if values is not None:
            if bias is None:
                raise ValueError(
                    f"activations cannot be fixed at values in this architecture: {name} has no bias to hold the constant; "
                    "its weights can express a factor"
                )
            constant = columns[:, indices].double() @ values[layer, indices].to(columns.device).double()
            edits[f"{name}.bias"] = (bias.double() + constant).to(bias.dtype)
        if isinstance(neurons, NeuronGates):
            scaled = columns * neurons.factors[layer].to(columns.device)
            columns.copy_(scaled)
        else:
            columns[:, indices] = columns[:, indices] * factor if factor and values is None else 0.0
        edits[f"{name}.weight"] = weight
    return edits
