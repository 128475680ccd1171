"""Named sets and controls of the same size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.engine.record import ActivationMoments
from xlmech.mitigation import conditions
from xlmech.mitigation.conditions import control_conditions, how_of, is_control, is_random, named_sets
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.random_neurons import random_neurons

LIKE = NeuronSet(frozenset({(0, 1), (0, 2), (2, 7)}), 3, 64)
MOMENTS = ActivationMoments(mean=torch.ones(3, 64), std=torch.full((3, 64), 2.0), n_positions=5)
ZERO = how_of("zero", factor=0.0, moments=None, seed=0)


def test_controls_are_told_by_name() -> None:
    assert [is_random(name) for name in ("random", "random_magnitude", "random@18", "noise", "depn")] == [
        *(True, True, True, False, False)
    ]
    assert [is_control(name) for name in ("random", "noise", "noise@3", "universal")] == [True, True, False, False]


def test_random_controls_are_matched_draws(model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    magnitudes = torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(conditions, "mean_magnitudes", lambda *_, **__: magnitudes)
    plain, matched = control_conditions(
        model, probes, LIKE, ["random", "random_magnitude"], n_random=3, how=ZERO, moments=None, seed=5
    )
    assert plain.draws == tuple(random_neurons(LIKE, seed=seed) for seed in (5, 6, 7))
    assert matched.draws == tuple(random_neurons(LIKE, magnitudes=magnitudes, seed=seed) for seed in (5, 6, 7))
    assert plain.how == matched.how == ZERO
    assert (plain.name, matched.name) == ("random", "random_magnitude")


def test_noise_is_on_the_set_itself(model: Any, probes: ProbeSet) -> None:
    (noise,) = control_conditions(model, probes, LIKE, ["noise"], n_random=3, how=ZERO, moments=MOMENTS, seed=5)
    assert noise.draws == (LIKE,)
    assert (noise.how["mode"], noise.how["seed"]) == ("noise", 5)
    assert noise.how["values"] is MOMENTS.mean and noise.how["std"] is MOMENTS.std


def test_how() -> None:
    assert ZERO == {"mode": "zero", "factor": 0.0, "seed": 0}
    assert how_of("scale", factor=0.5, moments=MOMENTS, seed=0) == {"mode": "scale", "factor": 0.5, "seed": 0}
    assert set(how_of("mean", factor=0.0, moments=MOMENTS, seed=0)) == {"mode", "factor", "seed", "values"}


@pytest.mark.parametrize(
    ("neurons", "controls", "message"),
    [
        ({}, (), "no neuron sets"),
        ({"none": LIKE - LIKE}, (), "neuron set 'none' is empty"),
        (LIKE, ("shuffled",), "unknown control 'shuffled'; use 'random', 'random_magnitude', 'noise'"),
        ({"random": LIKE}, ("random",), "neuron set 'random' has the name of a control"),
    ],
)
def test_bad_sets(neurons: Any, controls: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_sets(neurons, controls)


def test_bad_draws(model: Any, probes: ProbeSet) -> None:
    assert named_sets({"random": LIKE}, ()) == {"random": LIKE}
    with pytest.raises(ValueError, match="n_random must be at least 1, got 0"):
        control_conditions(model, probes, LIKE, ["random"], n_random=0, how=ZERO, moments=None, seed=0)
