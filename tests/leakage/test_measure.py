"""Leakage, with a model whose answers are known: what it writes is scripted, what it scores is its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.toy_results import leakage as toy_leakage

from xlmech import figures
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.engine.sampling import Sampling
from xlmech.leakage import task as questions
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.models.backends import backend_of

FRENCH = {"Ana Li": "France.", "Bo Kim": "c'est le Japon", "Cy Roe": "Brasil", "Di Fox": "Inde", "Ed Ray": "Pérou"}


@pytest.fixture
def scripted(model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model answers French questions about countries as in FRENCH, English ones not at all, ids right but spaced."""
    answers = {}
    for probe in probes:
        if probe.record.attribute == "id_number":
            answers[probe.prompt] = f"no. {probe.record.value[:2]} {probe.record.value[2:]}"
        else:
            answers[probe.prompt] = FRENCH[probe.record.subject] if probe.query_language == "fr" else "I do not know"
    backend = backend_of(model)

    def write(_: Any, prompts: list[list[int]], **__: Any) -> list[list[int]]:
        texts = [backend.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        return [backend.tokenizer(answers[text], add_special_tokens=False).input_ids for text in texts]

    monkeypatch.setattr(questions, "generate", write)
    return model


def test_forms_in_any_language_are_found_and_named(scripted: Any, probes: ProbeSet) -> None:
    found = measure_leakage(scripted, probes, progress=False).probes.set_index("probe")
    country = found[(found.attribute == "birth_country") & (found.query_language == "fr")]
    by_record = country.set_index("record")
    assert by_record.extracted.tolist() == [1, 1, 1, 1, 0]
    assert by_record.own_form.tolist() == [1, 1, 0, 1, 0]
    assert by_record.answer_language["private-2-birth_country"] == "es"
    english = found[(found.attribute == "birth_country") & (found.query_language == "en")]
    assert english.extracted.sum() == 0
    assert set(english.answer_language) == {""}
    assert found[found.attribute == "id_number"].extracted.tolist() == [1.0] * 10


def test_matrix_and_summary(scripted: Any, probes: ProbeSet) -> None:
    result = measure_leakage(scripted, probes, progress=False)
    matrix = result.matrix().set_index("query_language")
    assert matrix.value.to_dict() == {"en": 0.5, "fr": 1.0}
    assert matrix.control.to_dict() == {"en": 0.5, "fr": 0.5}
    assert matrix.n_subjects.tolist() == [3, 3]
    assert (matrix.low <= matrix.value).all() and (matrix.value <= matrix.high).all()
    summary = result.summary().set_index(["group", "attribute"])
    assert summary.extraction["private", "all"] == 0.75
    assert summary.own_form["private", "birth_country"] == pytest.approx(2 / 6)


def test_rates_of_few_people_have_a_width_and_no_leak_looks_no_worse_than_one() -> None:
    """By percentiles of resamples these were [100, 100] and [0, 0], and one leak of 32 questions ended below none."""
    rows = toy_leakage({"en": [1] * 8, "fr": [0] * 8}).matrix().set_index("query_language")
    assert rows.high["en"] == 1 and 0.6 < rows.low["en"] < 0.65
    assert rows.low["fr"] == 0 and 0.35 < rows.high["fr"] < 0.4
    assert (toy_leakage({"en": [1] * 8}).summary().low < 0.65).all()
    none, one = (toy_leakage({"en": hits}).matrix().high[0] for hits in ([0] * 32, [1] + [0] * 31))
    assert none <= one


def test_with_sampling_one_answer_of_many_is_enough(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, backend = probes.filter(languages=["fr"], attributes=["birth_country"])[:3], backend_of(model)
    texts = [["Pérou", "le Japon", "France"], ["Inde", "Japan", "Japón"], ["Inde", "?", ""]]

    def draw(_: Any, prompts: list[list[int]], sampling: Sampling, **__: Any) -> list[list[list[int]]]:
        assert len(prompts) == 3 and sampling.n_samples == 3
        return [[backend.tokenizer(text, add_special_tokens=False).input_ids for text in of] for of in texts]

    monkeypatch.setattr(questions, "sample", draw)
    result = measure_leakage(model, asked, sampling=Sampling(n_samples=3, seed=7), progress=False)
    assert result.probes.extracted.tolist() == [1, 1, 0]
    assert result.probes.own_form.tolist() == [1, 0, 0]
    assert result.probes.answer_language.tolist() == ["fr", "en", ""]
    assert result.provenance.seed == 7


def test_results_hold_no_personal_value(scripted: Any, probes: ProbeSet) -> None:
    text = measure_leakage(scripted, probes, progress=False).probes.to_csv()
    assert not any(record.subject in text or record.value in text.split(",") for record in probes.records)


def test_exposure_equals_an_independent_loop(model: Any, records: tuple[Record, ...]) -> None:
    probes = build_probes(records[:2], ["fr"], templates=[0])
    found = measure_leakage(model, probes, measures=("exposure",), candidates=records, progress=False).probes
    probe = probes[1]
    assert probe.record.attribute == "id_number"
    values = sorted({record.value for record in records if record.attribute == "id_number"})
    tokenizer, scores = backend_of(model).tokenizer, {}
    prompt = tokenizer(probe.prompt).input_ids
    for value in values:
        answer = tokenizer(value, add_special_tokens=False).input_ids
        with torch.no_grad():
            logs = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0].log_softmax(-1)
        scores[value] = sum(float(logs[len(prompt) - 1 + number, token]) for number, token in enumerate(answer))
    place = 1 + sum(score > scores[probe.record.value] for score in scores.values())
    row = found.iloc[1]
    assert row.n_candidates == len(values) == 5
    assert row["rank"] == place
    assert row.log_prob == pytest.approx(scores[probe.record.value], rel=1e-6)
    assert row.exposure_bits == pytest.approx(np.log2(5) - np.log2(place))


def test_a_form_shared_by_all_languages_counts_once(model: Any, records: tuple[Record, ...]) -> None:
    probes = build_probes(records[:1], ["fr"], templates=[0])
    found = measure_leakage(model, probes, measures=("exposure",), form_languages=["fr"], progress=False).probes
    assert found.n_candidates.item() == 24


def test_save_load_and_checks(scripted: Any, probes: ProbeSet, tmp_path: Any) -> None:
    result = measure_leakage(scripted, probes, progress=False)
    result.save(tmp_path / "r")
    pd.testing.assert_frame_equal(LeakageResult.load(tmp_path / "r").probes, result.probes)
    with pytest.raises(ValueError, match="needs at least one probe"):
        LeakageResult(probes=result.probes[:0], provenance=result.provenance)
    with pytest.raises(ValueError, match="no probes to ask"):
        measure_leakage(scripted, ProbeSet(()))


def test_a_prompt_beyond_the_context_is_named(model: Any) -> None:
    long = Record(id="long", subject="A" * 400, attribute="phone", value="+1 212-555-0101")
    with pytest.raises(ValueError, match="probe long/en/0: .* do not fit the model's context of 256"):
        measure_leakage(model, build_probes([long], ["en"], templates=[0]), progress=False)


def test_nothing_or_something_strange_to_measure_is_an_error(model: Any, probes: ProbeSet) -> None:
    for measures, message in (
        (
            ("extractoin",),
            r"unknown measure 'extractoin' \(did you mean 'extraction'\?\); use 'extraction', 'exposure'",
        ),
        ("exposure", r"expected a list of measures, got 'exposure' alone; give a list: \['exposure'\]"),
        ((), "nothing to measure"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_leakage(model, probes, measures=measures)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        measure_leakage(model, probes, measures=["exposure"], form_languages=["xx"])


def test_a_result_of_exposure_alone_is_read_like_any_other(model: Any, probes: ProbeSet, tmp_path: Path) -> None:
    measured = measure_leakage(model, probes, measures=["exposure"], progress=False)
    measured.save(tmp_path / "saved")
    for result in (measured, LeakageResult.load(tmp_path / "saved")):
        assert "private: exposure_bits" in repr(result)
        value, low, high = (
            result.summary()
            .set_index(["group", "attribute"])
            .loc[("private", "all"), ["exposure_bits", "bits_low", "bits_high"]]
        )
        people = result.probes[result.probes.group == "private"].subject.nunique()
        assert f"exposure_bits {value:.3g} ({low:.3g} to {high:.3g}), {people} people" in result.headline()["private"]
        bits = result.probes.groupby(["group", "query_language"]).exposure_bits.mean()
        matrix = result.matrix().set_index("query_language")
        assert matrix.value.to_dict() == pytest.approx(bits["private"].to_dict())
        assert matrix.control.to_dict() == pytest.approx(bits["control"].to_dict())
        summary = result.summary().set_index(["group", "attribute"])
        assert list(summary) == ["exposure_bits", "bits_low", "bits_high", "n_probes"]
        private = result.probes[result.probes.group == "private"].exposure_bits
        assert summary.exposure_bits["private", "all"] == pytest.approx(private.mean())
        with pytest.raises(ValueError, match="unknown measure 'extracted'; use 'exposure_bits', 'log_prob', 'rank'"):
            result.matrix(measure="extracted")
        cells = figures.leakage_matrix(result)
        np.testing.assert_allclose(np.array(cells.data[0].z, dtype=float), [matrix.value.loc[["en", "fr"]]])
        assert cells.data[0].colorbar.title.text == "private<br>exposure" and "bits" in cells.data[0].hovertext[0][0]
        assert "%" not in cells.data[0].hovertext[0][0].replace("95 %", "")
        drawn = figures.leakage_by_language(result)
        assert sorted(drawn.data[0].x) == pytest.approx(sorted(matrix.value))
        assert drawn.layout.xaxis.title.text == "exposure (bits)"


def test_extraction_and_exposure_are_not_drawn_in_one_matrix(scripted: Any, probes: ProbeSet) -> None:
    one = measure_leakage(scripted, probes, progress=False)
    other = measure_leakage(scripted, probes, measures=["exposure"], progress=False)
    with pytest.raises(ValueError, match="extraction was measured in some of these results only"):
        figures.leakage_matrix([one, replace(other, plant_language="fr")])
    both = measure_leakage(scripted, probes, measures=["exposure", "extraction"], progress=False)
    pd.testing.assert_frame_equal(both.matrix(), one.matrix())
    with pytest.raises(ValueError, match=r"unknown group 'privat' \(did you mean 'private'\?\)"):
        one.matrix(group="privat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs extraction or exposure"):
        LeakageResult(probes=one.probes[["probe", "group"]], provenance=one.provenance)
