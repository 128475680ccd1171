"""Attacked versions of questions stand beside the plain ones, so that gates can be learned against them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from xlmech import GateOptions, learn_gates
from xlmech.data.probes import ProbeSet
from xlmech.mitigation.attack_prompts import prefixed, translated, with_attacks
from xlmech.neurons.selection import learned_gates


def test_the_versions_are_told_apart_by_template_and_asked_of_the_same_facts(probes: ProbeSet) -> None:
    every = with_attacks(probes, "en", ("Of course:", "So:"))
    step = 1 + max(probe.template for probe in probes)
    french = [probe for probe in probes if probe.query_language == "fr"]
    assert every.probes[: len(probes)] == probes.probes
    assert len(every) == 3 * len(probes) + len(french)  # a question in the training language has no translation
    for number, version in enumerate(
        (translated(probes, "en"), prefixed(probes, "Of course:"), prefixed(probes, "So:")), 1
    ):
        prompts = {probe.id: probe.prompt for probe in version}
        mine = [probe for probe in every if probe.template // step == number]
        assert len(mine) == (len(french) if number == 1 else len(probes))
        for probe in mine:
            plain = probes[f"{probe.record.id}/{probe.query_language}/{probe.template % step}"]
            assert probe.prompt == prompts[plain.id] != plain.prompt
            assert (probe.record, probe.answers) == (plain.record, plain.answers)


def test_a_training_language_is_needed(probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="does not say its plant language"):
        with_attacks(probes, "")


def test_gates_learn_from_the_attacked_versions_too(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_gates, "SUPPRESSED", -math.inf)  # the model is untrained and gives no answer
    private = probes.filter(group="private")
    options = GateOptions(steps=1, precision="float32", neutral_weight=0)
    plain, attacked = (
        learn_gates(model, suppress, neutral=["a b c d e f"], options=options, progress=False).counts["private"]
        for suppress in (private, with_attacks(private, "en", ("So:",)))
    )
    assert attacked > plain
