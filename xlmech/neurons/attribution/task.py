"""Tasks of `attribute_neurons`: attribute answers, find saturated answers, and average activations over other prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.engine.batching import Forced, Recorder, run_batched, run_forced
from xlmech.engine.score import answer_log_probs
from xlmech.models.backends import NEURON_HOOK, Backend
from xlmech.models.tokens import EncodedProbe, n_special
from xlmech.neurons.attribution.accumulator import AttributionSums
from xlmech.neurons.attribution.effects import Metric, TokenPositions, exact_effects, integrated_gradients
from xlmech.neurons.attribution.gradient import gradient_x_activation, inside_spans
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import Method, Positions
from xlmech.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class AttributionTask:
    """Attribute answers; a task of `run_task`.

    Attributes:
        method: As of `AttributeOptions`; so are `nodes`, `positions`, `whole_vocabulary` and `threshold`.
        base: (layer, neuron) activations that stand for a neuron's absence.
        is_mean: Whether `base` is a mean over other prompts; special tokens in front then keep the prompt's own activations.
        positions: Positions attributed; for `subject`, items hold their subject's tokens.
        metric: Metric of the answers that are not saturated.
        saturated: Ids of the probes that are attributed by log-odds.
        track: Neurons whose effect is kept for every probe.
        batch_size: Probes at a time, at first.
        progress: Whether to show a progress bar.
    """

    stage: ClassVar[str] = "attribution"
    method: Method
    base: Float[torch.Tensor, "layer neuron"]
    is_mean: bool
    nodes: int
    positions: Positions
    metric: Metric
    saturated: frozenset[str]
    whole_vocabulary: bool
    threshold: float
    track: NeuronSet | None
    batch_size: int
    progress: bool = field(compare=False)

    def __call__(self, backend: Backend, items: Sequence[EncodedProbe]) -> dict[str, Any]:
        """Return the output of `AttributionSums`."""
        base = self.base.to(backend.device)
        sums = AttributionSums([item.probe for item in items], backend, self.threshold, self.track)
        if self.method == "gradient_x_activation":
            self._by_gradient(backend, items, base, sums)
            return sums.output()
        for index, item in enumerate(progress_bar(items, "attribution", shown=self.progress)):
            forced = run_forced(backend, item.prompt, item.answer, NEURON_HOOK, what=f"probe {item.id}")
            options: Any = {
                "positions": token_positions(item, self.positions),
                "metric": self._metric_of(item),
                "whole_vocabulary": self.whole_vocabulary,
            }
            if self.method == "integrated_gradients":
                start = self._path_start(backend, forced, base)
                scores, errors = integrated_gradients(backend, forced, start, nodes=self.nodes, **options)
                sums.add(index, scores / len(item.answer), errors)
            else:
                scores = exact_effects(backend, forced, base, **options).view_as(base)
                sums.add(index, scores / len(item.answer))
        return sums.output()

    def _metric_of(self, item: EncodedProbe) -> Metric:
        return "log_odds" if item.id in self.saturated else self.metric

    def _by_gradient(
        self, backend: Backend, items: Sequence[EncodedProbe], base: torch.Tensor, sums: AttributionSums
    ) -> None:
        """Attribute by gradient x activation, in batches of prompts with answers of equal length and one metric."""
        metrics = [self._metric_of(item) for item in items]
        for metric in dict.fromkeys(metrics):
            same = [index for index, other in enumerate(metrics) if other == metric]

            def add(_: torch.Tensor, numbers: list[int], metric: Metric = metric, same: list[int] = same) -> None:
                chosen = [items[same[number]] for number in numbers]
                spans: Any = [item.subject for item in chosen] if self.positions == "subject" else self.positions
                pairs = [(item.prompt, item.answer) for item in chosen]
                batch = gradient_x_activation(
                    backend, pairs, base, positions=spans, metric=metric, whole_vocabulary=self.whole_vocabulary
                )
                for number, item, scores in zip(numbers, chosen, batch, strict=True):
                    sums.add(same[number], scores / len(item.answer))

            sequences = [[*items[index].prompt, *items[index].answer] for index in same]
            label = "attribution" if self.progress else ""
            run_batched(sequences, add, batch_size=self.batch_size, progress=label)

    def _path_start(
        self, backend: Backend, forced: Forced, base: Float[torch.Tensor, "layer neuron"]
    ) -> Float[torch.Tensor, "layer position neuron"]:
        """Return the (layer, position, neuron) baseline of a forced answer.

        Special tokens in front have the same activations in every prompt, so that their mean is the prompt's own.
        """
        start = base[:, None].repeat(1, len(forced.tokens), 1)
        if self.is_mean:
            special = slice(n_special(backend))
            start[:, special] = forced.activations[:, special].to(start)
        return start


@dataclass(frozen=True, kw_only=True)
class SaturationTask:
    """Find saturated answers; a task of `run_task`.

    Attributes:
        limit: Mean token probability above which an answer is saturated.
        progress: Whether to show a progress bar.
    """

    stage: ClassVar[str] = "saturated"
    limit: float
    progress: bool = field(compare=False)

    def __call__(self, backend: Backend, items: Sequence[EncodedProbe]) -> dict[str, Any]:
        """Return frame `probes`: `probe` and `saturated`."""
        prompts, answers = [item.prompt for item in items], [[item.answer] for item in items]
        scores = answer_log_probs(backend, prompts, answers, progress="saturated answers" if self.progress else "")
        above = [
            float(score) > len(item.answer) * math.log(self.limit) for score, item in zip(scores, items, strict=True)
        ]
        return {"probes": pd.DataFrame({"probe": [item.id for item in items], "saturated": above})}


@dataclass(frozen=True, kw_only=True)
class MeanActivationTask:
    """Sum the activations that `AttributionTask` attributes, over probes and positions; a task of `run_task`.

    Attributes:
        positions: As of `AttributionTask`; special tokens in front are left out.
        progress: Whether to show a progress bar.
    """

    stage: ClassVar[str] = "baseline"
    positions: Positions
    progress: bool = field(compare=False)

    def __call__(self, backend: Backend, items: Sequence[EncodedProbe]) -> dict[str, Any]:
        """Return tensors `sum` (layer, neuron), float64, and `n`, the number of positions."""
        spans = [self._span(backend, item) for item in items]
        total = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
        recorder = Recorder(backend, NEURON_HOOK)

        @torch.no_grad()
        def add(tokens: torch.Tensor, numbers: list[int]) -> None:
            with backend.hooks(recorder.hooks()):
                backend.hidden(tokens)
            is_inside = inside_spans([spans[number] for number in numbers], tokens.to(backend.device))
            for layer, kept in enumerate(recorder.kept):
                total[layer] += (kept.double() * is_inside).sum((0, 1)).cpu()

        sequences = [[*item.prompt, *item.answer] for item in items]
        run_batched(sequences, add, progress="baseline" if self.progress else "")
        return {"sum": total, "n": torch.tensor(sum(map(len, spans)))}

    def _span(self, backend: Backend, item: EncodedProbe) -> range:
        positions = token_positions(item, self.positions)
        if isinstance(positions, range):
            return positions
        last = len(item.prompt) - 1
        return range(last if positions == "last" else n_special(backend), last + len(item.answer))


def token_positions(item: EncodedProbe, positions: Positions) -> TokenPositions:
    """Return a probe's `positions`, with `subject` as the range of its tokens in the prompt."""
    if positions != "subject":
        return positions
    if item.subject is None:
        raise ValueError(f"probe {item.id} was encoded without its subject's tokens")
    return item.subject
