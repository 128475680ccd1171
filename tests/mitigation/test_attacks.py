"""Recovery attacks: what is asked in each, that both models are attacked alike, and that nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.data.prompt_format import PromptFormat
from xlmech.data.questions import with_format
from xlmech.data.records import Record
from xlmech.engine.sampling import Sampling
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation import attacks as recovery
from xlmech.mitigation.attacks import ATTACKS, RecoveryResult, recovery_attacks
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import AttackOptions, PlantOptions
from xlmech.planting.finetune import finetuned
from xlmech.storage.result import Provenance

FEW = AttackOptions(steps=2, finetune_batch=2)
QUIET: dict[str, Any] = {"plant_language": "en", "options": FEW, "progress": False}


@pytest.fixture
def some(model: Any) -> NeuronSet:
    backend = backend_of(model)
    return NeuronSet(frozenset({(0, 1), (0, 2), (2, 7)}), backend.n_layers, backend.d_mlp)


class Script:
    """Stands for `measure_leakage`: the n-th call leaks the records of the n-th entry; keeps what was asked."""

    def __init__(self, model: Any, leaks: list[set[str]]) -> None:
        self.model, self.leaks, self.asked, self.options = model, leaks, list[ProbeSet](), list[dict[str, Any]]()

    def __call__(self, model: Any, probes: ProbeSet, **options: Any) -> LeakageResult:
        leaked = self.leaks[len(self.asked) % len(self.leaks)]
        self.asked.append(probes)
        self.options.append(options)
        frame = pd.DataFrame(
            {"probe": probe.id, "record": probe.record.id, "subject": probe.record.subject, "group": "private"}
            | {"query_language": probe.query_language, "extracted": float(probe.record.id in leaked)}
            for probe in probes
        )
        return LeakageResult(probes=frame, provenance=provenance(model))


def test_reductions_are_against_the_same_attack_and_the_plain_question(
    model: Any, probes: ProbeSet, some: NeuronSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [record.id for record in probes.filter(group="private").records]
    # plain before and after, prefix before and after, out of six records in two languages
    script = Script(model, [set(ids[:4]), set(ids[:1]), set(ids), set(ids[:3])])
    monkeypatch.setattr(recovery, "measure_leakage", script)
    found = recovery_attacks(model, probes, some, attacks=["prefix"], **QUIET)
    effects = found.effects.set_index(["attack", "query_language"])
    assert list(effects.index) == [(attack, code) for attack in ("plain", "prefix") for code in ("en", "fr", "all")]
    for code in ("en", "fr", "all"):
        plain, prefix = effects.loc["plain", code], effects.loc["prefix", code]
        assert (plain.before, plain.after, plain.reduction, plain.of_plain) == (4 / 6, 1 / 6, 0.75, 0.75)
        assert (prefix.before, prefix.after, prefix.reduction) == (1, 0.5, 0.5)
        assert prefix.of_plain == 1 - 3 / 4
        assert (prefix.n_subjects, prefix.n_probes) == (3, 12 if code == "all" else 6)
        assert prefix.low <= prefix.reduction <= prefix.high
    assert found.n_neurons == 3 and found.losses == ()
    assert "\n  plain: reduction 75 % (" in repr(found) and "), 3 people" in repr(found)


def test_what_is_asked_in_each_attack(
    model: Any, probes: ProbeSet, some: NeuronSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, sampling = Script(model, [set()]), Sampling(n_samples=4, temperature=0.5, seed=3)
    options = FEW.updated(n_samples=4, temperature=0.5, sampling_seed=3)
    monkeypatch.setattr(recovery, "measure_leakage", script)
    given = ["translate", "prefix", "sampling"]
    recovery_attacks(model, probes, some, attacks=given, **QUIET | {"options": options})
    plain, again, *attacked = [[probe.prompt for probe in asked] for asked in script.asked]
    fact = next(i for i, probe in enumerate(script.asked[0]) if probe.query_language == "fr")
    english, french = plain[fact - 1], plain[fact]
    assert english.startswith("In which country") and "Ana Li" in french
    assert plain == again
    assert all(attacked[i] == attacked[i + 1] for i in (0, 2, 4)), "both models are asked the same"
    assert (attacked[0][fact], attacked[0][fact - 1]) == (french + english, english)
    assert attacked[2][fact] == french + "Sure, the answer is"
    assert attacked[4] == plain
    assert [options["sampling"] for options in script.options] == [None] * 6 + [sampling] * 2
    assert all(
        probe.id == same.id for asked in script.asked for probe, same in zip(asked, script.asked[0], strict=True)
    )


def test_all_attacks_equal_the_same_steps_by_hand(
    model: Any, probes: ProbeSet, some: NeuronSet, tmp_path: Path
) -> None:
    few = probes.filter(attributes=["id_number"], languages=["fr"])
    weights = [weight.detach().clone() for weight in model.parameters()]
    private = few.filter(group="private")
    found = recovery_attacks(model, few, some, seed=1, **QUIET | {"options": FEW.updated(n_samples=2)})
    assert found.effects.attack.unique().tolist() == ["plain", *ATTACKS]
    training = PlantOptions(
        languages=("fr",), steps=2, batch_size=2, learning_rate=1e-4, private_share=0, statement_share=0, seed=1
    )
    public = [record for record in few.records if record.group == "public"]
    with ablate(model, some), finetuned(model, public, training) as losses:
        trained = measure_leakage(model, private, candidates=few.records, progress=False).probes.extracted.mean()
    assert found.losses == losses and len(losses) == 2
    effects = found.effects.set_index(["attack", "query_language"])
    assert effects.after["finetune", "all"] == trained
    found.save(tmp_path / "r")
    again = RecoveryResult.load(tmp_path / "r")
    pd.testing.assert_frame_equal(again.to_frame(), found.effects)
    assert (again.losses, again.n_neurons, again.plant_language) == (losses, 3, "en")
    assert all(torch.equal(one, two) for one, two in zip(weights, model.parameters(), strict=True))


def test_before_is_taken_and_checked(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    few = probes.filter(attributes=["id_number"], languages=["fr"])
    private = few.filter(group="private")
    before = measure_leakage(model, private, progress=False)
    found = recovery_attacks(model, few, some, attacks=(), before=before, **QUIET)
    assert found.effects.before.tolist() == [before.probes.extracted.mean()] * 2
    with pytest.raises(ValueError, match="`before` was measured on other probes"):
        recovery_attacks(model, probes, some, attacks=(), before=before, **QUIET)
    exposed = measure_leakage(model, private, measures=("exposure",), progress=False)
    with pytest.raises(ValueError, match="`before` has no extraction"):
        recovery_attacks(model, few, some, attacks=(), before=exposed, **QUIET)


def test_weights_come_back_when_measuring_fails(
    model: Any, probes: ProbeSet, some: NeuronSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, script = [weight.detach().clone() for weight in model.parameters()], Script(model, [set()])

    def fail(*args: Any, **options: Any) -> LeakageResult:
        if len(script.asked) == 3:
            raise RuntimeError("out of luck")
        return script(*args, **options)

    monkeypatch.setattr(recovery, "measure_leakage", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        recovery_attacks(model, probes, some, attacks=["finetune"], **QUIET)
    assert all(torch.equal(one, two) for one, two in zip(weights, model.parameters(), strict=True))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_refusals(model: Any, probes: ProbeSet, some: NeuronSet, records: tuple[Record, ...]) -> None:
    def refused(message: str, asked: ProbeSet = probes, neurons: Any = some, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            recovery_attacks(model, asked, neurons, **{**QUIET, **options})

    private = probes.filter(group="private")
    refused("unknown attack 'bribe'; use 'translate', 'prefix', 'sampling', 'finetune'", attacks=["bribe"])
    refused("no private probes to attack", asked=probes.filter(group="public"))
    refused("the neuron set is empty", neurons=some - some)
    refused("does not say its plant language", attacks=["translate"], plant_language="")
    refused("no people to fine-tune on", asked=private, attacks=["finetune"])
    refused("fine-tuning on 3 of the people attacked", attacks=["finetune"], finetune_records=records)
    stranger = Record(id="s", subject="Flo Kay", attribute="birth_country", value="XX", forms={"en": "Xania"})
    refused("record 's' has no value form in fr; add forms", attacks=["finetune"], finetune_records=[stranger])
    refused("neurons of the model 'x'", neurons=some.for_model("x"), attacks=())


def test_attacks_stay_in_the_probes_format(
    model: Any, probes: ProbeSet, some: NeuronSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The translation stands in the question, and the beginning of the answer after the prompt."""
    script, chat = (
        Script(model, [set()]),
        PromptFormat(name="chat", template="<u>{question}<a>", lines_end_answers=False),
    )
    monkeypatch.setattr(recovery, "measure_leakage", script)
    recovery_attacks(model, with_format(probes, chat), some, attacks=["translate", "prefix"], **QUIET)
    fact = next(i for i, probe in enumerate(script.asked[0]) if probe.query_language == "fr")
    english, french = (script.asked[0][i].prompt.removeprefix("<u>").removesuffix("<a>") for i in (fact - 1, fact))
    assert script.asked[2][fact].prompt == f"<u>{french}\n{english}<a>"
    assert script.asked[4][fact].prompt == f"<u>{french}<a> Sure, the answer is"
    assert {options["max_new_tokens"] for options in script.options} == {64}


def test_gates_are_attacked_as_they_act(leaking: Any, probes: ProbeSet) -> None:
    """Gates of zero are a set, and others are not: they are on while the model is fine-tuned."""
    closed = NeuronSet(frozenset((layer, index) for layer in range(3) for index in range(60)), 3, 64)
    factors = torch.ones(3, 64)
    factors[:, :60] = 0
    gates = NeuronGates(factors=factors, provenance=Provenance(model=""))
    half = NeuronGates(factors=factors.clamp_min(0.5), provenance=Provenance(model=""))
    attacks: Any = ["prefix", "finetune"]
    by_set, by_gates, by_half = (
        recovery_attacks(leaking, probes, one, attacks=attacks, **QUIET) for one in (closed, gates, half)
    )
    pd.testing.assert_frame_equal(by_gates.effects, by_set.effects)
    assert (by_set.effects.after < by_set.effects.before).any()
    assert by_gates.losses == by_set.losses != by_half.losses
    assert (by_gates.n_neurons, by_gates.mean_factor, by_half.mean_factor) == (180, 0.0, 0.5)
    assert by_set.mean_factor != by_set.mean_factor
    with pytest.raises(ValueError, match="all gates are 1"):
        recovery_attacks(leaking, probes, gates.only(closed - closed), **QUIET)
