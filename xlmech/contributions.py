"""Attribution of any part of the probes: what `attribute_neurons` sends to `xlmech.parts`.

A piece is what `xlmech.tally` keeps of its probes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from xlmech.answers import answer_log_probs
from xlmech.backends import Backend, backend_of
from xlmech.effects import (
    COMPONENT,
    Metric,
    Positions,
    Where,
    exact_effects,
    gradient_x_activation,
    integrated_gradients,
)
from xlmech.neurons import NeuronSet
from xlmech.positions import subject_tokens
from xlmech.probes import Probe
from xlmech.runner import encode_answer, encode_prompt, mean_over_tokens, run_batched, run_forced
from xlmech.tally import Tally

Method = Literal["integrated_gradients", "gradient_x_activation", "exact"]


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
    track: NeuronSet | None
    batch_size: int
    progress: bool = field(compare=False)

    def __call__(self, model: Any, items: Sequence[tuple[Probe, Metric]]) -> dict[str, Any]:
        """The piece of a `Tally`."""
        backend, probes, metric_of = backend_of(model), [probe for probe, _ in items], [metric for _, metric in items]
        pairs = [encode_probe(backend, probe, self.max_answer_tokens) for probe in probes]
        where = [where_of(backend, probe, self.positions) for probe in probes]
        base, tally = self.base.to(backend.device), Tally(probes, backend, self.threshold, self.track)
        if self.method == "gradient_x_activation":
            _by_gradient(backend, pairs, base, metric_of, where, self.batch_size, self.progress, tally)
            return tally.piece()
        for index, (prompt, answer) in enumerate(
            tqdm(pairs, desc="attribution", disable=not self.progress, leave=False)
        ):
            forced = run_forced(backend, prompt, answer, COMPONENT, what=f"probe {probes[index].id}")
            options: Any = {"positions": where[index], "metric": metric_of[index]}
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


def where_of(backend: Backend, probe: Probe, positions: Positions) -> Where:
    """The same, but for the subject's: their range in the probe's prompt.

    Raises:
        ValueError: A tokenizer without offsets, or a subject that no token holds.
    """
    return subject_tokens(backend, probe) if positions == "subject" else positions


def _by_gradient(
    backend: Backend,
    pairs: Sequence[tuple[list[int], list[int]]],
    base: torch.Tensor,
    metric_of: Sequence[Metric],
    where: Sequence[Where],
    batch_size: int,
    progress: bool,
    tally: Tally,
) -> None:
    """Gradient x activation in batches of pairs of equal length and one metric."""
    for metric in dict.fromkeys(metric_of):
        same = [index for index, other in enumerate(metric_of) if other == metric]

        def add(_: torch.Tensor, numbers: list[int], metric: Metric = metric, same: list[int] = same) -> None:
            chosen = [pairs[same[number]] for number in numbers]
            own = [where[same[number]] for number in numbers]
            spans = [span for span in own if isinstance(span, range)]
            everywhere: Any = spans or own[0]  # ranges for all of the probes, or one word
            batch = gradient_x_activation(backend, chosen, base, positions=everywhere, metric=metric)
            for number, (_prompt, answer), scores in zip(numbers, chosen, batch, strict=True):
                tally.add(same[number], scores / len(answer))

        sequences = [[*pairs[index][0], *pairs[index][1]] for index in same]
        run_batched(sequences, add, batch_size=batch_size, progress="attribution" if progress else "")
