"""The lens at the last layer is the model's own output; every other figure against a plain loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from xlmech import lens as lens_module
from xlmech.backends import backend_of
from xlmech.lens import logit_lens
from xlmech.probes import ProbeSet


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens_module, "plant_language", lambda model: "en")


def test_last_layer_is_the_models_output(model: Any, probes: ProbeSet) -> None:
    countries = probes.filter(attributes=["birth_country"])
    readings = logit_lens(model, countries, progress=False).readings
    last = readings[readings.layer == readings.layer.max()]
    tokenizer = backend_of(model).tokenizer
    for probe in countries:
        with torch.no_grad():
            logs = model(torch.tensor([tokenizer(probe.prompt).input_ids]), return_type="logits")[0, -1].log_softmax(-1)
        own = last[(last.probe == probe.id) & (last.form == "query")].iloc[0]
        token = tokenizer(probe.answers[probe.query_language], add_special_tokens=False).input_ids[0]
        assert own.prob == pytest.approx(float(logs[token].exp()), rel=1e-6)
        assert own["rank"] == 1 + int((logs > logs[token]).sum())
        assert own.entropy == pytest.approx(float(-(logs.exp() * logs).sum()), rel=1e-6)


def test_inner_layers_go_through_final_norm_and_unembedding(model: Any, probes: ProbeSet) -> None:
    probe = probes.filter(attributes=["birth_country"])[0]
    readings = logit_lens(model, ProbeSet((probe,)), progress=False).readings
    tokens = torch.tensor([backend_of(model).tokenizer(probe.prompt).input_ids])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        resid = cache["blocks.0.hook_resid_post"][:, -1:]
        logits = model.ln_final(resid) @ backend_of(model).unembed.T
        cap = backend_of(model).softcap
        logits = cap * torch.tanh(logits / cap) if cap else logits
    logs = logits[0, 0].log_softmax(-1)
    token = backend_of(model).tokenizer(probe.answers["en"], add_special_tokens=False).input_ids[0]
    found = readings[(readings.layer == 0) & (readings.form_language == "en")].prob.item()
    assert found == pytest.approx(float(logs[token].exp()), rel=1e-6)


def test_forms_are_told_apart_and_collisions_counted(model: Any, probes: ProbeSet, planted: None) -> None:
    countries = probes.filter(attributes=["birth_country"])
    result = logit_lens(model, countries, progress=False)
    # In French: France/France, Japon/Japan, Brésil/Brazil, Inde/India, Kenya/Kenya all share a first byte.
    assert result.n_collisions == 5
    assert set(result.readings.query_language) == {"en"}
    assert set(result.summary().form) == {"query", "other"}
    record = replace(
        countries.filter(languages=["fr"])[0], answers={"en": "Xan", "fr": "Yan", "de": "Zan", "es": "Xon"}
    )
    mixed = logit_lens(model, ProbeSet((record,)), progress=False)
    forms = mixed.readings.drop_duplicates("form_language").set_index("form_language").form
    assert forms.to_dict() == {"en": "plant", "fr": "query", "de": "other", "es": "same"}
    only = logit_lens(model, ProbeSet((record,)), languages=["en"], progress=False)
    assert set(only.readings.form_language) == {"en", "fr"}


def test_nothing_left_is_an_error(model: Any, probes: ProbeSet, planted: None) -> None:
    with pytest.raises(ValueError, match="share their first token"):
        logit_lens(model, probes.filter(attributes=["id_number"], languages=["fr"]), progress=False)
    with pytest.raises(ValueError, match="no probes to read"):
        logit_lens(model, ProbeSet(()))
