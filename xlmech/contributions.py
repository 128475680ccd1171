"""Attribution of any part of the probes: what `attribute_neurons` sends to `xlmech.parts`, and how its pieces are put together.

A piece holds sums over its probes, never an attribution per probe but the top ones: pieces of many parts add up, in the order of
the parts and in float64, to what one part would have given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from xlmech import metrics
from xlmech.answers import answer_log_probs
from xlmech.backends import Backend, backend_of
from xlmech.effects import COMPONENT, Metric, Positions, exact_effects, gradient_x_activation, integrated_gradients
from xlmech.probes import Probe
from xlmech.runner import encode_answer, encode_prompt, mean_over_tokens, run_batched, run_forced

Method = Literal["integrated_gradients", "gradient_x_activation", "exact"]
TOP_PER_PROBE = 200


@dataclass(frozen=True, kw_only=True)
class Attributing:
    """How answers are attributed; a task whose items are probes and the metric of each. Fields as of `attribute_neurons`."""

    stage: ClassVar[str] = "attribution"
    method: Method
    base: Float[torch.Tensor, "layer neuron"]
    nodes: int
    positions: Positions
    max_answer_tokens: int | None
    threshold: float
    batch_size: int
    progress: bool = field(compare=False)

    def __call__(self, model: Any, items: Sequence[tuple[Probe, Metric]]) -> dict[str, Any]:
        """The piece of a `_Tally`."""
        backend, probes, metric_of = backend_of(model), [probe for probe, _ in items], [metric for _, metric in items]
        pairs = [encode_probe(backend, probe, self.max_answer_tokens) for probe in probes]
        base, tally = self.base.to(backend.device), _Tally(probes, backend, self.threshold)
        if self.method == "gradient_x_activation":
            _by_gradient(backend, pairs, base, metric_of, self.positions, self.batch_size, self.progress, tally)
            return tally.piece()
        for index, (prompt, answer) in enumerate(
            tqdm(pairs, desc="attribution", disable=not self.progress, leave=False)
        ):
            forced = run_forced(backend, prompt, answer, COMPONENT, what=f"probe {probes[index].id}")
            options: Any = {"positions": self.positions, "metric": metric_of[index]}
            if self.method == "integrated_gradients":
                scores, errors = integrated_gradients(backend, forced, base, nodes=self.nodes, **options)
                tally.add(index, scores / len(answer), errors)
            else:
                scores = exact_effects(backend, forced, base, **options).view_as(base)
                tally.add(index, scores / len(answer))
        return tally.piece()


@dataclass(frozen=True, kw_only=True)
class AskingSaturation:
    """Which answers are saturated; a task.

    Attributes:
        limit: Mean token probability above which they are.
        max_answer_tokens: As of `attribute_neurons`.
        progress: Whether to show a progress bar.
    """

    stage: ClassVar[str] = "saturated"
    limit: float
    max_answer_tokens: int | None
    progress: bool = field(compare=False)

    def __call__(self, model: Any, probes: Sequence[Probe]) -> dict[str, Any]:
        """Frame `probes`: `probe` and `saturated`."""
        backend = backend_of(model)
        pairs = [encode_probe(backend, probe, self.max_answer_tokens) for probe in probes]
        prompts, answers = [prompt for prompt, _ in pairs], [[answer] for _, answer in pairs]
        found = answer_log_probs(backend, prompts, answers, progress="saturated answers" if self.progress else "")
        limits = [len(answer) * math.log(self.limit) for _, answer in pairs]
        above = [float(score) > limit for score, limit in zip(found, limits, strict=True)]
        return {"probes": pd.DataFrame({"probe": [probe.id for probe in probes], "saturated": above})}


@dataclass(frozen=True, kw_only=True)
class AskingMean:
    """Sum of activations at prompts' last positions; a task."""

    stage: ClassVar[str] = "baseline"
    progress: bool = field(compare=False)

    def __call__(self, model: Any, probes: Sequence[Probe]) -> dict[str, Any]:
        """Tensors `sum` (layer, neuron), float64, and `n`, the number of prompts."""
        label, prompts = "baseline" if self.progress else "", [probe.prompt for probe in probes]
        mean = mean_over_tokens(
            backend_of(model), prompts, COMPONENT, positions="last", progress=label, what="baseline prompt"
        )
        return {"sum": mean * len(probes), "n": torch.tensor(len(probes))}


def encode_probe(backend: Backend, probe: Probe, max_answer_tokens: int | None = None) -> tuple[list[int], list[int]]:
    """Token ids of a probe's prompt, and of its answer in the query language's form, cut after `max_answer_tokens`.

    Raises:
        ValueError: The model cannot take one of them (names the probe).
    """
    answer = encode_answer(backend, probe.answers[probe.query_language], what=f"the answer of {probe.id}")[
        :max_answer_tokens
    ]
    return encode_prompt(backend, probe.prompt, room=len(answer), what=f"probe {probe.id}"), answer


def _by_gradient(
    backend: Backend,
    pairs: Sequence[tuple[list[int], list[int]]],
    base: torch.Tensor,
    metric_of: Sequence[Metric],
    positions: Positions,
    batch_size: int,
    progress: bool,
    tally: _Tally,
) -> None:
    """Gradient x activation in batches of pairs of equal length and one metric."""
    for metric in dict.fromkeys(metric_of):
        same = [index for index, other in enumerate(metric_of) if other == metric]

        def add(_: torch.Tensor, numbers: list[int], metric: Metric = metric, same: list[int] = same) -> None:
            chosen = [pairs[same[number]] for number in numbers]
            batch = gradient_x_activation(backend, chosen, base, positions=positions, metric=metric)
            for number, (_prompt, answer), scores in zip(numbers, chosen, batch, strict=True):
                tally.add(same[number], scores / len(answer))

        sequences = [[*pairs[index][0], *pairs[index][1]] for index in same]
        run_batched(sequences, add, batch_size=batch_size, progress="attribution" if progress else "")


class _Tally:
    """Sums per language over some probes, and each probe's top neurons."""

    def __init__(self, probes: Sequence[Probe], backend: Backend, threshold: float) -> None:
        self.probes, self.threshold = probes, threshold
        self.languages = list(dict.fromkeys(probe.query_language for probe in probes))
        shape = (len(self.languages), backend.n_layers, backend.d_mlp)
        self._sum, self._above = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.int32)
        self._top: dict[int, pd.DataFrame] = {}
        self._errors: list[tuple[str, int, float]] = []

    def add(self, index: int, scores: torch.Tensor, errors: torch.Tensor | None = None) -> None:
        scores, probe = scores.detach().float().cpu(), self.probes[index]
        normalised, language = metrics.normalised_attribution(scores), self.languages.index(probe.query_language)
        self._sum[language] += normalised
        self._above[language] += normalised > self.threshold
        best = scores.flatten().topk(min(TOP_PER_PROBE, scores.numel()))
        layers, neurons = best.indices // scores.shape[1], best.indices % scores.shape[1]
        self._top[index] = pd.DataFrame({"probe": probe.id, "layer": layers, "neuron": neurons, "effect": best.values})
        if errors is not None:
            self._errors += [(probe.id, layer, float(error)) for layer, error in enumerate(errors)]

    def piece(self) -> dict[str, Any]:
        """Tensors `sum` and `above` (language, layer, neuron); frames `languages`, `top` and `completeness`."""
        asked = [probe.query_language for probe in self.probes]
        counts = [asked.count(language) for language in self.languages]
        types: dict[str, Any] = {"probe": str, "layer": "int64", "error": "float64"}
        return {
            "sum": self._sum,
            "above": self._above,
            "languages": pd.DataFrame({"language": self.languages, "n": counts}),
            "top": pd.concat([self._top[index] for index in sorted(self._top)], ignore_index=True),
            "completeness": pd.DataFrame(self._errors, columns=list(types)).astype(types),
        }


@dataclass(frozen=True, kw_only=True)
class MergedTally:
    """Pieces put together; as of `AttributionResult`."""

    mean: Float[torch.Tensor, "language layer neuron"]
    share: Float[torch.Tensor, "language layer neuron"]
    top: pd.DataFrame
    completeness: pd.DataFrame


def merged_tally(pieces: Iterable[dict[str, Any]], languages: Sequence[str]) -> MergedTally:
    """Means and shares per language of all pieces, added up in their order; NaN where a language has no probe left."""
    total = above = torch.zeros(())
    count = torch.zeros(len(languages), 1, 1, dtype=torch.float64)
    tops, errors = list[pd.DataFrame](), list[pd.DataFrame]()
    for piece in pieces:
        if not tops:
            total = torch.zeros(len(languages), *piece["sum"].shape[1:], dtype=torch.float64)
            above = torch.zeros_like(total)
        for row, (language, n) in enumerate(piece["languages"].itertuples(index=False)):
            place = languages.index(language)
            total[place] += piece["sum"][row]
            above[place] += piece["above"][row]
            count[place] += n
        tops.append(piece["top"])
        errors.append(piece["completeness"])
    return MergedTally(
        mean=(total / count).float(),
        share=(above / count).float(),
        top=pd.concat(tops, ignore_index=True),
        completeness=pd.concat(errors, ignore_index=True),
    )
