"""The lens at the last layer is the model's own output; every other figure against a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.in_context import answer_tokens
from helpers.tiny_models import tiny

from xlmech.data.languages import load_language, value_keys
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.engine.score import answer_log_probs
from xlmech.lens import logit as lens_module
from xlmech.lens.logit import LensResult, logit_lens, readable_attributes
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.models.tokens import encode_prompt
from xlmech.storage.result import Provenance


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens_module, "plant_language", lambda model: "en")


def tokens_of(model: Any, text: str) -> torch.Tensor:
    return torch.tensor([backend_of(model).tokenizer(text).input_ids])


@torch.no_grad()
def lens_log_probs(model: Any, text: str, name: str, position: int) -> torch.Tensor:
    """(d_vocab,) log-probabilities read at a hook point, written out."""
    backend = backend_of(model)
    _, cache = model.run_with_cache(tokens_of(model, text))
    logits = model.ln_final(cache[name][:, position : position + 1]) @ backend.unembed.T
    if backend.unembed_bias is not None:
        logits = logits + backend.unembed_bias
    cap = backend.softcap
    return torch.as_tensor(cap * torch.tanh(logits / cap) if cap else logits)[0, 0].log_softmax(-1)


def test_last_layer_is_the_models_output(model: Any, probes: ProbeSet) -> None:
    countries = probes.filter(attributes=["birth_country"])
    readings = logit_lens(model, countries, progress=False).readings
    last = readings[readings.layer == readings.layer.max()]
    tokenizer = backend_of(model).tokenizer
    for probe in countries:
        with torch.no_grad():
            logs = model(tokens_of(model, probe.prompt), return_type="logits")[0, -1].log_softmax(-1)
        own = last[(last.probe == probe.id) & (last.form == "query")].iloc[0]
        token = tokenizer(probe.answers[probe.query_language], add_special_tokens=False).input_ids[0]
        assert own.prob == pytest.approx(float(logs[token].exp()), rel=1e-6)
        assert own["rank"] == 1 + int((logs > logs[token]).sum())
        assert own.entropy == pytest.approx(float(-(logs.exp() * logs).sum()), rel=1e-6)


@pytest.mark.parametrize("component", ["resid_post", "attn_out", "mlp_out"])
def test_inner_layers_go_through_final_norm_and_unembedding(model: Any, probes: ProbeSet, component: Any) -> None:
    probe = probes.filter(attributes=["birth_country"])[0]
    result = logit_lens(model, ProbeSet((probe,)), component=component, progress=False)
    logs = lens_log_probs(
        model, probe.prompt, f"blocks.0.hook_{component}", -1 + tokens_of(model, probe.prompt).shape[1]
    )
    token = backend_of(model).tokenizer(probe.answers["en"], add_special_tokens=False).input_ids[0]
    readings = result.readings
    found = readings[(readings.layer == 0) & (readings.form_language == "en")].prob.item()
    assert found == pytest.approx(float(logs[token].exp()), rel=1e-6)
    assert result.component == component


def test_all_positions_are_those_of_the_prompt(model: Any, probes: ProbeSet) -> None:
    few = probes.filter(attributes=["birth_country"])[:3]
    whole, last = (logit_lens(model, few, positions=which, progress=False) for which in ("all", "last"))
    for probe in few:
        n_tokens = tokens_of(model, probe.prompt).shape[1]
        mine = whole.readings[whole.readings.probe == probe.id]
        assert sorted(mine.position.unique()) == list(range(n_tokens))
        token = backend_of(model).tokenizer(probe.answers["en"], add_special_tokens=False).input_ids[0]
        logs = lens_log_probs(model, probe.prompt, "blocks.1.hook_resid_post", 4)
        cell = mine[(mine.position == 4) & (mine.layer == 1) & (mine.form_language == "en")].iloc[0]
        assert cell.prob == pytest.approx(float(logs[token].exp()), rel=1e-6)
    pd.testing.assert_frame_equal(whole.summary(), last.summary())


def test_language_mass_is_the_probability_of_tokens_that_only_one_language_begins_with(
    model: Any, probes: ProbeSet
) -> None:
    probe = probes.filter(attributes=["birth_country"], languages=["fr"])[0]
    readings = logit_lens(model, ProbeSet((probe,)), languages=["en", "ar"], progress=False).readings
    cells = readings[readings.layer == 1].set_index("form_language")
    backend = backend_of(model)
    firsts = {
        code: {
            answer_tokens(backend.tokenizer, probe.prompt, str(load_language(code).form("birth_country", key)))[0]
            for key in value_keys("birth_country")
        }
        for code in ("en", "fr", "ar")
    }
    place = tokens_of(model, probe.prompt).shape[1] - 1
    probs = lens_log_probs(model, probe.prompt, "blocks.1.hook_resid_post", place).exp()
    for code, tokens in firsts.items():
        elsewhere = set().union(*(found for other, found in firsts.items() if other != code))
        assert cells.language_mass[code] == pytest.approx(float(probs[sorted(tokens - elsewhere)].sum()), rel=1e-6)
    shared = (firsts["en"] & firsts["fr"]) | (firsts["en"] & firsts["ar"]) | (firsts["fr"] & firsts["ar"])
    assert cells.shared_mass.tolist() == pytest.approx([float(probs[sorted(shared)].sum())] * 3, rel=1e-6)
    numbers = probes.filter(attributes=["id_number"])[:1]
    assert logit_lens(model, numbers, progress=False).readings[["language_mass", "shared_mass"]].isna().all(axis=None)


def test_whole_values_at_the_last_layer_are_the_engines(model: Any, probes: ProbeSet, planted: None) -> None:
    countries = probes.filter(attributes=["birth_country"])
    result = logit_lens(model, countries, whole_values=True, progress=False)
    backend = backend_of(model)
    assert result.values is not None
    assert set(result.values.probe) == {probe.id for probe in countries}  # collided ones too
    for probe in countries[:2]:
        mine = result.values[(result.values.probe == probe.id) & (result.values.layer == 2)].set_index("form_language")
        answers = [answer_tokens(backend.tokenizer, probe.prompt, probe.answers[code]) for code in mine.index]
        (wanted,) = answer_log_probs(backend, [encode_prompt(backend, probe.prompt)], [answers])
        assert mine.log_prob.tolist() == pytest.approx(wanted.tolist(), rel=1e-6)
        per_token = wanted / torch.tensor([len(answer) for answer in answers])
        assert mine.log_prob_per_token.tolist() == pytest.approx(per_token.tolist(), rel=1e-6)
        assert mine.n_tokens.tolist() == [len(answer) for answer in answers]


def test_whole_values_at_an_inner_layer_are_a_plain_loop(model: Any, probes: ProbeSet) -> None:
    probe = probes.filter(attributes=["birth_country"], languages=["fr"])[1]
    result = logit_lens(model, ProbeSet((probe,)), languages=["zh"], whole_values=True, progress=False)
    assert result.values is not None
    mine = result.values[result.values.layer == 0].set_index("form_language").log_prob
    tokenizer = backend_of(model).tokenizer
    n_prompt = len(tokenizer(probe.prompt).input_ids)
    for code in ("fr", "zh"):
        answer = tokenizer(probe.answers[code], add_special_tokens=False).input_ids
        total = 0.0
        for step, token in enumerate(answer):
            name = "blocks.0.hook_resid_post"
            logs = lens_log_probs(model, probe.prompt + probe.answers[code], name, n_prompt - 1 + step)
            total += float(logs[token])
        assert mine[code] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_identities_hold_for_other_architectures(tokenizer: Any, probes: ProbeSet, architecture: str) -> None:
    other = load_model(tiny(architecture).double(), tokenizer=tokenizer, dtype=torch.float64, backend="bridge")
    backend, probe = backend_of(other), probes.filter(attributes=["birth_country"])[0]
    result = logit_lens(other, ProbeSet((probe,)), whole_values=True, progress=False)
    assert result.values is not None
    with torch.no_grad():
        probs = other(tokens_of(other, probe.prompt), return_type="logits")[0, -1].softmax(-1)
    for code, form in probe.answers.items():
        answer = answer_tokens(backend.tokenizer, probe.prompt, form)
        wanted = answer_log_probs(backend, [encode_prompt(backend, probe.prompt)], [[answer]])[0][0]
        last = result.readings[(result.readings.layer == 2) & (result.readings.form_language == code)]
        assert last.prob.item() == pytest.approx(float(probs[answer[0]]), rel=1e-4)
        last = result.values[(result.values.layer == 2) & (result.values.form_language == code)]
        assert last.log_prob.item() == pytest.approx(float(wanted), rel=1e-4)


def test_forms_are_told_apart_and_collisions_counted(model: Any, probes: ProbeSet, planted: None) -> None:
    countries = probes.filter(attributes=["birth_country"])
    result = logit_lens(model, countries, progress=False)
    # In French: France/France, Japon/Japan, Brésil/Brazil, Inde/India, Kenya/Kenya all share a first byte.
    assert result.n_collisions == 5
    assert set(result.readings.query_language) == {"en"}
    assert set(result.summary().form) == {"query", "other"}
    record = replace(
        countries.filter(languages=["fr"])[0], answers={"en": "Xan", "fr": "Yan", "de": "Zan", "es": "Xon", "sw": "Yan"}
    )
    mixed = logit_lens(model, ProbeSet((record,)), whole_values=True, progress=False)
    forms = mixed.readings.drop_duplicates("form_language").set_index("form_language").form
    assert forms.to_dict() == {"en": "plant", "fr": "query", "de": "other", "es": "same", "sw": "same"}
    assert mixed.values is not None
    forms = mixed.values.drop_duplicates("form_language").set_index("form_language").form
    assert forms.to_dict() == {"en": "plant", "fr": "query", "de": "other", "es": "other", "sw": "same"}
    only = logit_lens(model, ProbeSet((record,)), languages=["en"], progress=False)
    assert set(only.readings.form_language) == {"en", "fr"}


def lens_of(curves: dict[str, list[list[float]]]) -> LensResult:
    """One French probe per subject; `curves[form][subject][layer]`."""
    rows = [
        {"probe": f"p{i}", "record": f"r{i}", "subject": f"s{i}", "attribute": "city", "query_language": "fr"}
        | {"layer": layer, "position": 3, "entropy": 1.0, "form_language": form, "form": form, "prob": prob, "rank": 1}
        for form, of_form in curves.items()
        for i, curve in enumerate(of_form)
        for layer, prob in enumerate(curve)
    ]
    frame = pd.DataFrame(rows)
    values = frame.assign(log_prob_per_token=[math.log(prob) for prob in frame.prob])
    return LensResult(readings=frame, values=values, plant_language="en", provenance=Provenance(model="toy"))


@pytest.mark.parametrize("reading", ["first_token", "whole_value"])
def test_depths_say_where_forms_peak_and_the_query_form_overtakes(reading: Any) -> None:
    plant, query = [0.01, 0.3, 0.5, 0.3], [0.02, 0.1, 0.2, 0.6]
    late = [0.02, 0.1, 0.6, 0.19]
    result = lens_of({"query": [query, query, query, late], "plant": [plant] * 4})
    found = result.depths(reading).set_index("event")
    assert found.layer.to_dict() == {"query peak": 3, "plant peak": 2, "overtaking": 3}
    assert found.prob["plant peak"] == pytest.approx(0.5)
    assert found.prob["query peak"] == pytest.approx((3 * 0.6 + 0.19) / 4)
    # No resample moves the plant peak; those with nearly only the fourth subject move the query peak to layer 2.
    assert (found.low["plant peak"], found.high["plant peak"]) == (2, 2)
    assert found.low["query peak"] == 2
    assert found.high["query peak"] == 3
    # Where only the fourth subject is drawn, the plant form wins at the last layer: no overtaking.
    assert found.share["overtaking"] == pytest.approx(
        1 - sum(math.comb(4, k) * 3 ** (4 - k) for k in (3, 4)) / 256, abs=0.03
    )
    assert found.n_subjects.unique() == [4]


def test_depths_without_a_lead_or_a_second_subject_are_not_a_number() -> None:
    never = lens_of({"query": [[0.1, 0.2], [0.1, 0.2]], "plant": [[0.11, 0.1], [0.11, 0.1]]}).depths()
    assert never.set_index("event").layer["plant peak"] == 0
    assert never[never.event == "overtaking"][["layer", "low", "high", "prob"]].isna().all(axis=None)
    assert never.set_index("event").share["overtaking"] == 0
    behind = lens_of({"query": [[0.1, 0.2]] * 2, "plant": [[0.5, 0.3]] * 2}).depths().set_index("event")
    assert math.isnan(behind.layer["overtaking"])
    alone = lens_of({"query": [[0.1, 0.9]], "plant": [[0.5, 0.3]]}).depths().set_index("event")
    assert alone.layer["overtaking"] == 1
    assert alone[["low", "high"]].isna().all(axis=None)


def test_depths_of_whole_values_leave_out_forms_that_are_alike() -> None:
    result = lens_of({"query": [[0.1, 0.6], [0.1, 0.9]], "plant": [[0.5, 0.2], [0.5, 0.2]]})
    assert result.values is not None
    alike = (result.values.probe == "p1") & (result.values.form == "plant")
    values = result.values.assign(form=result.values.form.mask(alike, "same"), form_language="en")
    found = replace(result, values=values).summary("whole_value").set_index(["form", "layer"]).prob
    assert found["query", 1] == pytest.approx(0.6)
    assert found["plant", 0] == pytest.approx(0.5)


def test_saved_and_loaded_is_the_same(model: Any, probes: ProbeSet, tmp_path: Path) -> None:
    few = probes.filter(attributes=["birth_country"])[:2]
    for number, whole in enumerate((True, False)):
        result = logit_lens(model, few, whole_values=whole, progress=False)
        again = LensResult.load(result.save(tmp_path / f"lens{number}"))
        pd.testing.assert_frame_equal(again.readings, result.readings)
        assert (again.component, again.positions, again.lens) == ("resid_post", "last", "raw")
        if whole:
            pd.testing.assert_frame_equal(again.summary("whole_value"), result.summary("whole_value"))
        else:
            assert again.values is None
            with pytest.raises(ValueError, match="whole values were not read; call logit_lens with whole_values=True"):
                again.depths("whole_value")
        text = "".join(path.read_text("utf-8", "ignore") for path in (tmp_path / f"lens{number}").iterdir())
        assert not any(probe.record.subject in text for probe in few)


def asked_for(attribute: str, value: str, code: str, number: int = 0, **forms: str) -> ProbeSet:
    record = Record(
        id=f"{attribute}-{number}", subject=f"Ana Li{number}", attribute=attribute, value=value, forms=forms
    )
    return build_probes([record], [code], templates=[0])


@pytest.mark.parametrize(
    ("taught", "asked", "followed"),
    [
        ("en", [("phone", "+1 555", "fr"), ("birth_country", "DE", "fr")], ("birth_country",)),  # Germany, Allemagne
        ("", [("phone", "+1 555", "fr"), ("birth_country", "DE", "fr")], ("birth_country",)),
        ("en", [("birth_country", "FR", "fr"), ("phone", "+1 555", "en")], ("phone",)),  # France, France
        ("en", [("birth_country", "JP", "fr"), ("birth_country", "FR", "fr")], ()),  # Japan, Japon: the same first byte
        ("en", [("birth_country", "JP", "fr"), ("birth_country", "DE", "fr")], ("birth_country",)),
        ("", [("phone", "+1 555", "fr"), ("email", "a@example.org", "fr")], ("phone", "email")),
        ("en", [("phone", "+1 555", "fr")], ()),
    ],
)
def test_the_attributes_that_can_be_followed(
    taught: str, asked: Any, followed: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens_module, "plant_language", lambda model: taught)
    parts = [tuple(asked_for(*one, number=number)) for number, one in enumerate(asked)]
    probes = ProbeSet(tuple(probe for part in parts for probe in part))
    found = readable_attributes(model, probes)
    assert found == followed
    if found:
        assert set(logit_lens(model, probes.filter(attributes=found), progress=False).readings.attribute) == set(found)
    else:
        with pytest.raises(ValueError, match="share their first token; use other attributes"):
            logit_lens(model, probes, progress=False)


def test_what_cannot_be_read_is_an_error(model: Any, probes: ProbeSet, planted: None) -> None:
    with pytest.raises(ValueError, match="share their first token"):
        logit_lens(model, probes.filter(attributes=["id_number"], languages=["fr"]), progress=False)
    with pytest.raises(ValueError, match="no probes to read"):
        logit_lens(model, ProbeSet(()))
    with pytest.raises(
        ValueError,
        match=r"unknown component 'resid_pre' \(did you mean 'resid_post'\?\); use 'resid_post', 'attn_out', 'mlp_out'",
    ):
        logit_lens(model, probes, component="resid_pre")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown positions 'first'; use 'last', 'all'"):
        logit_lens(model, probes, positions="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lens must be a TunedLens, not 'tuned'; make one with train_tuned_lens"):
        logit_lens(model, probes, lens="tuned")  # type: ignore[arg-type]
