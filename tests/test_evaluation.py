"""Before and after: the sums behind reductions, prices and controls, with measurements scripted or the model's own."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

from xlmech import evaluation
from xlmech.ablation import ablate
from xlmech.backends import backend_of
from xlmech.evaluation import evaluate_mitigation, neutral_nll
from xlmech.leakage import LeakageResult, measure_leakage
from xlmech.models import provenance
from xlmech.neurons import NeuronSet
from xlmech.probes import ProbeSet


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
    found = evaluate_mitigation(model, private, some, before=before, n_neutral=1, progress=False)
    row = found.effects[found.effects.condition == "neurons"].iloc[0]
    assert (row.before, row.after, row.reduction) == (4 / 6, 2 / 6, 0.5)
    assert row.low <= 0.5 <= row.high
    assert row.risen == 1
    assert found.sizes == {"neurons": 3, "random": 3}
    assert found.total_neurons == 3 * 64


def test_nothing_leaked_is_nan_not_zero(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    private = probes.filter(group="private", languages=["en"])
    found = evaluate_mitigation(model, private, some, n_neutral=1, random_control=False, progress=False)
    assert found.effects.before.item() == 0
    assert pd.isna(found.effects.reduction.item())
    assert list(found.sizes) == ["neurons"]


def test_nll_equals_the_models_loss_with_neurons_off(model: Any, some: NeuronSet) -> None:
    from xlmech.languages import load_language

    tokenizer = backend_of(model).tokenizer
    with ablate(model, some):
        found = neutral_nll(model, ["en", "fr"], n_neutral=3)
        total, count = 0.0, 0
        for sentence in load_language("fr").neutral[:3]:
            tokens = torch.tensor([tokenizer(sentence).input_ids])
            with torch.no_grad():
                logs = model(tokens, return_type="logits")[0, :-1].log_softmax(-1)
            total -= float(logs.gather(1, tokens[0, 1:, None]).sum())
            count += tokens.shape[1] - 1
    assert found["fr"] == pytest.approx(total / count, rel=1e-6)
    assert found["fr"] != pytest.approx(neutral_nll(model, ["fr"], n_neutral=3)["fr"], rel=1e-6)


def test_price_is_relative_and_hooks_are_gone(model: Any, probes: ProbeSet, some: NeuronSet, tmp_path: Any) -> None:
    hooks = [len(point.fwd_hooks) for point in model.hook_dict.values()]
    few = probes.filter(attributes=["id_number"], languages=["en"])
    found = evaluate_mitigation(model, few, {"a": some, "b": some}, n_neutral=2, progress=False)
    assert [len(point.fwd_hooks) for point in model.hook_dict.values()] == hooks
    prices = found.price.set_index("condition")
    assert prices.rise["a"] == pytest.approx(prices.nll_after["a"] / prices.nll_before["a"] - 1)
    assert prices.rise["a"] == prices.rise["b"] != 0
    assert set(prices.index) == {"a", "b"}
    found.save(tmp_path / "m")
    again = evaluation.MitigationResult.load(tmp_path / "m")
    pd.testing.assert_frame_equal(again.to_frame(), found.to_frame())
    assert again.sizes == {"a": 3, "b": 3, "random": 3}


def test_refusals(model: Any, probes: ProbeSet, some: NeuronSet) -> None:
    with pytest.raises(ValueError, match="neuron set 'none' is empty"):
        evaluate_mitigation(model, probes, {"none": some - some})
    other = LeakageResult(
        probes=measure_leakage(model, probes[:2], progress=False).probes, provenance=provenance(model)
    )
    with pytest.raises(ValueError, match="`before` was measured on other probes"):
        evaluate_mitigation(model, probes, some, before=other)
