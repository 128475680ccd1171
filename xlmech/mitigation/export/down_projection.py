"""The part of a transformers model's weights through which each MLP neuron acts: its column of the down projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from xlmech.neurons.neuron_set import NeuronSet

Edited = dict[str, tuple[torch.Tensor, torch.Tensor | None]]


def layer_count(model: nn.Module) -> int:
    """Layers of a transformers model."""
    config: Any = model.config
    return int(config.get_text_config().num_hidden_layers)


def down_projections(model: nn.Module, d_mlp: int) -> dict[int, tuple[str, Any]]:
    """Name and module of every layer's down projection, whose input is the MLP's hidden activation.

    It is found by its shape: in each layer the one linear module, outside of attention, from `d_mlp` inputs to the residual
    stream's width.

    Raises:
        ValueError: A layer has none or several (a mixture of experts, quantised weights, neurons of another model).
    """
    n_layers, width = layer_count(model), model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    stacks = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == n_layers]
    found: dict[int, tuple[str, Any]] = {}
    for layer in range(n_layers):
        prefix = f"{stacks[0]}.{layer}." if stacks else "?"
        fitting = [
            (name, part)
            for name, part in model.named_modules()
            if name.startswith(prefix)
            and "attn" not in name
            and "attention" not in name
            and _widths(part) == (d_mlp, width)
        ]
        if len(fitting) != 1:
            raise ValueError(
                f"layer {layer} has {len(fitting)} linear modules from {d_mlp} neurons to {width} channels, and one is needed "
                "to write the neurons' columns: these are neurons of another model, or the layer has experts or is quantised"
            )
        found[layer] = fitting[0]
    return found


def _widths(part: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear module; transformers' Conv1D keeps its weight the other way round."""
    weight = getattr(part, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    if isinstance(part, nn.Linear):
        return weight.shape[1], weight.shape[0]
    return (weight.shape[0], weight.shape[1]) if _is_conv1d(part) else None


def _is_conv1d(part: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(part, Conv1D)


@torch.no_grad()
def edited_weights(
    model: nn.Module, neurons: NeuronSet, mode: str, factor: float, values: torch.Tensor | None
) -> Edited:
    """New weight and bias (None where it stays) of each down projection that changes, by the module's name.

    Args:
        model: transformers model; it is not changed.
        neurons: Whose columns.
        mode: `zero`, `scale` or `mean`.
        factor: Of mode `scale`.
        values: (layer, neuron) activations of mode `mean`, None in the others.

    Raises:
        ValueError: No down projection is found, or it has no bias for mode `mean`.
    """
    places, edited = down_projections(model, neurons.d_mlp), Edited()
    for layer, indices in neurons.by_layer().items():
        name, part = places[layer]
        weight, bias = part.weight.clone(), getattr(part, "bias", None)
        columns = weight.T if _is_conv1d(part) else weight  # (d_model, d_mlp), a view
        if values is not None:
            if bias is None:
                raise ValueError(
                    f"mode 'mean' cannot be exported to this architecture: {name} has no bias to hold the mean's constant; its "
                    "weights can express 'zero' and 'scale'"
                )
            constant = columns[:, indices].double() @ values[layer, indices].to(columns.device).double()
            bias = (bias.double() + constant).to(bias.dtype)
        columns[:, indices] = columns[:, indices] * factor if mode == "scale" and factor else 0.0
        edited[name] = weight, bias if values is not None else None
    return edited


def put(part: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give a module other weights; its bias stays where None is given."""
    part.weight.data = weight
    if bias is not None:
        part.bias.data = bias
