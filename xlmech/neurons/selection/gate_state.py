"""Where a training of gates stands, in memory and on disk."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file

from xlmech.models.backends import Backend
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.gate_losses import Kind
from xlmech.storage.atomic import new_file


@dataclass(kw_only=True)
class GateState:
    """Where training stands.

    Attributes:
        weights: (layer, neuron) 1 minus the factors, float32 on the model's device.
        movable: (layer, neuron) whether the gate may change; None for all.
        adam: The optimiser, of `weights` alone.
        history: One row per step done.
        losses: (sample,) loss of each sample of each kind when it was last run, on the CPU; NaN before.
        best: The weights of the largest reduction that was measured.
    """

    weights: Float[torch.Tensor, "layer neuron"]
    movable: torch.Tensor | None
    adam: torch.optim.Optimizer
    losses: dict[Kind, Float[torch.Tensor, " sample"]]
    best: torch.Tensor
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(
        cls, backend: Backend, start: NeuronGates | None, support: NeuronSet | None, n_samples: dict[Kind, int]
    ) -> GateState:
        """Make the state before the first step: open gates or those of `start`, of which those in `support` may move."""
        weights = torch.zeros(backend.n_layers, backend.d_mlp)
        if start is not None:
            weights = 1 - start.factors.float()
        movable = None
        if support is not None:
            movable = torch.zeros_like(weights, dtype=torch.bool)
            for layer, indices in support.by_layer().items():
                movable[layer, indices] = True
            weights = weights * movable
            movable = movable.to(backend.device)
        weights = weights.to(backend.device)
        adam = torch.optim.Adam([weights])
        moments = {"exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
        adam.state[weights] = {"step": torch.tensor(0.0)} | moments
        losses = {kind: torch.full((number,), math.nan) for kind, number in n_samples.items()}
        return cls(weights=weights, movable=movable, adam=adam, losses=losses, best=weights.clone())

    def see(self, numbers: dict[Kind, list[int]], losses: Float[torch.Tensor, " sample"]) -> None:
        """Remember the losses of the samples of a step, which come kind by kind."""
        parts = torch.split(losses.float().cpu(), [len(of_kind) for of_kind in numbers.values()])
        for (kind, of_kind), part in zip(numbers.items(), parts, strict=True):
            self.losses[kind][of_kind] = part

    def mean_losses(self) -> dict[str, Any]:
        """Return the mean last loss of each kind over the samples that were run; NaN without any."""
        return {kind: float(losses.nanmean()) for kind, losses in self.losses.items()}

    @torch.no_grad()
    def move(self, gradient: torch.Tensor, rate: float, pull: float) -> None:
        """Do one step of Adam, then of soft-thresholding, and clip."""
        self.weights.grad = gradient if self.movable is None else gradient * self.movable
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.weights.sub_(rate * pull).clamp_(0, 1)

    def record(self, row: dict[str, Any]) -> None:
        """Add a step, and keep its weights if they are the best so far."""
        earlier = self._best_reduction
        self.history.append(row)
        if row["reduction"] > earlier:
            self.best = self.weights.clone()

    def reached(self, target: float | None) -> bool:
        """Tell whether the target was reached."""
        return target is not None and self._best_reduction >= target

    def result(self) -> tuple[torch.Tensor, float]:
        """Return the weights that were best by reduction, and this; the last ones and NaN where it was not measured."""
        best = self._best_reduction
        return (self.best, best) if best > -math.inf else (self.weights, math.nan)

    @property
    def _best_reduction(self) -> float:
        return max(
            (row["reduction"] for row in self.history if row["reduction"] == row["reduction"]), default=-math.inf
        )


@dataclass(frozen=True, kw_only=True)
class GateStateFile:
    """The state of a training on disk.

    Attributes:
        path: A safetensors file.
        settings: Fingerprint of all that decides the training.
    """

    path: Path
    settings: str

    def write(self, state: GateState) -> None:
        """Write the state, in place of an earlier one."""
        tensors = {"weights": state.weights, "best": state.best} | state.adam.state[state.weights]
        tensors |= {f"losses.{kind}": losses for kind, losses in state.losses.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"settings": self.settings, "history": json.dumps(state.history)}
        with new_file(self.path) as path:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)

    def read(self, state: GateState) -> None:
        """Restore a state that was written, if there is one.

        Raises:
            ValueError: It is of another training.
        """
        if not self.path.is_file():
            return
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["settings"] != self.settings:
                raise ValueError(
                    f"{self.path.parent} holds gates in training with other options, probes, texts or another model; finish "
                    "those, or give another folder"
                )
            state.weights.copy_(file.get_tensor("weights"))
            state.best = file.get_tensor("best").to(state.weights.device)
            for name, tensor in state.adam.state[state.weights].items():
                tensor.copy_(file.get_tensor(name))
            for kind, losses in state.losses.items():
                losses.copy_(file.get_tensor(f"losses.{kind}"))
        state.history = json.loads(metadata["history"])
