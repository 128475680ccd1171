"""Before and after: the sums behind reductions, costs and controls, with measurements scripted or the model's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.engine.record import activation_moments
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.mitigation import evaluate as evaluation
from xlmech.mitigation.dose import dose_response
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.mitigation.fluency import neutral_nll
from xlmech.mitigation.knowledge import base_knowledge
from xlmech.models.backends import backend_of
from xlmech.models.load import provenance
from xlmech.models.tokens import encode_prompt
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.random_neurons import random_neurons
from xlmech.neurons.selection.published import lape
from xlmech.options import EvaluateOptions
from xlmech.storage.result import Provenance

ALONE = EvaluateOptions(control_conditions=())


@pytest.fixture
def some(model: Any) -> NeuronSet:
    backend = backend_of(model)
    return NeuronSet(frozenset({(0, 1), (0, 2), (2, 7)}), backend.n_layers, backend.d_mlp)


def _result(model: Any, probes: ProbeSet, leaked: dict[str, float]) -> LeakageResult:
    plain = measure_leakage(model, probes, progress=False)
    frame = plain.probes.assign(extracted=[leaked.get(probe.id, 0.0) for probe in probes])
    return LeakageResult(probes=frame.assign(own_form=frame.extracted), provenance=plain.provenance)


def test_reduction_is_of_sums_over_the_same_probes(
    model: Any, probes: ProbeSet, some: NeuronSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = probes.filter(group="private", languages=["fr"])
    ids = [probe.id for probe in private]
    before = _result(model, private, dict.fromkeys(ids[:4], 1.0))
    after = _result(model, private, {ids[0]: 1.0, ids[5]: 1.0})
    monkeypatch.setattr(evaluation, "measure_leakage", lambda *_, **__: after)
    found = evaluate_mitigation(
        model, private, some, options=EvaluateOptions(n_neutral=1), before=before, progress=False
    )
    row = found.effects[found.effects.condition == "neurons"].iloc[0]
    assert (row.before, row.after, row.reduction) == (4 / 6, 2 / 6, 0.5)
    assert math.isnan(row.low) and row.reason == "too few people, hits or draws to tell"
    assert row.after_low < 2 / 6 < row.after_high
    assert row.risen == 1
    assert found.sizes == {"neurons": 3, "random": 3}
    assert found.total_neurons == 3 * 64
    assert "\n  neurons: 3 neurons, reduction of extraction 50 % (no interval), 3 people" in repr(found)
    one_by_one = found.answers.set_index("probe")
    assert one_by_one.before[one_by_one.before == 1].index.tolist() == ids[:4] and set(one_by_one.condition) == {
        "neurons"
    }
    assert one_by_one.after[one_by_one.after == 1].index.tolist() == [ids[0], ids[5]]
    assert one_by_one.record.tolist() == [probe.record.id for probe in private]


def test_answers_one_by_one_are_of_private_people_and_of_no_control_condition(
    model: Any, probes: ProbeSet, some: NeuronSet, tmp_path: Path
) -> None:
    found = evaluate_mitigation(model, probes, {"a": some, "b": some}, progress=False)
    private = {probe.id for probe in probes.filter(group="private")}
    assert found.random and set(found.answers.condition) == {"a", "b"}
    assert all(set(part.probe) == private for _, part in found.answers.groupby("condition"))
    again = MitigationResult.load(found.save(tmp_path / "saved"))
    pd.testing.assert_frame_equal(again.answers, found.answers)


def test_nothing_leaked_is_nan_not_zero(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    private = probes.filter(group="private", languages=["en"])
    found = evaluate_mitigation(model, private, some, options=ALONE.updated(n_neutral=1), progress=False)
    assert found.effects.before.item() == 0
    assert pd.isna(found.effects.reduction.item())
    assert list(found.sizes) == ["neurons"]


def test_nll_equals_the_models_loss_with_neurons_off(model: Any, some: NeuronSet) -> None:
    from xlmech.data.languages import load_language

    tokenizer = backend_of(model).tokenizer
    with ablate(model, some):
        found = neutral_nll(backend_of(model), ["en", "fr"], n_neutral=3)
        total, count = 0.0, 0
        for sentence in load_language("fr").neutral[:3]:
            tokens = torch.tensor([tokenizer(sentence).input_ids])
            with torch.no_grad():
                logs = model(tokens, return_type="logits")[0, :-1].log_softmax(-1)
            total -= float(logs.gather(1, tokens[0, 1:, None]).sum())
            count += tokens.shape[1] - 1
    assert found["fr"] == pytest.approx(total / count, rel=1e-6)
    assert found["fr"] != pytest.approx(neutral_nll(backend_of(model), ["fr"], n_neutral=3)["fr"], rel=1e-6)


def test_price_is_relative_and_hooks_are_gone(model: Any, probes: ProbeSet, some: NeuronSet, tmp_path: Any) -> None:
    hooks = [len(point.fwd_hooks) for point in model.hook_dict.values()]
    few = probes.filter(attributes=["id_number"], languages=["en"])
    found = evaluate_mitigation(
        model, few, {"a": some, "b": some}, options=EvaluateOptions(n_neutral=2), progress=False
    )
    assert [len(point.fwd_hooks) for point in model.hook_dict.values()] == hooks
    costs = found.cost.set_index("condition")
    assert costs.rise["a"] == pytest.approx(costs.nll_after["a"] / costs.nll_before["a"] - 1)
    assert costs.rise["a"] == costs.rise["b"] != 0
    assert set(costs.index) == {"a", "b"}
    found.save(tmp_path / "m")
    again = evaluation.MitigationResult.load(tmp_path / "m")
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame())
    assert again.sizes == {"a": 3, "b": 3, "random": 3}


def test_neutral_texts_of_ones_own(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    few = probes.filter(attributes=["id_number"])
    texts = {"fr": ["Un texte.", "Un autre texte."]}
    found = evaluate_mitigation(model, few, some, options=ALONE, neutral=texts, progress=False)
    costs = found.cost.set_index("query_language")
    assert costs.nll_before["fr"] == neutral_nll(backend_of(model), ["fr"], texts=texts)["fr"]
    assert costs.nll_before["fr"] != neutral_nll(backend_of(model), ["fr"])["fr"]
    assert pd.isna(costs.nll_before["en"]) and pd.isna(costs.rise["en"])
    assert neutral_nll(backend_of(model), ["en", "fr"], n_neutral=0).isna().all()


def test_sentences_that_choose_do_not_judge_by_default(
    model: Any, probes: ProbeSet, some: NeuronSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the cost of a set nor of one of several sizes reads a sentence that LAPE, or a mean over text, may take."""
    read: list[str] = []

    def encode(backend: Any, prompt: str, **options: Any) -> list[int]:
        read.append(prompt)
        return encode_prompt(backend, prompt, **options)

    for module in ("neurons.attribution.neutral_text", "engine.batching", "engine.record"):
        monkeypatch.setattr(f"xlmech.{module}.encode_prompt", encode)
    private = probes.filter(group="private", attributes=["id_number"])
    neutral_nll(backend_of(model), ["en", "fr"])
    judging = set(read)
    read.clear()
    found = evaluate_mitigation(model, private, some, options=ALONE, progress=False)
    dose = dose_response(model, private, [(0, 1), (1, 2)], n_neurons=[1], progress=False)
    assert found.cost.nll_before.tolist() == dose.cost.nll_before.tolist()
    assert judging <= set(read)
    read.clear()
    lape(model, ["en", "fr"], quantile=0.5, n_neurons=1, progress=False)
    evaluation.activation_moments(model, evaluation.baseline_prompts(private), progress=False)
    choosing = set(read) - {"a"}  # by which special tokens are counted
    packs = [evaluation.packs.load_language(code) for code in ("en", "fr")]
    assert judging == {text for pack in packs for text in pack.judging}
    assert choosing == {text for pack in packs for text in pack.choosing}
    assert not judging & choosing
    assert all(pack.judging + pack.choosing == pack.neutral for pack in packs)


def _exposures(model: Any, probes: ProbeSet, records: tuple[Record, ...]) -> pd.DataFrame:
    return measure_leakage(model, probes, measures=("exposure",), candidates=records, progress=False).probes


def test_exposure_is_measured_above_controls(
    model: Any, probes: ProbeSet, some: NeuronSet, records: tuple[Record, ...]
) -> None:
    asked = probes.filter(attributes=["birth_country"], languages=["fr"])
    options = ALONE.updated(measures=("extraction", "exposure"), n_neutral=0)
    found = evaluate_mitigation(model, asked, some, options=options, progress=False).effects
    assert found.groupby("measure", sort=False).size().to_dict() == {"extraction": 3, "exposure": 2}
    with ablate(model, some):
        after = _exposures(model, asked, records)
    for frame, column in ((_exposures(model, asked, records), "before"), (after, "after")):
        means = frame.groupby("group").exposure_bits.mean()
        row = found[(found.measure == "exposure") & (found.group == "private")]
        assert row[column].item() == pytest.approx(means["private"] - means["control"])
        assert row.above_controls.item()


def test_every_control_is_a_condition_of_equal_size(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    asked = probes.filter(attributes=["birth_country"], languages=["fr"])
    sets = {"small": some & NeuronSet(frozenset({(2, 7)}), 3, 64), "large": some}
    options = EvaluateOptions(
        measures=["exposure"], control_conditions=["random", "random_magnitude", "noise"], n_random=2, matched_sets=["large"],
        n_neutral=1,
    )  # fmt: skip
    found = evaluate_mitigation(model, asked, sets, options=options, seed=3, progress=False)
    assert found.sizes == {"small": 1, "large": 3, "random@3": 3, "random_magnitude@3": 3, "noise@3": 3}
    assert found.chosen == {"small": 1, "large": 3} and found.random == {"random@3": 3, "random_magnitude@3": 3}
    assert set(found.cost.condition) == {"small", "large", "noise@3"}
    effects = found.effects[found.effects.group == "private"].set_index("condition")
    assert effects.n_draws.to_dict() == {"small": 1, "large": 1, "random@3": 2, "random_magnitude@3": 2, "noise@3": 1}
    expected = []
    for seed in (3, 4):
        with ablate(model, random_neurons(some, seed=seed)):
            frame = measure_leakage(model, asked, measures=("exposure",), progress=False).probes
        means = frame.groupby("group").exposure_bits.mean()
        expected.append(means["private"] - means["control"])
    assert effects.after["random@3"] == pytest.approx(sum(expected) / 2)
    quiet = [probe.prompt for probe in asked.filter(group="control")]
    moments = activation_moments(model, quiet)
    with ablate(model, some, mode="noise", values=moments.mean, std=moments.std, seed=3):
        frame = measure_leakage(model, asked, measures=("exposure",), progress=False).probes
    means = frame.groupby("group").exposure_bits.mean()
    assert effects.after["noise@3"] == pytest.approx(means["private"] - means["control"])


@pytest.mark.parametrize(("mode", "factor"), [("mean", 0.0), ("scale", 0.5), ("scale", 1.0)])
def test_sets_are_deactivated_by_the_given_mode(
    model: Any, probes: ProbeSet, some: NeuronSet, mode: Any, factor: float
) -> None:
    private = probes.filter(group="private", languages=["fr"])
    found = evaluate_mitigation(
        model, private, some, options=EvaluateOptions(mode=mode, factor=factor, n_neutral=3), progress=False
    )
    prompts = [sentence for sentence in evaluation.packs.load_language("fr").choosing]
    how = {"values": activation_moments(model, prompts).mean} if mode == "mean" else {"factor": factor}
    with ablate(model, some, mode=mode, **how):
        wanted = neutral_nll(backend_of(model), ["fr"], n_neutral=3)["fr"]
    assert found.cost.nll_after.item() == pytest.approx(wanted, rel=1e-9)
    assert (found.cost.rise.item() == pytest.approx(0, abs=1e-12)) == (factor == 1)
    if factor == 1:
        assert found.effects.after.tolist() == found.effects.before.tolist()


def test_base_knowledge_beside_the_rest(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    private = probes.filter(group="private", languages=["en"], attributes=["id_number"])
    found = evaluate_mitigation(
        model, private, some, options=EvaluateOptions(knowledge=True, n_neutral=0), progress=False
    )
    base = found.effects[found.effects.group == "base"].set_index("condition")
    with ablate(model, some):
        after = base_knowledge(model, ["en"], progress=False).answers
    assert set(base.measure) == {"accuracy"} and set(base.n_subjects) == {25}
    assert base.before["neurons"] == base_knowledge(model, ["en"], progress=False).answers.correct.mean()
    assert base.after["neurons"] == after.correct.mean()
    assert list(base.index) == ["neurons", "random"]
    assert set(found.extraction.group) == {"private"}


def test_random_sets_of_ones_own_have_no_price(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    private = probes.filter(group="private", languages=["fr"], attributes=["id_number"])
    found = evaluate_mitigation(model, private, {"random 3": some}, options=ALONE.updated(n_neutral=1), progress=False)
    assert found.cost.empty and found.random == {"random 3": 3} and found.chosen == {}
    assert found.to_frame().rise.isna().all()


def test_held_out_languages_are_marked(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    private = probes.filter(group="private", attributes=["id_number"])
    found = evaluate_mitigation(
        model, private, some, options=EvaluateOptions(held_out_languages=["fr"], n_neutral=0), progress=False
    )
    assert found.effects.set_index("query_language").held_out.to_dict() == {"en": False, "fr": True}


def test_trade_off_and_its_front() -> None:
    reductions = {"a@1": 0.25, "a@4": 0.75, "b@1": 0.2, "b@4": 0.75, "random": 0.9, "noise": 0.9}
    losses = {"a@1": 0.0, "a@4": 0.5, "b@1": 0.25, "b@4": 0.25, "random": 0.0, "noise": 0.0}
    rows = [
        (name, group, code, before, before * (1 - values[name]), 10, "extraction")
        for name in reductions
        for group, values in (("private", reductions), ("public", losses))
        for code, before in (("en", 0.8), ("fr", 0.4))
    ]
    rows.append(("a@1", "private", "fr", 3.0, 0.0, 10, "exposure"))
    columns = ["condition", "group", "query_language", "before", "after", "n_probes", "measure"]
    cost = pd.DataFrame({"condition": ["a@1", "a@1"], "query_language": ["en", "fr"], "rise": [0.1, 0.3]})
    sizes = {name: int(name[-1]) if "@" in name else 4 for name in reductions}
    result = MitigationResult(
        effects=pd.DataFrame(rows, columns=columns), cost=cost, sizes=sizes, total_neurons=9, provenance=Provenance(model="m")
    )  # fmt: skip
    found = result.trade_off().set_index("condition")
    assert found.reduction.to_dict() == pytest.approx(reductions)
    assert found.lost.to_dict() == pytest.approx(losses)
    assert found.front[found.front].index.tolist() == ["a@1", "b@4"]
    assert found.method.tolist() == ["a", "a", "b", "b", "", ""]
    assert found.control.tolist() == [False] * 4 + [True] * 2
    assert found.rise["a@1"] == 0.3 and found.rise.isna().sum() == 5


def test_results_from_before_measures_are_on_extraction() -> None:
    effects = pd.DataFrame({"condition": ["a"], "group": ["private"], "query_language": ["fr"]})
    result = MitigationResult(
        effects=effects, cost=effects, sizes={"a": 1}, total_neurons=9, provenance=Provenance(model="m")
    )
    assert result.extraction[[*effects]].equals(effects)
    assert result.extraction.reason.tolist() == [""] and result.extraction.after_low.isna().all()


def test_refusals(model: Any, probes: ProbeSet, some: NeuronSet, records: tuple[Record, ...]) -> None:
    def refused(
        message: str, asked: ProbeSet = probes, neurons: Any = some, before: Any = None, **options: Any
    ) -> None:
        with pytest.raises(ValueError, match=message):
            evaluate_mitigation(
                model, asked, neurons, options=EvaluateOptions(**options), before=before, progress=False
            )

    few, one = probes[:2], measure_leakage(model, probes[:2], progress=False)
    other = LeakageResult(probes=one.probes, provenance=provenance(model))
    refused("neuron set 'none' is empty", neurons={"none": some - some})
    refused("`before` was measured on other probes", before=other)
    refused("`before` has no exposure; measure it with measures=", asked=few, before=one, measures=("exposure",))
    refused("no probes to ask", asked=ProbeSet(()))
    refused("(?s)measures.*Input should be 'extraction' or 'exposure'.*'rank'", measures=("rank",))
    refused("(?s)measures.*Tuple should have at least 1 item", measures=())
    refused("(?s)measures.*Input should be a valid tuple", measures="extraction")
    refused("(?s)n_random.*greater than or equal to 1", n_random=0)
    kinds = "'random', 'random_magnitude', 'noise' or 'permuted'"
    refused(f"(?s)Input should be {kinds}.*'shuffled'", control_conditions=("shuffled",))
    refused("unknown set in matched_sets 'b'; use 'neurons'", matched_sets=["b"])
    refused("unknown held-out language 'zh'; use 'en', 'fr'", held_out_languages=("zh",))
    refused("(?s)mode.*Input should be 'zero', 'mean', 'scale' or 'noise'.*'off'", mode="off")
    refused(r"neurons of a model with .* \(5, 64\)", asked=few, neurons=NeuronSet(some.neurons, 5, 64), before=one)
    refused("neurons of the model 'x'", asked=few, neurons=some.for_model("x"), before=one)
    alone = build_probes(records[1:2], ["fr"], templates=[0])
    refused("exposure ranks a value among others, and id_number has only 1", asked=alone, measures=("exposure",))


def test_gates_are_measured_beside_the_same_factors_at_random_neurons(
    leaking: Any, probes: ProbeSet, some: NeuronSet, tmp_path: Path
) -> None:
    factors = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    gates = NeuronGates(factors=torch.where(factors < 0.5, factors, 1.0), provenance=Provenance(model=""))
    asked = probes.filter(languages=["fr"])
    options = EvaluateOptions(n_random=2, n_neutral=2)
    found = evaluate_mitigation(leaking, asked, gates, options=options, seed=4, progress=False)
    assert found.sizes == {"gates": gates.n_touched, "permuted": gates.n_touched}
    assert found.chosen == {"gates": gates.n_touched} and list(found.random) == ["permuted"]
    assert found.mean_factors["gates"] == pytest.approx(float(factors[factors < 0.5].mean()))
    assert found.mean_factors["permuted"] == pytest.approx(found.mean_factors["gates"])
    assert f"\n  gates: {gates.n_touched} neurons turned down" in repr(found)
    rows = found.effects[found.effects.group == "private"].set_index("condition")
    private = asked.filter(group="private")
    with ablate(leaking, gates):
        after = measure_leakage(leaking, private, candidates=probes.records, progress=False).probes.extracted.mean()
        nll = neutral_nll(backend_of(leaking), ["fr"], n_neutral=2)["fr"]
    drawn = []
    for seed in (4, 5):
        with ablate(leaking, gates.permuted(seed)):
            frame = measure_leakage(leaking, private, candidates=probes.records, progress=False).probes
        drawn.append(frame.extracted.mean())
    assert rows.after["gates"] == after and rows.after["permuted"] == pytest.approx(sum(drawn) / 2)
    assert rows.n_draws["permuted"] == 2 and found.cost.nll_after.tolist() == [pytest.approx(nll)]
    found.save(tmp_path / "found")
    assert MitigationResult.load(tmp_path / "found").mean_factors == found.mean_factors


def test_gates_take_no_mode_and_no_control_of_sets(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    gates = NeuronGates(factors=torch.full((3, 64), 0.9), provenance=Provenance(model=""))

    def refused(message: str, neurons: Any = gates, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            evaluate_mitigation(model, probes, neurons, options=EvaluateOptions(**options), progress=False)

    refused("mode 'scale' with gates", mode="scale", factor=0.5)
    refused("control condition 'random' is of sets of neurons, and 'gates' are gates", control_conditions=["random"])
    refused("control condition 'noise' is of sets", control_conditions=["permuted", "noise"])
    refused("'permuted' permutes factors, and 'neurons' is a set", neurons=some, control_conditions=["permuted"])
    refused("gates 'permuted' have the name of a control condition", neurons={"permuted": gates})
    whole = NeuronGates(factors=torch.ones(3, 64), provenance=Provenance(model=""))
    refused("gates 'gates' are all 1", neurons=whole)
