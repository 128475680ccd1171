"""Attribution of any part of the probes: what `attribute_neurons` sends to `xlmech.execution.resume`.

A piece is what `xlmech.neurons.attribution.accumulator` keeps of its probes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.data.probes import Probe
from xlmech.engine.batching import Forced, Recorder, run_batched, run_forced
from xlmech.engine.generate import answer_log_probs
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.tokens import encode_answer, encode_prompt, n_special, subject_tokens
from xlmech.neurons.attribution.accumulator import Tally
from xlmech.neurons.attribution.effects import (
    Metric,
    Where,
    exact_effects,
    gradient_x_activation,
    inside_spans,
    integrated_gradients,
)
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import Method, Positions
from xlmech.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class Attributing:
    """How answers are attributed; a task whose items are probes and the metric of each.

    Attributes:
        method: As of `attribute_neurons`.
        base: (layer, neuron) activations that stand for a neuron's absence.
        is_mean: Whether `base` is the mean over other prompts, which at special tokens in front is the prompt's own activation.
        nodes: As of `attribute_neurons`, and so are the other fields.
        positions: Whose activations are attributed.
        max_answer_tokens: Attributed of each answer.
        threshold: tau of the share.
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
        for index, (prompt, answer) in enumerate(progress_bar(pairs, "attribution", shown=self.progress)):
            forced = run_forced(backend, prompt, answer, NEURON_HOOK, what=f"probe {probes[index].id}")
            options: Any = {"positions": where[index], "metric": metric_of[index]}
            if self.method == "integrated_gradients":
                start = self._path_start(backend, forced, base)
                scores, errors = integrated_gradients(backend, forced, start, nodes=self.nodes, **options)
                tally.add(index, scores / len(answer), errors)
            else:
                scores = exact_effects(backend, forced, base, **options).view_as(base)
                tally.add(index, scores / len(answer))
        return tally.piece()

    def _path_start(
        self, backend: Backend, forced: Forced, base: Float[torch.Tensor, "layer neuron"]
    ) -> Float[torch.Tensor, "layer position neuron"]:
        """The baseline at every position of a forced answer.

        Special tokens in front are the same in every prompt, and so are their activations: their mean is the prompt's own.
        """
        start = base[:, None].repeat(1, len(forced.tokens), 1)
        if self.is_mean:
            special = slice(n_special(backend))
            start[:, special] = forced.activations[:, special].to(start)
        return start


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
    """Sum of the activations that `Attributing` would attribute, over probes and positions; a task.

    Attributes:
        positions: As of `attribute_neurons`; special tokens in front are left out.
        max_answer_tokens: As of `attribute_neurons`.
        progress: Whether to show a progress bar.
    """

    stage: ClassVar[str] = "baseline"
    positions: Positions
    max_answer_tokens: int | None
    progress: bool = field(compare=False)

    def __call__(self, model: Any, probes: Sequence[Probe]) -> dict[str, Any]:
        """Tensors `sum` (layer, neuron), float64, and `n`, the number of positions."""
        backend = backend_of(model)
        pairs = [encode_probe(backend, probe, self.max_answer_tokens) for probe in probes]
        spans = [self._span(backend, probe, *pair) for probe, pair in zip(probes, pairs, strict=True)]
        total, recorder = (
            torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64),
            Recorder(backend, NEURON_HOOK),
        )

        @torch.no_grad()
        def add(tokens: torch.Tensor, numbers: list[int]) -> None:
            with backend.hooks(recorder.hooks()):
                backend.hidden(tokens)
            inside = inside_spans([spans[number] for number in numbers], tokens.to(backend.device))
            for layer, kept in enumerate(recorder.kept):
                total[layer] += (kept.double() * inside).sum((0, 1)).cpu()

        sequences = [[*prompt, *answer] for prompt, answer in pairs]
        run_batched(sequences, add, progress="baseline" if self.progress else "")
        return {"sum": total, "n": torch.tensor(sum(map(len, spans)))}

    def _span(self, backend: Backend, probe: Probe, prompt: Sequence[int], answer: Sequence[int]) -> range:
        where = where_of(backend, probe, self.positions)
        if isinstance(where, range):
            return where
        last = len(prompt) - 1
        return range(last if where == "last" else n_special(backend), last + len(answer))


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
    """Translate `positions` for one probe: those of the subject become their range in its prompt.

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
