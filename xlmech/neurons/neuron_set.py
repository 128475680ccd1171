"""Sets of neurons and how they are chosen from attributions. Runs no model.

A neuron (layer, index) is an entry of the MLP's hidden activation that multiplies W_out: `blocks.{layer}.mlp.hook_post`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float

from xlmech.options import LocateOptions, Rule
from xlmech.storage.result import Result

Neuron = tuple[int, int]


@dataclass(frozen=True)
class NeuronSet:
    """An immutable set of MLP neurons of one model shape.

    Attributes:
        neurons: (layer, index) pairs.
        n_layers: Layers of the model.
        d_mlp: Neurons per layer.
        model: Name of the model they were found in.
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
        """Share of the model's MLP neurons."""
        return len(self) / (self.n_layers * self.d_mlp)

    def by_layer(self) -> dict[int, list[int]]:
        """Indices per layer; only layers that have any."""
        layers: dict[int, list[int]] = {}
        for layer, index in self:
            layers.setdefault(layer, []).append(index)
        return layers

    def whole_layers(self) -> list[int]:
        """Layers of which every neuron is in the set."""
        return [layer for layer, indices in self.by_layer().items() if len(indices) == self.d_mlp]

    def for_model(self, name: str) -> NeuronSet:
        """The same neurons for a model of another name: a fine-tuned or copied version of the one they were found in."""
        return NeuronSet(self.neurons, self.n_layers, self.d_mlp, name)

    def check_model(self, name: str, n_layers: int, d_mlp: int) -> None:
        """Raise ValueError unless these are neurons of a model of this shape and, where both names are known, name."""
        shape, wanted = (self.n_layers, self.d_mlp), (n_layers, d_mlp)
        if shape != wanted:
            raise ValueError(f"neurons of a model with (layers, neurons per layer) {shape}; this one has {wanted}")
        if self.model and name and self.model != name:
            raise ValueError(
                f"neurons of the model {self.model!r}; this one is {name!r}: the same places mean something else there. Locate "
                f"them in this model, or, if it is a version of the same one, pass neurons.for_model({name!r})"
            )

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: `layer`, `neuron`."""
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
            text = json.dumps({"kind": "neurons"} | shape | {"neurons": list(self)})
        partial = Path(path).with_name(f".{Path(path).name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Read a set written by `save`, JSON or CSV by the suffix.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Another kind of file, or a neuron outside the model's shape.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            content = _from_csv(text) if Path(path).suffix == ".csv" else json.loads(text)
            pairs = frozenset((int(layer), int(index)) for layer, index in content["neurons"])
            shape = int(content["n_layers"]), int(content["d_mlp"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a neuron set ({error!r}); write one with NeuronSet.save") from error
        return cls(pairs, *shape, str(content.get("model", "")))

    def _with(self, neurons: frozenset[Neuron]) -> NeuronSet:
        return NeuronSet(neurons, self.n_layers, self.d_mlp, self.model)

    def _same_model(self, other: NeuronSet) -> NeuronSet:
        mine, theirs = (self.model, self.n_layers, self.d_mlp), (other.model, other.n_layers, other.d_mlp)
        if mine != theirs:
            raise ValueError(f"neuron sets of different models: {mine} and {theirs} (model, layers, neurons per layer)")
        return other


def _from_csv(text: str) -> dict[str, Any]:
    rows = list(csv.DictReader(io.StringIO(text)))
    shapes = {(row["model"], row["n_layers"], row["d_mlp"]) for row in rows}
    if len(shapes) != 1:
        raise ValueError(f"expected neurons of one model, got {len(shapes)} models")
    model, n_layers, d_mlp = shapes.pop()
    pairs = [(row["layer"], row["neuron"]) for row in rows]
    return {"model": model, "n_layers": n_layers, "d_mlp": d_mlp, "neurons": pairs}


@dataclass(frozen=True, eq=False, kw_only=True)
class PrivacyNeurons(Result):
    """Universal and language-specific privacy neurons, and the scores they were chosen by.

    Attributes:
        languages: Query languages, the order of `scores`.
        scores: (language, layer, neuron) private minus public normalised attribution; minus infinity where a neuron was spared.
        chosen: One row per chosen neuron: `kind` (`universal` or `specific`), `language` ("" for universal), `layer`,
            `neuron`, `score` (by which it was ranked).
        rule: Selection rule.
        model: Name of the model.
        options: The `LocateOptions` they were chosen with; empty where an earlier version saved the result.
    """

    kind: ClassVar[str] = "privacy_neurons"
    languages: tuple[str, ...]
    scores: torch.Tensor
    chosen: pd.DataFrame
    rule: str
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def universal(self) -> NeuronSet:
        """Neurons that act in every language."""
        return self._set(self.chosen[self.chosen.kind == "universal"])

    @property
    def specific(self) -> dict[str, NeuronSet]:
        """Per language, neurons that act in it and in no other."""
        of_kind = self.chosen[self.chosen.kind == "specific"]
        return {language: self._set(of_kind[of_kind.language == language]) for language in self.languages}

    @property
    def union(self) -> NeuronSet:
        """All chosen neurons: the universal and every language's."""
        return self._set(self.chosen)

    def to_frame(self) -> pd.DataFrame:
        """One row per chosen neuron."""
        return self.chosen

    def __repr__(self) -> str:
        counts = ", ".join(f"{language} {len(neurons)}" for language, neurons in self.specific.items())
        return f"PrivacyNeurons({len(self.universal)} universal; specific: {counts})"

    def _set(self, rows: pd.DataFrame) -> NeuronSet:
        pairs = frozenset(zip(rows.layer.astype(int).tolist(), rows.neuron.astype(int).tolist(), strict=True))
        return NeuronSet(pairs, self.scores.shape[1], self.scores.shape[2], self.model)


def candidates(
    mean: Float[torch.Tensor, "language layer neuron"],
    share: Float[torch.Tensor, "language layer neuron"],
    *,
    n_neurons: int,
    min_share: float,
) -> Bool[torch.Tensor, "language layer neuron"]:
    """(language, layer, neuron) whether a neuron is a language's candidate: by share of probes, or among the top k by mean.

    Args:
        mean: Mean attribution, with the public facts' subtracted where they are to be; only positive ones are candidates.
        share: Share of probes in which a neuron stands out, with the public facts' subtracted alike.
        n_neurons: A language's candidates by mean.
        min_share: From this share of probes on.
    """
    mean = mean.masked_fill(mean.isnan(), -torch.inf)
    order = mean.flatten(1).topk(min(n_neurons, mean[0].numel()), dim=1).indices
    top = torch.zeros_like(mean.flatten(1), dtype=torch.bool).scatter_(1, order, True).view_as(mean)
    return (top | (share >= min_share)) & (mean > 0)


def select_universal(
    scores: Float[torch.Tensor, "language layer neuron"],
    *,
    rule: Rule,
    n_neurons: int,
    is_candidate: Bool[torch.Tensor, "language layer neuron"],
) -> list[tuple[int, int, float]]:
    """(layer, neuron, score), best first: at most `n_neurons` with a positive score.

    Rules `min` and `entropy` rank by the minimum over languages; `intersection` ranks every language's common candidates by
    their mean.
    """
    if rule in ("min", "entropy"):
        return _top(scores.amin(0), n_neurons)
    if rule == "intersection":
        return _top(torch.where(is_candidate.all(0), scores.mean(0), -torch.inf), n_neurons)
    raise ValueError(f"unknown rule {rule!r}; use 'min', 'intersection' or 'entropy'")


def select_specific(
    scores: Float[torch.Tensor, "language layer neuron"],
    language: int,
    *,
    n_neurons: int,
    is_candidate: Bool[torch.Tensor, "language layer neuron"],
    rule: Rule = "min",
    max_entropy: float = LocateOptions().max_entropy,
) -> list[tuple[int, int, float]]:
    """(layer, neuron, score), best first: one language's own neurons, ranked by its score.

    Own are a language's candidates that no other language has. With rule `entropy` they are its candidates whose score is
    highest in it, and whose positive scores, divided by their sum over languages, have an entropy of at most `max_entropy`
    nats: another language may have them among its candidates, with little of the score. Neither proves that deactivation acts
    in that language only; `evaluate_mitigation` tells.

    Source:
        Entropy over languages: LAPE (Tang et al. 2024, arXiv:2402.16438), there of activation probabilities.
    """
    if rule == "entropy":
        positive = scores.clamp_min(0)
        entropy = torch.special.entr(positive / positive.sum(0)).sum(
            0
        )  # NaN, which is no entropy, without a positive score
        own = is_candidate[language] & (scores.argmax(0) == language) & (entropy <= max_entropy)
    else:
        own = is_candidate[language] & (is_candidate.sum(0) == 1)
    return _top(torch.where(own, scores[language], -torch.inf), n_neurons)


def chosen_frame(rows: Iterable[tuple[str, str, Sequence[tuple[int, int, float]]]]) -> pd.DataFrame:
    """The frame of `PrivacyNeurons.chosen` from (kind, language, neurons)."""
    found = [(kind, language, *neuron) for kind, language, neurons in rows for neuron in neurons]
    return pd.DataFrame(found, columns=["kind", "language", "layer", "neuron", "score"])


def overlap(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Jaccard overlap of every pair of sets: 1 the same, 0 disjoint, NaN where both are empty."""
    names = list(sets)
    values = [
        [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) if len(sets[a] | sets[b]) else float("nan") for b in names]
        for a in names
    ]
    return pd.DataFrame(values, index=names, columns=names)


def _top(scores: Float[torch.Tensor, "layer neuron"], k: int) -> list[tuple[int, int, float]]:
    ranked = scores.masked_fill(scores.isnan(), -torch.inf)  # NaN would rank first
    found = ranked.flatten().topk(min(k, scores.numel()))
    return [
        (index // scores.shape[1], index % scores.shape[1], score)
        for index, score in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        if score > 0
    ]
