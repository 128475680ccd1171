"""Named sets and controls of the same size."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.engine.record import ActivationMoments
from xlmech.leakage.measure import measure_leakage
from xlmech.mitigation import conditions
from xlmech.mitigation.conditions import (
    ablation_arguments,
    check_before,
    control_conditions,
    is_control,
    is_random,
    named_sets,
)
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.random_neurons import random_neurons
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Provenance

LIKE = NeuronSet(frozenset({(0, 1), (0, 2), (2, 7)}), 3, 64)
MOMENTS = ActivationMoments(mean=torch.ones(3, 64), std=torch.full((3, 64), 2.0), n_positions=5)
ZERO = ablation_arguments("zero", seed=5)


def test_controls_are_told_by_name() -> None:
    assert [is_random(name) for name in ("random", "random_magnitude", "random@18", "noise", "depn")] == [
        *(True, True, True, False, False)
    ]
    assert [is_control(name) for name in ("random", "permuted@7", "noise@3", "universal", "permuted_ones")] == [
        *(True, True, True, False, False)
    ]


def test_random_controls_are_matched_draws(model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    magnitudes = torch.rand(3, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(conditions, "mean_magnitudes", lambda *_, **__: magnitudes)
    options = EvaluateOptions(control_conditions=["random", "random_magnitude"], n_random=3, matched_sets=["like"])
    plain, matched = control_conditions(model, probes, {"like": LIKE}, options, seed=5)
    assert plain.draws == tuple(random_neurons(LIKE, seed=seed) for seed in (5, 6, 7))
    assert matched.draws == tuple(random_neurons(LIKE, magnitudes=magnitudes, seed=seed) for seed in (5, 6, 7))
    assert plain.ablation == matched.ablation == ZERO
    assert (plain.name, matched.name) == ("random@3", "random_magnitude@3")


def test_noise_is_on_the_set_itself(model: Any, probes: ProbeSet) -> None:
    options = EvaluateOptions(control_conditions=["noise"], n_random=3)
    (noise,) = control_conditions(model, probes, {"": LIKE}, options, moments=MOMENTS, seed=5)
    assert noise.draws == (LIKE,)
    assert (noise.ablation["mode"], noise.ablation["seed"]) == ("noise", 5)
    assert noise.ablation["values"] is MOMENTS.mean and noise.ablation["std"] is MOMENTS.std


def test_ablation_arguments() -> None:
    assert ZERO == {"mode": "zero", "factor": 0.0, "seed": 5}
    assert ablation_arguments("scale", factor=0.5, moments=MOMENTS) == {"mode": "scale", "factor": 0.5, "seed": 0}
    assert set(ablation_arguments("mean", moments=MOMENTS)) == {"mode", "factor", "seed", "values"}


@pytest.mark.parametrize(
    ("neurons", "controls", "message"),
    [
        ({}, (), "no neuron sets"),
        ({"none": LIKE - LIKE}, (), "neuron set 'none' is empty"),
        ({"random": LIKE}, ("random",), "neuron set 'random' has the name of a control condition"),
    ],
)
def test_bad_sets(neurons: Any, controls: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_sets(neurons, controls)


def test_a_set_may_have_the_name_of_a_control_that_is_not_measured() -> None:
    assert named_sets({"random": LIKE}, ()) == {"random": LIKE}


def test_before_may_hold_more_probes_in_another_order(model: Any, probes: ProbeSet) -> None:
    few, before = probes[:3], measure_leakage(model, probes[::-1], progress=False)
    found = check_before(before, few)
    pd.testing.assert_frame_equal(found.probes, measure_leakage(model, few, progress=False).probes)
    with pytest.raises(ValueError, match=f"other probes: it lacks 1 of 4, {probes[3].id} the first of them"):
        check_before(found, probes[:4])


def test_each_matched_set_has_the_controls_of_its_kind(model: Any, probes: ProbeSet) -> None:
    gates = NeuronGates(factors=torch.linspace(0.5, 1, 192).reshape(3, 64), provenance=Provenance(model=""))
    sets = {"set": LIKE, "gates": gates}
    options = EvaluateOptions(matched_sets=["set", "gates"])
    random, permuted = control_conditions(model, probes, sets, options, seed=5)
    assert (random.name, permuted.name) == ("random@3", "permuted@191")
    assert random.draws == (random_neurons(LIKE, seed=5),)
    (drawn,) = permuted.draws
    assert isinstance(drawn, NeuronGates) and torch.equal(drawn.factors, gates.permuted(5).factors)
    assert torch.equal(drawn.factors.sort(1).values, gates.factors.sort(1).values)
