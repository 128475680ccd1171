"""Gates as a result: which neurons they turn down, cuts and controls, saving; and what they do under `ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.tiny_models import D_MLP, N_LAYERS

from xlmech.engine.batching import run_forced
from xlmech.engine.generate import generate
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.neurons.ablation import ablate, asking
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.fingerprint import fingerprint
from xlmech.storage.result import Provenance

TOKENS = torch.tensor([[2, 7, 8, 9, 11]])
FACTORS = torch.tensor([[1.0, 0.5, 0.99, 0.0], [0.2, 1.0, 1.0, 0.9]])


def _gates(factors: torch.Tensor, model: str = "") -> NeuronGates:
    return NeuronGates(factors=factors, model=model, provenance=Provenance(model="m", versions={}, command="", time=""))


def _random(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(N_LAYERS, D_MLP, generator=generator)
    return torch.where(torch.rand(N_LAYERS, D_MLP, generator=generator) < 0.4, factors, 1.0)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, return_type="logits")  # type: ignore[no-any-return]


def _set(*neurons: tuple[int, int], model: str = "") -> NeuronSet:
    return NeuronSet(frozenset(neurons), 2, 4, model)


def test_what_is_turned_down() -> None:
    gates = _gates(FACTORS)
    assert gates.n_touched == len(gates) == 5
    assert gates.by_layer() == {0: [1, 2, 3], 1: [0, 3]}
    assert gates.neurons() == _set((0, 1), (0, 3), (1, 0), (1, 3))
    assert gates.neurons(0) == gates.neurons() | _set((0, 2))
    assert gates.neurons(0.6) == _set((0, 3), (1, 0))
    assert gates.binary(3) == _set((0, 3), (1, 0), (0, 1))
    assert gates.zeroed == _set((0, 3))
    frame = gates.to_frame()
    assert frame.factor.tolist() == pytest.approx([0, 0.2, 0.5, 0.9, 0.99])
    assert list(zip(frame.layer, frame.neuron, strict=True))[:2] == [(0, 3), (1, 0)]


def test_cuts_leave_the_rest_at_one() -> None:
    gates = _gates(FACTORS)
    assert torch.equal(gates.top(2).factors, torch.tensor([[1.0, 1, 1, 0], [0.2, 1, 1, 1]]))
    assert torch.equal(gates.only(_set((1, 3))).factors, torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0.9]]))


def test_the_permuted_control_has_the_same_values_in_each_layer() -> None:
    gates = _gates(_random())
    control = gates.permuted(3)
    assert torch.equal(control.factors.sort(1).values, gates.factors.sort(1).values)
    assert not torch.equal(control.factors, gates.factors)
    assert torch.equal(control.factors, gates.permuted(3).factors)
    assert not torch.equal(control.factors, gates.permuted(4).factors)


def test_a_saved_result_is_the_same(tmp_path: Path) -> None:
    history = pd.DataFrame({"step": [0, 1], "private": [3.0, 1.0], "public": [0.1, 0.1], "kl": [0.0, 0.01]})
    history = history.assign(n_touched=[3, 5], reduction=[float("nan"), 0.5])
    gates = NeuronGates(
        factors=FACTORS, model="m", history=history, reduction=0.5, counts={"private": 3}, options={"steps": 2},
        provenance=Provenance(model="m"),
    )  # fmt: skip
    gates.save(tmp_path / "gates")
    again = NeuronGates.load(tmp_path / "gates")
    assert torch.equal(again.factors, FACTORS) and again.factors.dtype == torch.float32
    pd.testing.assert_frame_equal(again.history, history)
    assert (again.model, again.reduction, again.counts, again.options) == ("m", 0.5, {"private": 3}, {"steps": 2})
    assert repr(again) == repr(gates)
    assert "5 of 8 neurons (62.5%)" in repr(gates) and "reduction of extraction 50%" in repr(gates)
    assert "mean factor: 0.52; 4 neurons below 0.98" in repr(gates)


def test_only_what_acts_is_in_the_fingerprint() -> None:
    """A shard that was finished under the same factors is not done again because the gates were learned another time."""
    one = NeuronGates(factors=FACTORS, provenance=Provenance(model="m", time="1"), reduction=0.3)
    other = NeuronGates(
        factors=FACTORS, provenance=Provenance(model="m", time="2"), history=pd.DataFrame({"step": [1]})
    )
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(_gates(FACTORS.flip(1)))


def test_gates_of_one_change_nothing_to_the_bit(model: Any) -> None:
    plain = _logits(model)
    with ablate(model, _gates(torch.ones(N_LAYERS, D_MLP))):
        assert torch.equal(_logits(model), plain)
    one = torch.ones(N_LAYERS, D_MLP)
    one[1, 3] = 0.5
    with ablate(model, {"fr": _gates(one)}), asking("en"):
        assert torch.equal(_logits(model), plain)


def test_gates_of_zero_are_the_ablated_set(model: Any) -> None:
    chosen = NeuronSet(frozenset({(0, 3), (0, 10), (2, 5)}), N_LAYERS, D_MLP)
    factors = torch.ones(N_LAYERS, D_MLP)
    for neuron in chosen:
        factors[neuron] = 0
    with ablate(model, chosen):
        wanted = _logits(model)
    with ablate(model, _gates(factors)):
        assert torch.equal(_logits(model), wanted)
    assert not torch.equal(_logits(model), wanted)


@pytest.mark.parametrize("cached", [False, True])
def test_gates_are_a_plain_product_at_the_neurons(model: Any, cached: bool) -> None:
    """In whole passes, and in generation with a cache and a shared prefix."""
    backend, factors = backend_of(model), _random()
    prompts = [[2, *range(10, 30), number] for number in (7, 8, 9, 11, 12)]

    def run() -> Any:
        return generate(backend, prompts, max_new_tokens=6) if cached else _logits(model)

    def product(layer: int) -> Any:
        return lambda value, hook: value * factors[layer].to(value.dtype)

    with backend.hooks([(backend.hook_name(NEURON_HOOK, layer), product(layer)) for layer in range(N_LAYERS)]):
        wanted = run()
    plain = run()
    with ablate(model, _gates(factors)):
        found = run()
    if cached:
        assert found == wanted != plain
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(found, plain)


def test_exact_effects_are_those_under_the_gates(model: Any) -> None:
    """Rows of interventions run under the gates too: one neuron at zero more is a gate of zero more."""
    backend, factors, prompt, answer = backend_of(model), _random(), [2, 7, 8, 9], [11, 12]
    tokens, chosen = torch.tensor([[*prompt, *answer]]), [(0, 1), (1, 5), (2, 9)]

    def log_prob(of: torch.Tensor) -> float:
        with torch.no_grad(), ablate(model, _gates(of)):
            rows = model(tokens, return_type="logits")[0].log_softmax(-1)
        return float(sum(rows[len(prompt) - 1 + number, token] for number, token in enumerate(answer)))

    with ablate(model, _gates(factors)):
        forced = run_forced(backend, prompt, answer, NEURON_HOOK)
        effects = exact_effects(
            backend,
            forced,
            zero_baseline(backend),
            positions="all",
            neurons=torch.tensor(chosen),
            whole_vocabulary=True,
        )
    for neuron, effect in zip(chosen, effects, strict=True):
        without = factors.clone()
        without[neuron] = 0
        assert float(effect) == pytest.approx(log_prob(factors) - log_prob(without), abs=1e-6)
    assert effects.abs().max() > 1e-4


def test_gates_by_language_compose(model: Any) -> None:
    always, french = _random(1), _random(2)
    with ablate(model, {"": _gates(always), "fr": _gates(french)}):
        with asking("fr"):
            both = _logits(model)
        with asking("en"):
            alone = _logits(model)
        with pytest.raises(RuntimeError, match="neurons of 'fr' are ablated only for prompts in 'fr'"):
            _logits(model)
    with ablate(model, _gates(always * french)):
        torch.testing.assert_close(both, _logits(model), rtol=1e-6, atol=1e-6)
    with ablate(model, _gates(always)):
        assert torch.equal(alone, _logits(model))
        with ablate(model, _gates(french)):
            torch.testing.assert_close(both, _logits(model), rtol=1e-9, atol=1e-9)


def test_gates_compose_with_sets(model: Any) -> None:
    chosen, factors = NeuronSet(frozenset({(0, 3), (2, 5)}), N_LAYERS, D_MLP), _random()
    zeroed = factors.clone()
    zeroed[0, 3] = zeroed[2, 5] = 0
    with ablate(model, _gates(factors)), ablate(model, chosen):
        nested = _logits(model)
    with ablate(model, {"": chosen, "fr": _gates(factors)}), asking("fr"):
        mapped = _logits(model)
    with ablate(model, _gates(zeroed)):
        torch.testing.assert_close(nested, _logits(model), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mapped, _logits(model), rtol=1e-9, atol=1e-9)


def test_gates_at_some_positions(model: Any) -> None:
    """The prompt's last position alone: earlier positions are those of the intact model."""
    plain, factors = _logits(model), _random()
    with ablate(model, _gates(factors), positions=slice(4, None)):
        late = _logits(model)
    with ablate(model, _gates(factors), positions=slice(0, None)):
        everywhere = _logits(model)
    torch.testing.assert_close(late[:, :4], plain[:, :4], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(late[:, 4], plain[:, 4]) and not torch.allclose(late[:, 4], everywhere[:, 4])
    with ablate(model, _gates(factors)):
        torch.testing.assert_close(everywhere, _logits(model), rtol=1e-9, atol=1e-9)


def test_a_closed_layer_warns(model: Any) -> None:
    factors = torch.ones(N_LAYERS, D_MLP)
    factors[1] = 0
    with pytest.warns(UserWarning, match="every neuron of layer 1 is ablated"), ablate(model, _gates(factors)):
        pass


def test_hooks_are_gone_after_an_exception(model: Any) -> None:
    plain = _logits(model)
    with pytest.raises(KeyboardInterrupt), ablate(model, _gates(_random())):
        raise KeyboardInterrupt
    assert torch.equal(_logits(model), plain)


def test_bad_input(model: Any) -> None:
    gates = _gates(FACTORS)
    for wrong, message in ((FACTORS[0], "must be \\(layer, neuron\\) numbers"), (FACTORS.long(), "got torch.int64")):
        with pytest.raises(ValueError, match=message):
            _gates(wrong)
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="gates must be numbers from 0"):
            _gates(torch.full((2, 2), value))
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold must be at least 0 and below 1"):
            gates.neurons(threshold)
    with pytest.raises(ValueError, match=r"no gate is more than 0.9 below 1: the lowest factor is 0.200"):
        _gates(FACTORS[1:]).neurons(0.9)
    for n_neurons in (0, 6):
        with pytest.raises(ValueError, match=f"n_neurons must be from 1 to the 5 neurons with a gate, got {n_neurons}"):
            gates.binary(n_neurons)
    with pytest.raises(ValueError, match="neurons of the model 'other'; this one is 'm'"):
        _gates(FACTORS, "m").only(_set((0, 1), model="other"))
    with (
        pytest.raises(ValueError, match=r"gates of a model with \(layers, neurons per layer\) \(2, 4\)"),
        ablate(model, gates),
    ):
        pass
    named = _gates(_random(), "another")
    with pytest.raises(ValueError, match="gates of the model 'another'; this one is"), ablate(model, named):
        pass
    with ablate(model, named.for_model("")):
        pass
    for mode in ("scale", "mean", "noise"):
        values = torch.zeros(N_LAYERS, D_MLP) if mode != "scale" else None
        std = 1.0 if mode == "noise" else None
        with (
            pytest.raises(ValueError, match=f"mode '{mode}' with gates, which have factors of their own"),
            ablate(model, _gates(_random()), mode=mode, values=values, std=std),  # type: ignore[arg-type]
        ):
            pass
