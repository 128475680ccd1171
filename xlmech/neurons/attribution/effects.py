"""What a neuron adds to an answer: integrated gradients, gradient x activation, and exact ablation, for one forced answer.

Tensors in, tensors out; `xlmech.neurons.attribution.attribute` runs these over probes and sums up. All three take the score
of an answer as the sum over its tokens of a metric of each token's log-probability, and agree on what a
baseline is: the activation that stands for a neuron's absence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Float, Int

from xlmech.engine.batching import Forced, rows_that_fit, run_in_batches
from xlmech.engine.interventions import Intervention, InterventionStates, replace, replace_units, run_interventions
from xlmech.engine.unembed import token_log_prob, token_logit
from xlmech.engine.unembed_nearby import changed_log_prob, likely_tokens
from xlmech.metrics.attribution import completeness_error, of_log_prob
from xlmech.metrics.quadrature import Quadrature, Rule, quadrature
from xlmech.models.backends import NEURON_HOOK, Backend

Metric = Literal["log_prob", "prob", "logit", "log_odds"]
Where = Literal["last", "all"] | range
"""Positions as the functions here take them: the subject's are a range in the sequence (`positions.subject_tokens`)."""
_EXACT_ROWS = 512
_Losses = Callable[[torch.Tensor], torch.Tensor]


def token_metric(
    backend: Backend, metric: Metric, hidden: Float[torch.Tensor, "row d_model"], targets: Int[torch.Tensor, " row"]
) -> Float[torch.Tensor, " row"]:
    """(row,) metric of each row's target token: nats for `log_prob` and `log_odds`, a share for `prob`, `logit` as it is."""
    if metric == "logit":
        return token_logit(hidden, backend.unembed, targets, **backend.unembed_options)
    return of_log_prob(token_log_prob(hidden, backend.unembed, targets, **backend.unembed_options), metric)


def integrated_gradients(
    backend: Backend,
    forced: Forced,
    base: Float[torch.Tensor, "layer neuron"] | Float[torch.Tensor, "layer position neuron"],
    *,
    nodes: int | Sequence[int],
    positions: Where,
    metric: Metric = "log_prob",
    rule: Quadrature = "gauss_lobatto",
) -> tuple[Float[torch.Tensor, "layer neuron"], Float[torch.Tensor, " layer"]]:
    """Integrated gradients of the answer's score, one layer at a time along the line from `base`, others as they are.

    At `last` each token is attributed to the activation at its predicting position; at `all` or in a range of positions these
    activations move together, for all tokens, and what they get is summed. `base` may have a value per position.

    `rule` approximates the integral. `gauss_lobatto`: `nodes` inside the path, and its two ends besides. The others are the
    equal-step sums of earlier work, which converge slowly: `left` takes the mean gradient of `nodes` points from the baseline
    on, short of the end; `inclusive` that of `nodes` points from the baseline to the end. `nodes` may differ between layers
    (`xlmech.neurons.attribution.node_search` finds how many each needs).

    Returns:
        (layer, neuron) attributions summed over the answer's tokens, and the completeness error per layer of that sum.
    """
    base = base.to(backend.device)
    base = base[:, None] if base.ndim == 2 else base
    base = base.expand(-1, len(forced.tokens), -1)
    total, difference = torch.zeros_like(base[:, 0]), torch.zeros_like(base[:, 0, 0])
    of_layer = [nodes] * backend.n_layers if isinstance(nodes, int) else list(nodes)
    if len(of_layer) != backend.n_layers:
        raise ValueError(f"nodes for {len(of_layer)} layers, but the model has {backend.n_layers}")
    rules = [quadrature(rule, n, base) for n in of_layer]
    for window in _windows(forced, positions, base):

        def work(layers: list[int], window: _Window = window) -> None:
            part, lost = _integrate(backend, forced, base, layers, window, metric, [rules[layer] for layer in layers])
            total[layers] += part
            difference[layers] += lost

        fit = rows_that_fit(backend, len(window.run), window.run.start, gradient=True) // (max(of_layer) + 1)
        run_in_batches(backend.n_layers, work, key=lambda layer: layer, batch_size=fit)
    return total, completeness_error(total.sum(1), difference)


@dataclass(frozen=True)
class _Window:
    """Positions that are run, those at its start whose activations move together, and those that predict what is scored."""

    run: range
    moved: range
    read: range

    @property
    def changed(self) -> slice:
        """`moved`, among the positions that are run."""
        return slice(len(self.moved)) if len(self.moved) < len(self.run) else slice(None)


def _windows(forced: Forced, positions: Where, base: torch.Tensor | None = None) -> list[_Window]:
    """What is run for each score.

    Where the first positions that would be moved have the activations of `base`, they are not: where the baseline is another
    prompt that begins alike, only what follows the common beginning is run for every row.
    """
    read = forced.predicting
    if positions == "last":
        return [_Window(*(range(place, place + 1),) * 3) for place in read]
    moved = positions if isinstance(positions, range) else range(read.stop)
    if base is not None:
        differs = (forced.activations != base.to(forced.activations.dtype)).any(2).any(0).tolist()
        first = next((place for place in moved if differs[place]), moved.start)
        moved = range(min(first, read.start), moved.stop)
    return [_Window(range(moved.start, read.stop), moved, read)]


def _integrate(
    backend: Backend,
    forced: Forced,
    base: torch.Tensor,
    layers: Sequence[int],
    window: _Window,
    metric: Metric,
    rules: Sequence[Rule],
) -> tuple[Float[torch.Tensor, "layer neuron"], Float[torch.Tensor, " layer"]]:
    """Attributions and F(a) - F(b) of some layers, whose activations move at the positions `window.moved`."""
    places_moved = slice(window.moved.start, window.moved.stop)
    start = base[layers, places_moved]
    step = forced.activations[layers, places_moved].to(base.dtype) - start
    # Variant 0 is the baseline, which is also for completeness; the path's other end is the answer itself: one row for all.
    values = [
        (start[number] + rule.nodes[:, None, None] * step[number])[None].requires_grad_()
        for number, rule in enumerate(rules)
    ]
    ends, end = _differentiable(layers)
    with torch.enable_grad():
        rows = [
            replace(NEURON_HOOK, layer, of_layer, positions=window.changed)
            for layer, of_layer in zip(layers, values, strict=True)
        ]
        states = _run_window(backend, forced, window.run, [end, *rows])
        hidden = torch.cat([edited[0] for edited in states.edited])[:, window.read.start - window.run.start :]
        scores = _scores(backend, forced, hidden, window.read, metric)
        gradients = torch.autograd.grad(scores.sum(), [*values, *ends])
    total = torch.stack(
        [
            (
                step[number]
                * (
                    einsum(inner[0], rule.weights, "node ..., node -> ...")
                    + rule.at_end * end[0, 0, window.changed].to(step.dtype)
                )
            ).sum(0)
            for number, (rule, inner, end) in enumerate(
                zip(rules, gradients[: len(layers)], gradients[len(layers) :], strict=True)
            )
        ]
    )
    own, *others = torch.split(scores.detach(), [1, *(len(rule.nodes) for rule in rules)])
    return total, own - torch.stack([of_layer[0] for of_layer in others])


def _differentiable(layers: Sequence[int]) -> tuple[list[torch.Tensor], Intervention]:
    """One row without a change, and what its layers' activations will be once it has run, to differentiate by."""
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(
            value if kept else value.detach().requires_grad_()
        )  # the first starts the graph, the others are in it
        return kept[-1]

    first, *others = (
        Intervention(component=NEURON_HOOK, layer=layer, n_variants=1, edit=keep) for layer in sorted(layers)
    )
    return kept, dataclasses.replace(first, later=tuple(others))


def _run_window(backend: Backend, forced: Forced, window: range, rows: Sequence[Intervention]) -> InterventionStates:
    past = forced.past.until(window.start) if window.start else None
    return run_interventions(backend, forced.tokens[window.start : window.stop][None], rows, past=past)


def _scores(
    backend: Backend, forced: Forced, hidden: Float[torch.Tensor, "row read d_model"], read: range, metric: Metric
) -> Float[torch.Tensor, " row"]:
    """Sum of the metric of the tokens that the positions in `read` predict."""
    targets = forced.tokens[read.start + 1 : read.stop + 1].to(hidden.device)
    found = token_metric(backend, metric, hidden.flatten(0, 1), targets.repeat(len(hidden)))
    return found.view(len(hidden), len(targets)).sum(1)


@torch.no_grad()
def exact_effects(
    backend: Backend,
    forced: Forced,
    base: Float[torch.Tensor, "layer neuron"],
    *,
    positions: Where,
    metric: Metric = "log_prob",
    neurons: Int[torch.Tensor, "chosen 2"] | None = None,
    progress: str = "",
) -> Float[torch.Tensor, " chosen"]:
    """What setting each neuron to its baseline takes from the answer's score, found by doing it: one row per neuron.

    Args:
        backend: The model.
        forced: The answer.
        base: Baseline activations.
        positions: `last`: at each token's predicting position, for that token; `all` or a range: at these, for all tokens.
        metric: Of each token.
        neurons: (layer, neuron) pairs; all of the model's by default, layer by layer.
        progress: Label of a progress bar; none without.

    Returns:
        (chosen,) F(a) - F(a with the neuron at its baseline), summed over the answer's tokens.
    """
    base = base.to(backend.device)
    if neurons is None:
        neurons = torch.cartesian_prod(torch.arange(backend.n_layers), torch.arange(backend.d_mlp))
    pairs, total = neurons.tolist(), torch.zeros(len(neurons), dtype=base.dtype, device=base.device)
    for window in _windows(forced, positions):
        losses = _losses(backend, forced, window.run, window.read, metric)

        def work(chosen: list[int], window: _Window = window, losses: _Losses = losses) -> None:
            by_layer: dict[int, list[int]] = {}
            for number in chosen:
                by_layer.setdefault(pairs[number][0], []).append(number)
            rows = [
                replace_units(NEURON_HOOK, layer, neurons[numbers, 1], to=base[layer], positions=window.changed)
                for layer, numbers in by_layer.items()
            ]
            states = _run_window(backend, forced, window.run, rows)
            order = [number for numbers in by_layer.values() for number in numbers]
            total[order] += losses(torch.cat([edited[0] for edited in states.edited]))

        fit = min(_EXACT_ROWS, rows_that_fit(backend, len(window.run), window.run.start))
        run_in_batches(len(pairs), work, key=lambda number: pairs[number][0], batch_size=fit, progress=progress)
    return total


def _losses(backend: Backend, forced: Forced, window: range, read: range, metric: Metric) -> _Losses:
    """What takes (row, position, d_model) states of ablated rows to what each has lost of the clean run's score.

    The vocabulary is walked for the clean run alone, once for each position in `read`.
    """
    clean = _run_window(backend, forced, window, []).clean[0]
    places = [place - window.start for place in read]
    targets = forced.tokens[read.start + 1 : read.stop + 1].to(clean.device)
    known = (
        []
        if metric == "logit"
        else [likely_tokens(clean[place], backend.unembed, **backend.unembed_options) for place in places]
    )

    def score(hidden: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for number, place in enumerate(places):
            wanted = targets[number].expand(len(hidden))
            if metric == "logit":
                total += token_metric(backend, metric, hidden[:, place], wanted)
            else:
                total += of_log_prob(changed_log_prob(hidden[:, place], known[number], wanted), metric)
        return total

    own = score(clean[None])
    return lambda hidden: own - score(hidden)


def gradient_x_activation(
    backend: Backend,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    base: Float[torch.Tensor, "layer neuron"],
    *,
    positions: Literal["last", "all"] | Sequence[range],
    metric: Metric = "log_prob",
) -> Float[torch.Tensor, "pair layer neuron"]:
    """(activation - base) * gradient of the answer's score (summed over tokens), summed over positions, or each pair's range.

    `pairs` are (prompt, answer) of one common length; rows of a batch do not touch each other, so that one backward pass
    serves them all.
    """
    base = base.to(backend.device)
    places = [
        (row, len(prompt) - 1 + number) for row, (prompt, answer) in enumerate(pairs) for number in range(len(answer))
    ]
    numbers = torch.tensor([number for _, answer in pairs for number in range(len(answer))])
    rows, columns = torch.tensor(places, device=backend.device).T
    targets = torch.tensor([token for _, answer in pairs for token in answer], device=backend.device)
    with torch.enable_grad():
        hidden, kept = _with_graph(backend, torch.tensor([[*prompt, *answer] for prompt, answer in pairs]))
        scores = token_metric(backend, metric, hidden[rows, columns], targets)
        if positions != "last":
            gradients = torch.autograd.grad(scores.sum(), kept)
            spans = [range(hidden.shape[1])] * len(pairs) if positions == "all" else positions
            inside = inside_spans(spans, hidden)
            parts = zip(kept, gradients, base, strict=True)
            return torch.stack(
                [((value.detach() - start) * slope * inside).sum(1) for value, slope, start in parts], dim=1
            )
        # At `last`, a token's score moves through the activation at its own predicting position only.
        total = torch.zeros(len(pairs), *base.shape, dtype=base.dtype, device=base.device)
        for number in range(int(numbers.max()) + 1):
            these = numbers == number
            gradients = torch.autograd.grad(scores[these].sum(), kept, retain_graph=True)
            row, column = rows[these], columns[these]
            for layer, (value, slope, start) in enumerate(zip(kept, gradients, base, strict=True)):
                total[row, layer] += (value.detach()[row, column] - start) * slope[row, column]
        return total


def inside_spans(spans: Sequence[range], like: torch.Tensor) -> torch.Tensor:
    """(row, position, 1) whether a position of `like` (row, position, ...) is in the row's range."""
    places = torch.arange(like.shape[1], device=like.device)
    return torch.stack([(places >= span.start) & (places < span.stop) for span in spans])[..., None]


def _with_graph(backend: Backend, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Final hidden states of `tokens`, and the activations of every layer that they can be differentiated by."""
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        kept.append(value if kept else value.requires_grad_())  # layer 0 starts the graph; later ones are in it
        return kept[-1]

    with backend.hooks([(backend.hook_name(NEURON_HOOK, layer), keep) for layer in range(backend.n_layers)]):
        hidden, _ = backend.hidden(tokens)
    return hidden, kept
