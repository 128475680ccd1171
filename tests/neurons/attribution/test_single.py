"""Neurons ablated one by one: the numbers of exact attribution, for those asked for."""

from __future__ import annotations

from typing import Any

import pytest

from xlmech.data.probes import ProbeSet
from xlmech.neurons.attribution.attribute import attribute_neurons
from xlmech.neurons.attribution.single import ablation_effects
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import AttributeOptions

CHOSEN = NeuronSet(frozenset({(0, 3), (1, 60), (2, 5)}), 3, 64)


@pytest.mark.parametrize("metric", ["auto", "prob"])
@pytest.mark.parametrize("positions", ["all", "last", "subject"])
def test_they_are_those_of_exact_attribution(leaking: Any, probes: ProbeSet, metric: Any, positions: Any) -> None:
    few = probes.filter(group="private")[:3]
    options = AttributeOptions(metric=metric, positions=positions)
    found = ablation_effects(leaking, few, CHOSEN, options=options)
    exact = attribute_neurons(leaking, few, options=options.updated(method="exact"), track=CHOSEN, progress=False).top
    both = found.merge(exact, on=["probe", "layer", "neuron"])
    assert len(both) == len(found) == 9 and found.query_language.tolist() == [
        p.query_language for p in few for _ in CHOSEN
    ]
    assert both.effect_x.to_numpy() == pytest.approx(both.effect_y.to_numpy(), rel=1e-4, abs=1e-7)


def test_what_is_not_possible_is_refused(leaking: Any, probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="1 probes and 0 neurons"):
        ablation_effects(leaking, probes[:1], NeuronSet(frozenset(), 3, 64))
    with pytest.raises(ValueError, match="neurons of a model with"):
        ablation_effects(leaking, probes[:1], NeuronSet(frozenset({(0, 0)}), 9, 64))
