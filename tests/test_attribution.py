"""Attribution against plain full-sequence loops, finite differences, and completeness."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from models import ARCHITECTURES, tiny

from xlmech import attribution
from xlmech.attribution import AttributionResult, attribute_neurons
from xlmech.backends import Backend, backend_of
from xlmech.models import load_model
from xlmech.probes import ProbeSet
from xlmech.runner import run_forced

PROMPT, ANSWER = [2, 7, 8, 9, 11], [5, 6, 250]


def _log_prob_with(backend: Backend, tokens: list[int], layer: int, new: torch.Tensor, token: int) -> torch.Tensor:
    """Log-probability of `token` after `tokens` with one layer's last activation replaced; the whole sequence is run."""

    def replace(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([value[:, :-1], new[None, None].to(value.dtype)], dim=1)

    with backend.hooks([(backend.hook_name("mlp.hook_post", layer), replace)]):
        logits = backend.model(torch.tensor([tokens]), return_type="logits")
    return logits[0, -1].log_softmax(-1)[token]


def _plain_integrated(backend: Backend, base: torch.Tensor, nodes: int) -> torch.Tensor:
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    places, weights = np.polynomial.legendre.leggauss(nodes)
    total = torch.zeros_like(base)
    for position, token in forced.predicting:
        tokens = forced.tokens[: position + 1].tolist()
        for layer in range(backend.n_layers):
            step = forced.activations[layer, position] - base[layer]
            for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
                new = (base[layer] + place * step).requires_grad_()
                (slope,) = torch.autograd.grad(_log_prob_with(backend, tokens, layer, new, token), new)
                total[layer] += weight * slope * step
    return total / len(ANSWER)


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
    found, _ = attribution._integrated(backend, forced, base, 3)
    wanted = _plain_integrated(backend, base, 3)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_completeness_holds_with_enough_nodes(model: Any) -> None:
    backend = backend_of(model)
    base = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    forced = run_forced(backend, PROMPT, ANSWER, "mlp.hook_post")
    base += 0.5 * forced.activations.mean(1)
    _, few = attribution._integrated(backend, forced, base, 2)
    _, many = attribution._integrated(backend, forced, base, 48)
    assert many.max() < 1e-3
    assert many.median() < few.median()


@pytest.mark.parametrize("positions", ["last", "all"])
def test_gradient_x_activation_equals_finite_differences(model: Any, positions: str) -> None:
    """(a - b) * dF/da, where scaling one neuron by 1 + h at the positions attributed moves F by h * a * dF/da."""
    backend = backend_of(model)
    base = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    found = attribution._gradient_x_activation(backend, [(PROMPT, ANSWER)], base, positions)[0]  # type: ignore[arg-type]
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
        places = slice(None) if positions == "all" else slice(place, place + 1)
        slopes.append((score(number, places, 1 + step) - score(number, places, 1 - step)) / (2 * step))
    assert float(found[layer, index]) == pytest.approx(np.mean(slopes), rel=2e-3)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_batch_equals_its_members(model: Any, positions: Any) -> None:
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.02, dtype=torch.float64)
    pairs = [([2, 7, 8, 9], [5, 6, 250]), ([2, 40, 41, 9, 10], [11, 12]), ([2, 7, 8, 9, 3, 4], [5])]
    batch = attribution._gradient_x_activation(backend, pairs, base, positions)
    for pair, found in zip(pairs, batch, strict=True):
        alone = attribution._gradient_x_activation(backend, [pair], base, positions)[0]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-9)


def test_one_node_at_the_value_itself_is_gradient_x_activation(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.01, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr(attribution, "_gauss_legendre", lambda nodes, like: ends)
    found, _ = attribution._integrated(backend, run_forced(backend, PROMPT, ANSWER, "mlp.hook_post"), base, 1)
    wanted = attribution._gradient_x_activation(backend, [(PROMPT, ANSWER)], base, "last")[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_result_holds_means_and_top_neurons_of_its_probes(model: Any, probes: ProbeSet) -> None:
    private = probes.filter(group="private")
    found = attribute_neurons(model, private, method="gradient_x_activation", baseline="zero", progress=False)
    backend = backend_of(model)
    zero = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    normalised = []
    for probe in private.filter(languages=["fr"]):
        prompt, answer = attribution._tokens(backend, probe, None)
        scores = attribution._gradient_x_activation(backend, [(prompt, answer)], zero, "last")[0]
        normalised.append(scores / scores.max())
        top = found.top[found.top.probe == probe.id].iloc[0]
        assert top.nats == pytest.approx(float(scores.max()), rel=1e-5)
        assert (top.layer, top.neuron) == divmod(int(scores.argmax()), backend.d_mlp)
    language = found.languages.index("fr")
    torch.testing.assert_close(found.mean[language], torch.stack(normalised).mean(0).float(), rtol=1e-4, atol=1e-6)
    shares = (torch.stack(normalised) > 0.1).double().mean(0).float()
    assert float((found.share[language] - shares).abs().mean()) < 1e-3


def test_mean_baseline_is_the_mean_at_the_predicting_position(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    found = attribution._baseline(backend, probes, "mean", False)
    name, rows = backend.hook_name("mlp.hook_post", 1), []
    with torch.no_grad(), backend.hooks([(name, lambda value, hook: rows.append(value[0, -1]))]):
        for probe in probes:
            backend.hidden(torch.tensor([backend.tokenizer(probe.prompt).input_ids]))
    torch.testing.assert_close(found[1], torch.stack(rows).mean(0))


def test_the_trap_of_a_norm_after_the_mlp_is_explained(tokenizer: Any, probes: ProbeSet) -> None:
    """Gemma 3 hides any scaling of the MLP's output: from zero the integral does not converge, from the mean it does."""
    backend = backend_of(
        load_model(tiny("gemma3").double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)
    )
    few = probes.filter(group="private", languages=["en"], attributes=["birth_country"])
    with pytest.warns(UserWarning, match="norm after the MLP.*baseline='mean'"):
        zero = attribute_neurons(backend.model, few, baseline="zero", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = attribute_neurons(backend.model, few, baseline="mean", nodes=8, progress=False)
    assert mean.completeness.error.median() < 0.05 < zero.completeness.error.median()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"positions": "some"}, "unknown positions 'some'"),
        ({"positions": "all"}, "for 'all' use method='gradient_x_activation'"),
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"threshold": 1.5}, "threshold between 0 and 1"),
        ({"baseline": "median"}, "unknown baseline 'median'"),
    ],
)
def test_bad_arguments(model: Any, probes: ProbeSet, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_neurons(model, probes, progress=False, **arguments)


def test_no_probes(model: Any) -> None:
    with pytest.raises(ValueError, match="no probes to attribute"):
        attribute_neurons(model, ProbeSet(()))


def test_save_and_load(model: Any, probes: ProbeSet, tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one node is too few, and says so
        found = attribute_neurons(model, probes[:2], progress=False, nodes=1, baseline="mean", max_answer_tokens=1)
    found.save(tmp_path / "a")
    again = AttributionResult.load(tmp_path / "a")
    assert torch.equal(again.mean, found.mean)
    assert again.completeness.equals(found.completeness)
    assert again.provenance == found.provenance
