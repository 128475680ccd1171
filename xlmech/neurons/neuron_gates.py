"""Neuron gates: by which factor between 0 and 1 each MLP neuron's activation is multiplied. Runs no model.

A factor of 1 leaves a neuron as it is, 0 is ablation (mode `zero`). `learn_gates` makes gates, `ablate` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import pandas as pd
import torch

from xlmech.models.sources.lora import ADAPTERS, GATES, shipped_gates
from xlmech.neurons.brief import gates_brief
from xlmech.neurons.neuron_set import NeuronSet, check_same_model
from xlmech.storage.result import Provenance, Result

TOUCHED_ABOVE = 0.02
"""Least distance of a factor from 1 at which a neuron counts among `neurons()`; smaller ones hardly act."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronGates(Result):
    """One factor per MLP neuron of one model, and how it was learned.

    Attributes:
        factors: (layer, neuron) factors of the activations, from 0 to 1, float32.
        model: Name of the model.
        history: One row per step: `step`, the mean losses `private`, `public` and `kl`, unweighted, each answer's when it was
            last run (NaN where there was nothing of the kind), `n_touched` after it, and `reduction` of the facts held back (NaN
            where not measured). Empty for gates that were not learned.
        reduction: Reduction of extraction of the facts held back by these gates; NaN where none were.
        counts: Number of `private` and `public` answers and neutral `texts` that they were learned from.
        options: The `GateOptions` they were learned with; empty for gates that were not learned.
    """

    kind: ClassVar[str] = "neuron_gates"
    _brief = gates_brief
    factors: torch.Tensor
    model: str = ""
    # What does not change the ablation is left out of the fingerprint by which finished shards are recognised.
    history: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    reduction: float = field(default=float("nan"), compare=False)
    counts: dict[str, int] = field(default_factory=dict, compare=False)
    options: dict[str, Any] = field(default_factory=dict, compare=False)
    provenance: Provenance = field(compare=False)

    def __post_init__(self) -> None:
        if self.factors.ndim != 2 or not self.factors.is_floating_point():
            raise ValueError(
                f"gates must be (layer, neuron) numbers, got {self.factors.dtype} of shape {tuple(self.factors.shape)}"
            )
        if not bool(((self.factors >= 0) & (self.factors <= 1)).all()):
            raise ValueError("gates must be numbers from 0 (neuron ablated) to 1 (neuron as it is)")

    @classmethod
    def shipped(cls, adapter: str) -> Self:
        """Read the gates that come with one of the demo model's adapters, named by its training language.

        They were learned by `analyses/gates.py` from half of the demo's people, asked in English, French and Chinese with the
        first two question templates. These are the people who choose neurons in `xlmech demo`; the others are held out.

        Raises:
            FileNotFoundError: There is no such adapter, or it comes without gates.
        """
        known = shipped_gates()
        if adapter not in known:
            raise FileNotFoundError(
                f"no gates come with the adapter {adapter!r}; there are some for {', '.join(known) or 'none'}. `learn_gates` "
                "makes your own"
            )
        return cls.load(ADAPTERS / adapter / GATES)

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.factors.shape[0]

    @property
    def d_mlp(self) -> int:
        """Neurons per layer."""
        return self.factors.shape[1]

    @property
    def n_touched(self) -> int:
        """Number of neurons whose factor is not exactly 1."""
        return int((self.factors < 1).sum())

    @property
    def mean_factor(self) -> float:
        """Mean factor of the neurons that are turned down; NaN if none is."""
        return float(self.factors[self.factors < 1].mean())

    @property
    def zeroed(self) -> NeuronSet:
        """The neurons whose factor is exactly 0."""
        return self._set((self.factors == 0).nonzero().tolist())

    def __len__(self) -> int:
        return self.n_touched

    def by_layer(self) -> dict[int, list[int]]:
        """Group the indices of the neurons whose factor is not 1 by layer; layers without any are left out."""
        return self._set((self.factors < 1).nonzero().tolist()).by_layer()

    def neurons(self, threshold: float = TOUCHED_ABOVE) -> NeuronSet:
        """Return the neurons whose factor is more than `threshold` below 1.

        Raises:
            ValueError: The threshold is outside 0 to 1, or no neuron is so far below 1.
        """
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
        found = (1 - self.factors > threshold).nonzero().tolist()
        if not found:
            raise ValueError(
                f"no gate is more than {threshold} below 1: the lowest factor is {float(self.factors.min()):.3f}; give a "
                "smaller threshold"
            )
        return self._set(found)

    def binary(self, n_neurons: int) -> NeuronSet:
        """Return the `n_neurons` of lowest factor as a set, which `ablate` sets to zero.

        Raises:
            ValueError: `n_neurons` is below 1, or above the number of neurons whose factor is not 1.
        """
        if not 1 <= n_neurons <= self.n_touched:
            raise ValueError(f"n_neurons must be from 1 to the {self.n_touched} neurons with a gate, got {n_neurons}")
        order = self.factors.flatten().argsort(stable=True)[:n_neurons]
        return self._set([divmod(int(number), self.d_mlp) for number in order])

    def only(self, neurons: NeuronSet) -> Self:
        """Copy the gates with a factor of 1 for every neuron outside the set.

        Raises:
            ValueError: A set of another model.
        """
        neurons.check_model(self.model, self.n_layers, self.d_mlp)
        kept = torch.zeros_like(self.factors, dtype=torch.bool)
        for layer, indices in neurons.by_layer().items():
            kept[layer, indices] = True
        return replace(self, factors=torch.where(kept, self.factors, 1.0))

    def top(self, n_neurons: int) -> Self:
        """Copy the gates with only the `n_neurons` lowest factors; the others become 1.

        The remaining factors were learned beside the others. Train them on for themselves:

            top = gates.top(370)
            learn_gates(model, suppress, keep=keep, start=top, support=top.neurons(0), options=GateOptions(pull=0, steps=100))

        Raises:
            ValueError: As `binary`.
        """
        return self.only(self.binary(n_neurons))

    def permuted(self, seed: int = 0) -> Self:
        """Copy the gates with the factors of each layer in random order: a control of equal values."""
        generator = torch.Generator().manual_seed(seed)
        rows = [row[torch.randperm(self.d_mlp, generator=generator)] for row in self.factors]
        return replace(self, factors=torch.stack(rows))

    def for_model(self, name: str) -> Self:
        """Copy the gates for a model of another name: a fine-tuned or copied version of the same one."""
        return replace(self, model=name)

    def check_model(self, name: str, n_layers: int, d_mlp: int) -> None:
        """Raise ValueError unless these are gates of a model of this shape and, where both names are known, name."""
        check_same_model(self, name, n_layers, d_mlp, what="gates", remedy="Learn")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron whose factor is not 1, lowest first: `layer`, `neuron`, `factor`."""
        places = (self.factors < 1).nonzero()
        frame = pd.DataFrame(places.tolist(), columns=["layer", "neuron"])
        frame["factor"] = self.factors[places[:, 0], places[:, 1]].tolist()
        return frame.sort_values("factor", kind="stable", ignore_index=True)

    def headline(self) -> dict[str, str]:
        """Say how many neurons are turned down, how far, and with which losses training ended."""
        touched = self.factors[self.factors < 1]
        total = self.factors.numel()
        shown = {"turned down": f"{len(touched):,} of {total:,} neurons ({len(touched) / total:.1%})"}
        if len(touched):
            above = int((1 - self.factors > TOUCHED_ABOVE).sum())
            shown["mean factor"] = f"{self.mean_factor:.2f}; {above:,} neurons below {1 - TOUCHED_ABOVE:g}"
        if len(self.history):
            last = self.history.tail(10)[["private", "public", "kl"]].mean()
            losses = ", ".join(f"{name} {value:.3g}" for name, value in last.items())
            shown["losses"] = f"{losses} (mean of the last steps of {len(self.history)})"
        if self.reduction == self.reduction:
            shown["facts held back"] = f"reduction of extraction {self.reduction:.0%}"
        return shown

    def _set(self, pairs: list[Any]) -> NeuronSet:
        return NeuronSet(frozenset((int(a), int(b)) for a, b in pairs), self.n_layers, self.d_mlp, self.model)
