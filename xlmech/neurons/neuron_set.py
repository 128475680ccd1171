"""Sets of neurons. Runs no model.

A neuron (layer, index) is an entry of the MLP's hidden activation that multiplies W_out: `blocks.{layer}.mlp.hook_post`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from xlmech.metrics.similarity import jaccard
from xlmech.storage.atomic import new_file
from xlmech.storage.integrity import check_signed, read_intact, signed

Neuron = tuple[int, int]


class _Saved(BaseModel):
    """What the file of a set holds besides its hash."""

    neurons: frozenset[Neuron]
    n_layers: int
    d_mlp: int
    model: str = ""


@dataclass(frozen=True)
class NeuronSet:
    """An immutable set of MLP neurons of one model shape.

    Attributes:
        neurons: (layer, index) pairs.
        n_layers: Layers of the model.
        d_mlp: Neurons per layer.
        model: Name of the model.
    """

    neurons: frozenset[Neuron]
    n_layers: int
    d_mlp: int
    model: str = ""

    def __post_init__(self) -> None:
        for layer, index in self.neurons:
            if not (0 <= layer < self.n_layers and 0 <= index < self.d_mlp):
                raise ValueError(f"neuron ({layer}, {index}) is outside {self.n_layers} layers of {self.d_mlp} neurons")

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(sorted(self.neurons))

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons | self._same_model(other).neurons)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons & self._same_model(other).neurons)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return self._with(self.neurons - self._same_model(other).neurons)

    def __repr__(self) -> str:
        return f"NeuronSet({len(self)} of {self.n_layers * self.d_mlp} neurons of {self.model or 'a model'})"

    @property
    def share(self) -> float:
        """Share of the model's MLP neurons that is in the set."""
        return len(self) / (self.n_layers * self.d_mlp)

    def by_layer(self) -> dict[int, list[int]]:
        """Group the indices by layer; layers without any are left out."""
        layers: dict[int, list[int]] = {}
        for layer, index in self:
            layers.setdefault(layer, []).append(index)
        return layers

    def whole_layers(self) -> list[int]:
        """List the layers of which every neuron is in the set."""
        return [layer for layer, indices in self.by_layer().items() if len(indices) == self.d_mlp]

    def for_model(self, name: str) -> NeuronSet:
        """Copy the set for a model of another name: a fine-tuned or copied version of the same one."""
        return NeuronSet(self.neurons, self.n_layers, self.d_mlp, name)

    def check_model(self, name: str, n_layers: int, d_mlp: int) -> None:
        """Raise ValueError unless these are neurons of a model of this shape and, where both names are known, name."""
        check_same_model(self, name, n_layers, d_mlp, what="neurons", remedy="Locate")

    def to_frame(self) -> pd.DataFrame:
        """Make a frame of one row per neuron: `layer`, `neuron`."""
        return pd.DataFrame(list(self), columns=["layer", "neuron"])

    def save(self, path: str | Path) -> None:
        """Write the set as JSON, or where `path` ends in .csv as a table: `layer`, `neuron`, `n_layers`, `d_mlp`, `model`.

        Raises:
            ValueError: An empty set as CSV, in which nothing would tell the model's shape.
        """
        shape = {"model": self.model, "n_layers": self.n_layers, "d_mlp": self.d_mlp}
        if Path(path).suffix == ".csv":
            if not self.neurons:
                raise ValueError(f"{Path(path).name}: a CSV of no neurons cannot tell the model's shape; use .json")
            text = (
                self.to_frame().assign(n_layers=self.n_layers, d_mlp=self.d_mlp, model=self.model).to_csv(index=False)
            )
        else:
            text = json.dumps(signed({"kind": "neurons"} | shape | {"neurons": list(self)}))
        with new_file(Path(path)) as partial:
            partial.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Read a set written by `save`, JSON or CSV by the suffix.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Another kind of file, JSON that was edited, or a neuron outside the model's shape.
        """
        path = Path(path)
        read = _from_csv if path.suffix == ".csv" else _from_json
        content = read_intact(path, read, problem="not a neuron set", remedy="give one that NeuronSet.save wrote")
        check_signed(content, path, remedy="save the set again, or delete its hash if the edit is meant")
        return cls(**dict(_Saved.model_validate(content)))

    def _with(self, neurons: frozenset[Neuron]) -> NeuronSet:
        return NeuronSet(neurons, self.n_layers, self.d_mlp, self.model)

    def _same_model(self, other: NeuronSet) -> NeuronSet:
        first, second = ((neurons.model, neurons.n_layers, neurons.d_mlp) for neurons in (self, other))
        if first != second:
            raise ValueError(
                f"neuron sets of different models: {first} and {second} (model, layers, neurons per layer)"
            )
        return other


def pairs_of(rows: pd.DataFrame) -> list[Neuron]:
    """List the (layer, index) of rows with columns `layer` and `neuron`, in their order."""
    return list(zip(rows.layer.astype(int).tolist(), rows.neuron.astype(int).tolist(), strict=True))


def _from_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    _Saved.model_validate(content)
    return content


def _from_csv(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (model, n_layers, d_mlp), *others = {(row["model"], row["n_layers"], row["d_mlp"]) for row in rows}
    if others:
        raise ValueError("neurons of several models")
    pairs = [(row["layer"], row["neuron"]) for row in rows]
    content = {"model": model, "n_layers": n_layers, "d_mlp": d_mlp, "neurons": pairs}
    _Saved.model_validate(content)
    return content


def overlap(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Compute the Jaccard overlap of every pair of sets: 1 the same, 0 disjoint, NaN where both are empty."""
    values = [
        [jaccard(first.neurons, first._same_model(second).neurons) for second in sets.values()]
        for first in sets.values()
    ]
    return pd.DataFrame(values, index=list(sets), columns=list(sets))


def check_same_model(given: Any, name: str, n_layers: int, d_mlp: int, *, what: str, remedy: str) -> None:
    """Raise ValueError unless neurons or gates are of a model of this shape and, where both names are known, this name."""
    if (given.n_layers, given.d_mlp) != (n_layers, d_mlp):
        own, other = (given.n_layers, given.d_mlp), (n_layers, d_mlp)
        raise ValueError(f"{what} of a model with (layers, neurons per layer) {own}; this one has {other}")
    if given.model and name and given.model != name:
        raise ValueError(
            f"{what} of the model {given.model!r}; this one is {name!r}: the same indices mean something else there. {remedy} "
            f"them in this model, or, if it is a version of the same one, pass {what}.for_model({name!r})"
        )
