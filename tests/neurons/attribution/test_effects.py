"""What neurons add to an answer, against plain full-sequence loops, finite differences, and completeness."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, KeepFloat64, tiny

from xlmech.engine.batching import run_forced
from xlmech.metrics.quadrature import Rule
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import load_model
from xlmech.neurons.attribution import effects
from xlmech.neurons.attribution.effects import exact_effects, integrated_gradients
from xlmech.neurons.attribution.gradient import gradient_x_activation

PROMPT, ANSWER = [2, 7, 8, 9, 11], [5, 6, 250]
SPAN = range(1, 3)
"""Where the subject's tokens would be."""


def _log_prob_with(backend: Backend, tokens: list[int], layer: int, new: torch.Tensor, token: int) -> torch.Tensor:
    """Log-probability of `token` after `tokens` with one layer's last activation replaced; the whole sequence is run."""

    def replace(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([value[:, :-1], new[None, None].to(value.dtype)], dim=1)

    with backend.hooks([(backend.hook_name("mlp.hook_post", layer), replace)]):
        logits = backend.model(torch.tensor([tokens]), return_type="logits")
    return logits[0, -1].log_softmax(-1)[token]


def _lobatto(inner: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Lobatto rule on [-1, 1] by its textbook formula."""
    legendre = np.polynomial.Legendre.basis(inner + 1)
    places = np.array([-1, *legendre.deriv().roots().real, 1])
    return places, 2 / ((inner + 1) * (inner + 2) * legendre(places) ** 2)


def _plain_integrated(backend: Backend, base: torch.Tensor, nodes: int, rule: Any = _lobatto) -> torch.Tensor:
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    places, weights = rule(nodes)
    total = torch.zeros_like(base)
    for position, token in zip(forced.predicting, ANSWER, strict=True):
        tokens = forced.tokens[: position + 1].tolist()
        for layer in range(backend.n_layers):
            step = forced.activations[layer, position] - base[layer]
            for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
                new = (base[layer] + place * step).requires_grad_()
                (slope,) = torch.autograd.grad(_log_prob_with(backend, tokens, layer, new, token), new)
                total[layer] += weight * slope * step
    return total


def _backend(architecture: str, tokenizer: Any, request: pytest.FixtureRequest) -> Backend:
    if architecture == "installed":
        return backend_of(request.getfixturevalue("model"))
    network = tiny(architecture).double()
    return backend_of(load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "installed"])
def test_integrated_gradients_equal_the_plain_loop(
    architecture: str, tokenizer: Any, request: pytest.FixtureRequest
) -> None:
    backend = _backend(architecture, tokenizer, request)
    base = 0.1 * torch.randn(
        backend.n_layers, backend.d_mlp, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    found, _ = integrated_gradients(backend, forced, base, nodes=3, positions="last")
    wanted = _plain_integrated(backend, base, 3)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_equal_step_sums_equal_the_plain_loop(model: Any) -> None:
    """On [-1, 1] as `_lobatto` is: 5 left steps, or 5 points with both ends."""
    rules = {
        "left": lambda nodes: (np.arange(nodes) / nodes * 2 - 1, np.full(nodes, 2 / nodes)),
        "inclusive": lambda nodes: (np.linspace(-1, 1, nodes), np.full(nodes, 2 / nodes)),
    }
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.05, dtype=torch.float64)
    with KeepFloat64():
        forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
        for name, rule in rules.items():
            found, _ = integrated_gradients(backend, forced, base, nodes=5, positions="last", rule=name)  # type: ignore[arg-type]
            wanted = _plain_integrated(backend, base, 5, rule)
            assert float((found - wanted).norm() / wanted.norm()) < 1e-8


@pytest.mark.parametrize(("rule", "nodes"), [("right", 20), ("left", 0), ("inclusive", 1)])
def test_unknown_rules(model: Any, rule: Any, nodes: int) -> None:
    backend = backend_of(model)
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    base = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"no rule '{rule}' of {nodes} nodes; use 'gauss_lobatto', 'left'"):
        integrated_gradients(backend, forced, base, nodes=nodes, positions="last", rule=rule)


def test_gradients_are_taken_inside_no_grad_too(model: Any) -> None:
    backend = backend_of(model)
    forced, base = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post"), torch.zeros(backend.n_layers, backend.d_mlp)
    wanted, _ = integrated_gradients(backend, forced, base, nodes=2, positions="last")
    with torch.no_grad():
        found, _ = integrated_gradients(backend, forced, base, nodes=2, positions="last")
    torch.testing.assert_close(found, wanted)


def test_completeness_holds_with_enough_nodes(model: Any) -> None:
    backend = backend_of(model)
    base = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    base += 0.5 * forced.activations.mean(1)
    _, few = integrated_gradients(backend, forced, base, nodes=2, positions="last")
    _, many = integrated_gradients(backend, forced, base, nodes=48, positions="last")
    assert many.max() < 1e-3
    assert many.median() < few.median()


@pytest.mark.parametrize("positions", ["last", "all", [SPAN]])
def test_gradient_x_activation_equals_finite_differences(model: Any, positions: Any) -> None:
    """(a - b) * dF/da, where scaling one neuron by 1 + h at the positions attributed moves F by h * a * dF/da."""
    backend = backend_of(model)
    base = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    found = gradient_x_activation(backend, [(PROMPT, ANSWER)], base, positions=positions)[0]
    layer, index = divmod(int(found.abs().argmax()), backend.d_mlp)
    step = 1e-3  # the norms compute in float32, whatever the weights
    tokens = torch.tensor([[*PROMPT, *ANSWER]])

    def score(number: int, places: slice, factor: float) -> float:
        def scale(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value = value.clone()
            value[:, places, index] *= factor
            return value

        with torch.no_grad(), backend.hooks([(backend.hook_name("mlp.hook_post", layer), scale)]):
            logs = backend.model(tokens, return_type="logits")[0].log_softmax(-1)
        return float(logs[len(PROMPT) - 1 + number, ANSWER[number]])

    slopes = []
    for number in range(len(ANSWER)):
        place = len(PROMPT) - 1 + number
        places = {"all": slice(None), "last": slice(place, place + 1)}.get(str(positions), slice(1, 3))
        slopes.append((score(number, places, 1 + step) - score(number, places, 1 - step)) / (2 * step))
    assert float(found[layer, index]) == pytest.approx(sum(slopes), rel=2e-3)


@pytest.mark.parametrize("positions", ["last", "all", [range(1, 3), range(0, 5), range(4, 5)]])
def test_a_batch_equals_its_members(model: Any, positions: Any) -> None:
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.02, dtype=torch.float64)
    pairs = [([2, 7, 8, 9], [5, 6, 250]), ([2, 40, 41, 9, 10], [11, 12]), ([2, 7, 8, 9, 3, 4], [5])]
    batch = gradient_x_activation(backend, pairs, base, positions=positions)
    for number, (pair, found) in enumerate(zip(pairs, batch, strict=True)):
        own = positions if isinstance(positions, str) else [positions[number]]
        alone = gradient_x_activation(backend, [pair], base, positions=own)[0]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("positions", ["last", "all", SPAN])
def test_all_weight_at_the_end_is_gradient_x_activation(
    model: Any, positions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.01, dtype=torch.float64)
    places, none = torch.tensor([0.0, 0.5], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    ends = Rule(nodes=places, weights=none, at_end=1.0)
    monkeypatch.setattr(effects, "quadrature", lambda rule, nodes, like: ends)
    found, _ = integrated_gradients(
        backend, run_forced(backend, PROMPT, ANSWER, "mlp.hook_post"), base, nodes=1, positions=positions
    )
    own = positions if isinstance(positions, str) else [positions]
    wanted = gradient_x_activation(backend, [(PROMPT, ANSWER)], base, positions=own)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def _score(backend: Backend, layer: int, edit: Any, numbers: range, metric: str) -> float:
    """Sum of the metric over some answer tokens, with one layer's activation edited in the full sequence."""
    name = backend.hook_name("mlp.hook_post", layer)
    with torch.no_grad(), KeepFloat64(), backend.hooks([(name, lambda value, hook: edit(value.clone()))]):
        logits = backend.model(torch.tensor([[*PROMPT, *ANSWER]]), return_type="logits")[0]
    places = [len(PROMPT) - 1 + number for number in numbers]
    tokens = [ANSWER[number] for number in numbers]
    if metric == "logit":
        return float(logits[places, tokens].sum())
    prob = logits.softmax(-1)[places, tokens]
    wanted = {"log_prob": prob.log(), "prob": prob, "log_odds": prob.log() - (1 - prob).log()}
    return float(wanted[metric].sum())


@pytest.mark.parametrize("metric", ["log_prob", "prob", "logit", "log_odds"])
@pytest.mark.parametrize("positions", ["last", "all", SPAN])
def test_exact_effects_equal_one_hooked_pass_per_neuron(model: Any, positions: Any, metric: Any) -> None:
    backend = backend_of(model)
    base = 0.1 * torch.randn(
        backend.n_layers, backend.d_mlp, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    neurons = torch.tensor([[2, 3], [0, 1], [1, 63], [0, 40], [2, 0]])
    with KeepFloat64():
        forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
        found = exact_effects(backend, forced, base, positions=positions, metric=metric, neurons=neurons)
    for (layer, neuron), effect in zip(neurons.tolist(), found, strict=True):
        wanted = 0.0
        for number in range(len(ANSWER)) if positions == "last" else [None]:
            together = slice(None) if positions == "all" else slice(1, 3)
            place = together if number is None else slice(len(PROMPT) - 1 + number, len(PROMPT) + number)
            numbers = range(len(ANSWER)) if number is None else range(number, number + 1)

            def put(value: torch.Tensor, place: slice = place, at: tuple[int, int] = (layer, neuron)) -> torch.Tensor:
                value[:, place, at[1]] = base[at]
                return value

            wanted += _score(backend, layer, lambda value: value, numbers, metric)
            wanted -= _score(backend, layer, put, numbers, metric)
        assert float(effect) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("metric", ["log_prob", "prob", "logit", "log_odds"])
def test_the_whole_vocabulary_changes_rounding_only(model: Any, metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(model)
    exact: list[bool] = []

    def spy(function: Any, *args: Any, **given: Any) -> Any:
        exact.append(given["exact"])
        return function(*args, **given)

    for name in ("token_log_prob", "changed_log_prob"):
        monkeypatch.setattr(effects, name, partial(spy, getattr(effects, name)))
    base = torch.full((backend.n_layers, backend.d_mlp), 0.02, dtype=torch.float64)
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")

    def attributions(**given: Any) -> list[torch.Tensor]:
        options = {"positions": "all", "metric": metric} | given
        return [
            exact_effects(backend, forced, base, **options).view_as(base),
            integrated_gradients(backend, forced, base, nodes=3, **options)[0],
            gradient_x_activation(backend, [(PROMPT, ANSWER)], base, **options)[0],
        ]

    default = attributions()
    assert not any(exact)
    exact.clear()
    for found, wanted in zip(attributions(whole_vocabulary=True), default, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert all(exact) and bool(exact) == (metric != "logit")


@pytest.mark.parametrize("metric", ["log_prob", "prob", "logit", "log_odds"])
def test_integrated_gradients_of_whole_sequences(model: Any, metric: Any) -> None:
    """Completeness at many nodes, and the plain loop, which moves all positions of one layer at once."""
    backend = backend_of(model)
    with KeepFloat64():
        forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
        base = 0.8 * forced.activations  # a baseline per position
        found, errors = integrated_gradients(backend, forced, base, nodes=40, positions="all", metric=metric)
    assert errors.max() < 1e-3

    def to_base(value: torch.Tensor) -> torch.Tensor:
        return base[1][None].expand_as(value)

    whole = range(len(ANSWER))
    difference = _score(backend, 1, lambda value: value, whole, metric) - _score(backend, 1, to_base, whole, metric)
    assert float(found[1].sum()) == pytest.approx(difference, rel=1e-3)


def test_parts_of_the_sequence_add_up_to_all_of_it(model: Any) -> None:
    """Gradient x activation is a sum over positions; the whole sequence as a range is `all`, by every method."""
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.02, dtype=torch.float64)
    n_run = len(PROMPT) + len(ANSWER) - 1

    def gradient(positions: Any) -> torch.Tensor:
        return gradient_x_activation(backend, [(PROMPT, ANSWER)], base, positions=positions)

    parts = [gradient([span]) for span in (range(1), SPAN, range(3, len(PROMPT)), range(len(PROMPT), n_run + 1))]
    torch.testing.assert_close(sum(parts), gradient("all"), rtol=1e-6, atol=1e-10)
    assert parts[1].abs().max() > 0
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    for method in (lambda where: integrated_gradients(backend, forced, base, nodes=2, positions=where)[0],
                   lambda where: exact_effects(backend, forced, base, positions=where)):  # fmt: skip
        assert torch.equal(method(range(n_run)), method("all"))
        assert not torch.allclose(method(SPAN), method("all"))


def test_integrated_gradients_of_a_span_are_complete(model: Any) -> None:
    """They add up to what moving these positions alone to the baseline takes away, and equal those of a path that does."""
    backend = backend_of(model)
    with KeepFloat64():
        forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
        base = 0.8 * forced.activations
        found, errors = integrated_gradients(backend, forced, base, nodes=40, positions=SPAN)
        rest = forced.activations.clone()
        rest[:, SPAN.start : SPAN.stop] = base[:, SPAN.start : SPAN.stop]
        whole, _ = integrated_gradients(backend, forced, rest, nodes=40, positions="all")
    assert errors.max() < 1e-3
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-10)

    def to_base(value: torch.Tensor) -> torch.Tensor:
        value[:, SPAN.start : SPAN.stop] = base[1, SPAN.start : SPAN.stop]
        return value

    numbers = range(len(ANSWER))
    difference = _score(backend, 1, lambda value: value, numbers, "log_prob")
    difference -= _score(backend, 1, to_base, numbers, "log_prob")
    assert float(found[1].sum()) == pytest.approx(difference, rel=1e-3)


def test_the_number_of_layers_at_a_time_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(model)
    base, results = torch.full((backend.n_layers, backend.d_mlp), 0.01, dtype=torch.float64), []
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    for fit in (1, 8, 1000):
        monkeypatch.setattr(effects, "rows_that_fit", lambda *_, n=fit, **__: n)
        results.append(integrated_gradients(backend, forced, base, nodes=3, positions="all")[0])
        results.append(exact_effects(backend, forced, base, positions="last").view_as(base))
    for later in (2, 4):
        torch.testing.assert_close(results[later], results[0], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(results[later + 1], results[1], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_layers_may_have_nodes_of_their_own(model: Any, positions: Any) -> None:
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.01, dtype=torch.float64)
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    counts = [2 + layer for layer in range(backend.n_layers)]
    found, _ = integrated_gradients(backend, forced, base, nodes=counts, positions=positions)
    for layer, nodes in enumerate(counts):
        wanted, _ = integrated_gradients(backend, forced, base, nodes=nodes, positions=positions)
        torch.testing.assert_close(found[layer], wanted[layer], rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match=f"nodes for 1 layers, but the model has {backend.n_layers}"):
        integrated_gradients(backend, forced, base, nodes=[3], positions=positions)


def test_what_the_baseline_begins_with_alike_is_not_run(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(model)
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    other = run_forced(backend, [*PROMPT[:2], 30, 31, 32], ANSWER, "mlp.hook_post")
    base = other.activations.double()
    base[:, :2] = forced.activations[:, :2].double()
    windows: list[range] = []
    run = effects._run_window
    monkeypatch.setattr(effects, "_run_window", lambda *given: [windows.append(given[2]), run(*given)][1])
    found, _ = integrated_gradients(backend, forced, base, nodes=3, positions="all")
    assert {window.start for window in windows} == {2}
    whole = range(forced.predicting.stop)
    everything = effects._Window(run=whole, moved=whole, predicting=forced.predicting)
    monkeypatch.setattr(effects, "_windows", lambda *_: [everything])
    wanted, _ = integrated_gradients(backend, forced, base, nodes=3, positions="all")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
