"""Leakage, with a model whose answers are known: what it writes is scripted, what it scores is its own."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny_models import taught
from helpers.toy_results import leakage as toy_leakage

from xlmech import figures
from xlmech.data.attributes import Attribute
from xlmech.data.probes import ProbeSet
from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.data.questions import build_probes, with_format
from xlmech.data.records import Record
from xlmech.engine.sampling import Sampling
from xlmech.figures.marks import ROOM
from xlmech.leakage import task as questions
from xlmech.leakage.measure import LeakageResult, measure_leakage
from xlmech.metrics.intervals import rate_interval
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model

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
    texts = [["Pérou", "le Japon", "France"], ["Inde", "Japan", "日本"], ["Inde", "?", ""]]

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
    with pytest.raises(ValueError, match="probe long/en/0: .* tokens do not fit the model's context of 256"):
        measure_leakage(model, build_probes([long], ["en"], templates=[0]), progress=False)
    short = build_probes([long.model_copy(update={"subject": "A" * 20})], ["en"], templates=[0])
    with pytest.raises(
        ValueError, match=r"^max_new_tokens: .* 300 more do not fit .* of 256; lower max_new_tokens to \d+ at"
    ):
        measure_leakage(model, short, max_new_tokens=300, progress=False)


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


def test_the_values_of_ones_own_list_are_candidates(model: Any) -> None:
    band = Attribute(name="band", compare="choice", questions={"en": "Which band has {subject}?"})
    listed = band.model_copy(update={"values": {key: {"en": f"band {key}"} for key in "abcd"}})
    records = [Record(id=f"r{key}", subject=f"Jo {key}", attribute="band", value=key) for key in "ab"]
    with_list, without = (
        measure_leakage(
            model,
            build_probes(records, ["en"], kinds=[kind]),
            measures=["exposure"],
            form_languages=["en"],
            progress=False,
        ).probes
        for kind in (listed, band)
    )
    assert with_list.n_candidates.tolist() == [4, 4] and without.n_candidates.tolist() == [2, 2]
    probe, tokenizer, scores = build_probes(records, ["en"], kinds=[listed])[0], backend_of(model).tokenizer, {}
    assert probe.answers["en"] == "band a"
    prompt = tokenizer(probe.prompt).input_ids
    for key in "abcd":
        answer = tokenizer(f"band {key}", add_special_tokens=False).input_ids
        with torch.no_grad():
            logs = model(torch.tensor([[*prompt, *answer]]), return_type="logits")[0].log_softmax(-1)
        scores[key] = sum(float(logs[len(prompt) - 1 + number, token]) for number, token in enumerate(answer))
    place = 1 + sum(score > scores["a"] for score in scores.values())
    assert with_list["rank"][0] == place and with_list.exposure_bits[0] == pytest.approx(2 - np.log2(place))


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
        assert cells.data[0].colorbar.title.text == f"exposure{ROOM}" and "bits" in cells.data[0].hovertext[0][0]
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


ANSWERS = [
    "{value}\n",
    "\n\n{value}\n",
    "The value of {subject} is {value}.\n",
]


@pytest.mark.parametrize("wording", ANSWERS)
def test_answers_are_those_of_a_plain_loop_however_they_begin(
    tokenizer: Any, probes: ProbeSet, wording: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first measured 0 % where an answer began with newlines, or was a sentence longer than the longest value."""
    known = probes.filter(attributes=["id_number"], languages=["en"])
    network = taught(tokenizer, known, wording=wording, steps=250)
    texts: dict[str, list[str]] = {}
    first = questions.first_line
    monkeypatch.setattr(
        questions, "first_line", lambda text: texts.setdefault("read", []).append(first(text)) or first(text)
    )
    result = measure_leakage(load_model(network, tokenizer=tokenizer), known, progress=False)
    for probe in known:
        tokens = tokenizer(probe.prompt, return_tensors="pt").input_ids
        for _ in range(64):
            tokens = torch.cat([tokens, network(tokens).logits[:, -1].argmax(-1, keepdim=True)], 1)
            text = tokenizer.decode(tokens[0, -1 - _ :])
            if "\n" in text.lstrip():
                break
        texts.setdefault("plain", []).append(text[: len(text) - len(text.lstrip())] + text.lstrip().partition("\n")[0])
    assert sorted(texts["read"]) == sorted(texts["plain"])
    assert result.probes.extracted.mean() == 1
    assert (result.n_answers, result.n_truncated, result.n_empty) == (5, 0, 0)


def test_a_long_value_of_one_person_changes_no_other_result(leaking: Any, probes: ProbeSet) -> None:
    """The budget was the longest value's tokens: one long street changed what was read of everybody's answers."""
    street = Record(id="long", subject="Fay Poe", attribute="street_address", value="Rue " + "de la Paix " * 12 + "5")
    alone = measure_leakage(leaking, probes, progress=False)
    beside = measure_leakage(leaking, probes, candidates=(*probes.records, street), progress=False)
    pd.testing.assert_frame_equal(alone.probes, beside.probes)
    assert alone.max_new_tokens == beside.max_new_tokens == 64


def test_the_budget_and_the_format_are_saved(leaking: Any, probes: ProbeSet, tmp_path: Path) -> None:
    measure_leakage(leaking, probes, max_new_tokens=9, progress=False).save(tmp_path / "r")
    result = LeakageResult.load(tmp_path / "r")
    assert (result.max_new_tokens, result.n_samples, result.temperature) == (9, 1, 0)
    assert result.prompt == PLAIN.to_dict()
    assert result.provenance.settings == {"prompt": "plain", "max_new_tokens": 9, "n_samples": 1, "temperature": 0}
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        measure_leakage(leaking, probes, max_new_tokens=0)


@pytest.mark.parametrize(
    ("text", "counts", "message"),
    [
        ("abcdefgh", (10, 0), r"^10 of 10 answers were cut off after 8 new tokens, .* give a larger max_new_tokens$"),
        ("a\nb\ncdef", (0, 0), ""),
        ("abcdefg", (0, 0), ""),
        (" \n", (0, 10), "^10 of 10 answers are empty; ask in another prompt format"),
    ],
)
def test_answers_cut_off_and_empty_ones_are_counted_and_warned_of(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch, text: str, counts: Any, message: str
) -> None:
    written = backend_of(model).tokenizer(text, add_special_tokens=False).input_ids
    monkeypatch.setattr(questions, "generate", lambda _, prompts, **__: [written] * len(prompts))
    asked = probes.filter(languages=["fr"])
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        result = measure_leakage(model, asked, max_new_tokens=8, progress=False)
    assert (result.n_truncated, result.n_empty) == counts
    assert (result.probes.truncated.sum(), result.probes["empty"].sum()) == counts
    assert len(raised) == bool(message)
    assert all(re.search(message, str(one.message)) for one in raised)


def test_formats_of_one_set_end_their_answers_each_in_its_way(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = PromptFormat(name="chat", template="{question} ", lines_end_answers=False)
    asked = probes.filter(languages=["fr"], attributes=["id_number"])
    mixed = asked[:2] + with_format(asked[2:], chat)
    value = asked[2].record.value
    text = f"no\n{value}"
    written = backend_of(model).tokenizer(text, add_special_tokens=False).input_ids
    monkeypatch.setattr(questions, "generate", lambda _, prompts, **__: [written] * len(prompts))
    found = measure_leakage(model, mixed, progress=False).probes
    assert found.extracted.tolist() == [0, 0, 1, 0, 0]
    assert found.probe.tolist() == [probe.id for probe in mixed]


def test_wordings_are_compared_and_joined() -> None:
    rows = [
        {"probe": f"{person}/{code}/{template}", "record": person, "subject": person, "group": group}
        | {"attribute": "phone", "query_language": code, "template": template, "extracted": hit}
        for code, hits in {"en": [[1, 0], [0, 1], [0, 0], [1, 1]], "fr": [[0, 0], [0, 0], [0, 1], [0, 0]]}.items()
        for (person, group), of_person in zip(
            [("a", "private"), ("b", "private"), ("c", "private"), ("d", "control")], hits, strict=True
        )
        for template, hit in enumerate(of_person)
    ]
    result = LeakageResult(probes=pd.DataFrame(rows), provenance=toy_leakage({"en": [1]}).provenance)
    each = result.by_wording().set_index(["query_language", "template"])
    assert each.value.to_dict() == pytest.approx({("en", 0): 1 / 3, ("en", 1): 1 / 3, ("fr", 0): 0, ("fr", 1): 1 / 3})
    assert each.control.to_dict() == {("en", 0): 1, ("en", 1): 1, ("fr", 0): 0, ("fr", 1): 0}
    together = result.any_wording().set_index("query_language")
    assert together.value.to_dict() == pytest.approx({"en": 2 / 3, "fr": 1 / 3})
    assert together.control.to_dict() == {"en": 1, "fr": 0}
    assert together.n_records.tolist() == [3, 3] and together.n_templates.tolist() == [2, 2]
    assert tuple(together.loc["en", ["value", "low", "high"]]) == rate_interval([1, 1, 0], [1, 1, 1])
    with pytest.raises(ValueError, match="unknown group"):
        result.by_wording(group="privat")  # type: ignore[arg-type]
    exposure = replace(result, probes=result.probes.rename(columns={"extracted": "exposure_bits"}))
    with pytest.raises(ValueError, match="compared by extraction, which was not measured"):
        exposure.any_wording()
