"""The result of a selection: its sets, its frame and its headline."""

from __future__ import annotations

from typing import Any

import torch

from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.rules import chosen_frame
from xlmech.storage.result import Provenance


def privacy_neurons(**changes: Any) -> PrivacyNeurons:
    rows = [("universal", "", [(1, 1, 0.7), (0, 2, 0.4)]), ("specific", "fr", []), ("specific", "zh", [(1, 0, 0.6)])]
    options: dict[str, Any] = {
        "languages": ("fr", "zh"),
        "scores": torch.zeros(2, 2, 3),
        "chosen": chosen_frame(rows),
        "rule": "min",
    }
    return PrivacyNeurons(**options | {"model": "tiny", "provenance": Provenance(model="tiny")} | changes)


def test_privacy_neurons() -> None:
    found = privacy_neurons()
    assert found.universal == NeuronSet(frozenset({(1, 1), (0, 2)}), 2, 3, "tiny")
    assert found.specific == {
        "fr": NeuronSet(frozenset(), 2, 3, "tiny"),
        "zh": NeuronSet(frozenset({(1, 0)}), 2, 3, "tiny"),
    }
    assert list(found.to_frame().itertuples(index=False, name=None)) == [
        ("universal", "", 1, 1, 0.7),
        ("universal", "", 0, 2, 0.4),
        ("specific", "zh", 1, 0, 0.6),
    ]
    assert repr(found) == "PrivacyNeurons of tiny\n  universal: 2 neurons\n  specific: fr 0, zh 1"
    assert len(privacy_neurons(chosen=chosen_frame([])).universal) == 0
    assert found.main == found.universal and found.main_name == "universal"


def test_of_one_language_universal_neurons_are_undefined() -> None:
    rows = chosen_frame([("specific", "fr", [(1, 1, 0.7), (0, 2, 0.4)])])
    found = privacy_neurons(languages=("fr",), scores=torch.zeros(1, 2, 3), chosen=rows)
    assert not found.universal
    assert found.main == found.specific["fr"] == NeuronSet(frozenset({(1, 1), (0, 2)}), 2, 3, "tiny")
    assert found.main_name == "specific-fr"
    assert repr(found) == (
        "PrivacyNeurons of tiny\n  universal: undefined, since one language alone was asked\n  specific: fr 2"
    )
