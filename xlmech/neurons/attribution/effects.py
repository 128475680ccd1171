"""Integrated gradients and exact ablation of neurons, for one forced answer.

`xlmech.neurons.attribution.attribute` runs these, and `gradient_x_activation`, over probes. The score of an answer is the sum
over its tokens of a metric of each token's log-probability. A baseline is the activation that stands for a neuron's absence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

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
TokenPositions = Literal["last", "all"] | range
"""Positions of activations in one sequence; a subject's tokens are a range."""
_EXACT_ROWS = 512
_Losses = Callable[[torch.Tensor], torch.Tensor]


def token_metric(
    backend: Backend,
    metric: Metric,
    hidden: Float[torch.Tensor, "row d_model"],
    targets: Int[torch.Tensor, " row"],
    *,
    whole_vocabulary: bool = False,
) -> Float[torch.Tensor, " row"]:
    """Compute the (row,) metric of each row's target token: nats for `log_prob` and `log_odds`, a share for `prob`.

    With `whole_vocabulary` the gradient includes tokens too unlikely to change it beyond rounding (`exact` of `token_log_prob`).
    """
    if metric == "logit":
        return token_logit(hidden, backend.unembed, targets, **backend.unembed_options)
    log_probs = token_log_prob(hidden, backend.unembed, targets, **backend.unembed_options, exact=whole_vocabulary)
    return of_log_prob(log_probs, metric)


def integrated_gradients(
    backend: Backend,
    forced: Forced,
    base: Float[torch.Tensor, "layer neuron"] | Float[torch.Tensor, "layer position neuron"],
    *,
    nodes: int | Sequence[int],
    positions: TokenPositions,
    metric: Metric = "log_prob",
    rule: Quadrature = "gauss_lobatto",
    whole_vocabulary: bool = False,
) -> tuple[Float[torch.Tensor, "layer neuron"], Float[torch.Tensor, " layer"]]:
    """Integrate the gradient of the answer's score from `base` to the activations, in one layer at a time.

    Args:
        backend: The model.
        forced: The answer.
        base: (layer, neuron) baseline, or (layer, position, neuron).
        nodes: Nodes of the rule, for all layers or for each.
        positions: `last`: each token is attributed to the activation at the position that predicts it; `all` or a range: these
            activations move together, for all tokens, and their attributions are summed.
        metric: Of each token.
        rule: Approximation of the integral. `gauss_lobatto` has `nodes` inside the path and its two ends. The equal-step sums of
            earlier work converge slowly: `left` takes the mean gradient at `nodes` points from the baseline on, without the
            end; `inclusive` at `nodes` points from the baseline to the end.
        whole_vocabulary: See `token_metric`.

    Returns:
        (layer, neuron) attributions summed over the answer's tokens, and the (layer,) completeness errors of that sum.

    Raises:
        ValueError: Nodes for another number of layers, or a rule that does not have so many.
    """
    base = base.to(backend.device)
    base = base[:, None] if base.ndim == 2 else base
    base = base.expand(-1, len(forced.tokens), -1)
    total, difference = torch.zeros_like(base[:, 0]), torch.zeros_like(base[:, 0, 0])
    n_nodes = [nodes] * backend.n_layers if isinstance(nodes, int) else list(nodes)
    if len(n_nodes) != backend.n_layers:
        raise ValueError(f"nodes for {len(n_nodes)} layers, but the model has {backend.n_layers}")
    rules = [quadrature(rule, n, base) for n in n_nodes]
    for window in _windows(forced, positions, base):

        def work(layers: list[int], window: _Window = window) -> None:
            score = partial(token_metric, backend, metric, whole_vocabulary=whole_vocabulary)
            of_layers = [rules[layer] for layer in layers]
            attributions, lost = _integrate(backend, forced, base, layers, window, score, of_layers)
            total[layers] += attributions
            difference[layers] += lost

        fit = rows_that_fit(backend, len(window.run), window.run.start, gradient=True) // (max(n_nodes) + 1)
        run_in_batches(backend.n_layers, work, key=lambda layer: layer, batch_size=fit)
    return total, completeness_error(total.sum(1), difference)


@dataclass(frozen=True)
class _Window:
    """Positions that are run, those at its start whose activations move together, and those that predict scored tokens."""

    run: range
    moved: range
    predicting: range

    @property
    def moved_in_run(self) -> slice:
        """`moved`, counted from the first position that is run."""
        return slice(len(self.moved)) if len(self.moved) < len(self.run) else slice(None)


def _windows(forced: Forced, positions: TokenPositions, base: torch.Tensor | None = None) -> list[_Window]:
    """Return the windows of the answer's scores.

    The first positions are not moved where they have the activations of `base`. If the baseline is another prompt with the same
    beginning, only what follows that beginning is run for every row.
    """
    predicting = forced.predicting
    if positions == "last":
        return [_Window(*(range(position, position + 1),) * 3) for position in predicting]
    moved = positions if isinstance(positions, range) else range(predicting.stop)
    if base is not None:
        differs = (forced.activations != base.to(forced.activations.dtype)).any(2).any(0).tolist()
        first = next((position for position in moved if differs[position]), moved.start)
        moved = range(min(first, predicting.start), moved.stop)
    return [_Window(range(moved.start, predicting.stop), moved, predicting)]


def _integrate(
    backend: Backend,
    forced: Forced,
    base: torch.Tensor,
    layers: Sequence[int],
    window: _Window,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    rules: Sequence[Rule],
) -> tuple[Float[torch.Tensor, "layer neuron"], Float[torch.Tensor, " layer"]]:
    """Compute the attributions and F(a) - F(b) of some layers, whose activations move at the positions `window.moved`."""
    moved = slice(window.moved.start, window.moved.stop)
    start = base[layers, moved]
    steps = forced.activations[layers, moved].to(base.dtype) - start
    # The first variant of a layer is the baseline, which completeness needs too. The path's other end is the answer itself: one
    # row for all layers.
    paths = [
        (start[number] + rule.nodes[:, None, None] * steps[number])[None].requires_grad_()
        for number, rule in enumerate(rules)
    ]
    ends, end_row = _differentiable(layers)
    with torch.enable_grad():
        rows = [
            replace(NEURON_HOOK, layer, path, positions=window.moved_in_run)
            for layer, path in zip(layers, paths, strict=True)
        ]
        states = _run_window(backend, forced, window.run, [end_row, *rows])
        hidden = torch.cat([edited[0] for edited in states.edited])[:, window.predicting.start - window.run.start :]
        targets = _predicted(forced, window).to(hidden.device)
        scores = score(hidden.flatten(0, 1), targets.repeat(len(hidden))).view(len(hidden), len(targets)).sum(1)
        gradients = torch.autograd.grad(scores.sum(), [*paths, *ends])
    attributions = []
    for step, rule, inner, end in zip(steps, rules, gradients[: len(layers)], gradients[len(layers) :], strict=True):
        gradient = einsum(inner[0], rule.weights, "node ..., node -> ...")
        gradient = gradient + rule.at_end * end[0, 0, window.moved_in_run].to(step.dtype)
        attributions.append((step * gradient).sum(0))
    at_end, *on_paths = torch.split(scores.detach(), [1, *(len(rule.nodes) for rule in rules)])
    return torch.stack(attributions), at_end - torch.stack([of_path[0] for of_path in on_paths])


def _differentiable(layers: Sequence[int]) -> tuple[list[torch.Tensor], Intervention]:
    """Return a list that a run fills with the layers' activations, to differentiate by, and the unchanged row that fills it."""
    activations: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        # The first activation starts the graph; later ones are in it.
        activations.append(value if activations else value.detach().requires_grad_())
        return activations[-1]

    first, *others = (
        Intervention(component=NEURON_HOOK, layer=layer, n_variants=1, edit=keep) for layer in sorted(layers)
    )
    return activations, dataclasses.replace(first, later=tuple(others))


def _run_window(backend: Backend, forced: Forced, window: range, rows: Sequence[Intervention]) -> InterventionStates:
    past = forced.past.until(window.start) if window.start else None
    return run_interventions(backend, forced.tokens[window.start : window.stop][None], rows, past=past)


def _predicted(forced: Forced, window: _Window) -> Int[torch.Tensor, " token"]:
    """Return the (token,) ids that the window's positions predict."""
    return forced.tokens[window.predicting.start + 1 : window.predicting.stop + 1]


@torch.no_grad()
def exact_effects(
    backend: Backend,
    forced: Forced,
    base: Float[torch.Tensor, "layer neuron"],
    *,
    positions: TokenPositions,
    metric: Metric = "log_prob",
    neurons: Int[torch.Tensor, "chosen 2"] | None = None,
    whole_vocabulary: bool = False,
    progress: str = "",
) -> Float[torch.Tensor, " chosen"]:
    """Compute how far the answer's score falls when each neuron alone is set to its baseline: one row of a batch per neuron.

    Args:
        backend: The model.
        forced: The answer.
        base: Baseline activations.
        positions: `last`: at each token's predicting position, for that token; `all` or a range: at these, for all tokens.
        metric: Of each token.
        neurons: (layer, neuron) pairs; all of the model's by default, layer by layer.
        whole_vocabulary: Whether to compute the logits of all tokens for every row; by default those too unlikely to change the
            result beyond rounding are left out (`exact` of `changed_log_prob`).
        progress: Label of a progress bar; none without.

    Returns:
        (chosen,) F(a) - F(a with the neuron at its baseline), summed over the answer's tokens.
    """
    base = base.to(backend.device)
    if neurons is None:
        neurons = torch.cartesian_prod(torch.arange(backend.n_layers), torch.arange(backend.d_mlp))
    pairs, total = neurons.tolist(), torch.zeros(len(neurons), dtype=base.dtype, device=base.device)
    for window in _windows(forced, positions):
        losses = _losses(backend, forced, window, metric, whole_vocabulary)

        def work(chosen: list[int], window: _Window = window, losses: _Losses = losses) -> None:
            by_layer: dict[int, list[int]] = {}
            for number in chosen:
                by_layer.setdefault(pairs[number][0], []).append(number)
            rows = [
                replace_units(NEURON_HOOK, layer, neurons[numbers, 1], to=base[layer], positions=window.moved_in_run)
                for layer, numbers in by_layer.items()
            ]
            states = _run_window(backend, forced, window.run, rows)
            order = [number for numbers in by_layer.values() for number in numbers]
            total[order] += losses(torch.cat([edited[0] for edited in states.edited]))

        fit = min(_EXACT_ROWS, rows_that_fit(backend, len(window.run), window.run.start))
        run_in_batches(len(pairs), work, key=lambda number: pairs[number][0], batch_size=fit, progress=progress)
    return total


def _losses(backend: Backend, forced: Forced, window: _Window, metric: Metric, whole_vocabulary: bool) -> _Losses:
    """Return a function from (row, position, d_model) states of ablated rows to each row's loss of the clean run's score.

    The whole vocabulary is taken for the clean run, once for each predicting position.
    """
    clean = _run_window(backend, forced, window.run, []).clean[0]
    positions = [position - window.run.start for position in window.predicting]
    targets = _predicted(forced, window).to(clean.device)
    options = backend.unembed_options
    likely = [] if metric == "logit" else [likely_tokens(clean[at], backend.unembed, **options) for at in positions]

    def score(hidden: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        for number, position in enumerate(positions):
            states = hidden[:, position]
            target = targets[number].expand(len(hidden))
            if metric == "logit":
                total += token_metric(backend, metric, states, target)
            else:
                log_probs = changed_log_prob(states, likely[number], target, exact=whole_vocabulary)
                total += of_log_prob(log_probs, metric)
        return total

    clean_score = score(clean[None])
    return lambda hidden: clean_score - score(hidden)
