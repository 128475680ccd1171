"""The whole path on a tiny model: who is measured, who chooses neurons, what is written."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from xlmech.audit.audit import Audit, run_audit, select_probes, table, worded_probes
from xlmech.audit.plan import AuditPlan
from xlmech.audit.publish import publish, summary_lines
from xlmech.data.languages import load_language
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.mitigation.fluency import neutral_nll
from xlmech.models.backends import backend_of
from xlmech.neurons.attribution.neutral_text import needed_for_text
from xlmech.options import LocateOptions
from xlmech.report.page import write_report


@pytest.fixture(scope="module")
def people() -> tuple[Record, ...]:
    rows = []
    for group in ("private", "public", "control"):
        for number in range(4):
            subject = f"{group[:3].title()}{number} Example{number}"
            for attribute, value in {
                "birth_country": ("FR", "JP", "BR", "IN")[number],
                "id_number": f"XX{number}7",
            }.items():
                rows.append(
                    Record(
                        id=f"{group}-{number}-{attribute}",
                        subject=subject,
                        attribute=attribute,
                        value=value,
                        group=group,
                    )  # type: ignore[arg-type]
                )
    return tuple(rows)


@pytest.fixture(scope="module")
def audit(model: Any, people: tuple[Record, ...]) -> Audit:
    plan = AuditPlan(languages=("en", "fr"), locate_facts=2, locate=LocateOptions(n_neurons=3))
    return run_audit(model, people, plan, progress=False)


def test_nobody_who_chooses_neurons_is_measured(people: tuple[Record, ...]) -> None:
    plan = AuditPlan(languages=("en", "fr"), locate_facts=3, measure_facts=4, other_facts=2)
    _, measured, chosen = select_probes(people, plan)
    assert not set(measured.subjects) & set(chosen.subjects)
    assert {probe.template for probe in measured} == {2}
    assert {probe.template for probe in chosen} == {0}
    assert [len(measured.filter(group=group).records) for group in ("private", "public", "control")] == [4, 2, 2]  # type: ignore[arg-type]
    for group in ("private", "public", "control"):
        by_language = [
            {probe.record.id for probe in chosen.filter(group=group, languages=[code])} for code in ("en", "fr")
        ]  # type: ignore[arg-type]
        assert by_language[0] == by_language[1] and len(by_language[0]) == 3


def test_of_template_counts_from_the_end(people: tuple[Record, ...]) -> None:
    probes = build_probes(people[:1], ["en"])
    assert [probe.template for probe in probes.of_template(-1)] == [2]
    assert [probe.template for probe in probes.of_template(-3)] == [0]
    assert [probe.template for probe in probes.of_template(1)] == [1]


def test_the_table_has_one_row_per_language(audit: Audit) -> None:
    found = table(audit)
    assert found.query_language.tolist() == ["en", "fr"]
    assert set(found.columns) >= {
        "before",
        "control",
        "after",
        "reduction",
        "low",
        "high",
        "random",
        "public_kept",
        "nll_rise",
    }
    assert audit.mitigation.sizes["universal"] == audit.mitigation.sizes["random"] <= 3
    assert set(audit.seconds) == {"leakage", "lens", "locate", "ablate"}
    assert audit.mitigation.effects.control.notna().all(), "what control people reach bounds every reduction"


@pytest.mark.parametrize(
    ("kinds", "wanted", "followed"),
    [
        (("birth_country", "id_number"), None, {"birth_country"}),
        (("id_number",), None, {"id_number"}),
        (("birth_country", "id_number"), ("id_number",), {"id_number"}),
        (("birth_country", "id_number"), (), set()),
        (("id_number",), ("birth_country",), set()),
    ],
)
def test_the_lens_follows_what_the_records_have(
    kinds: tuple[str, ...], wanted: tuple[str, ...] | None, followed: set[str], model: Any, people: tuple[Record, ...]
) -> None:
    """By default what can be followed; an explicit choice is kept."""
    lines: list[str] = []
    given = [record for record in people if record.attribute in kinds]
    plan = AuditPlan(
        languages=("en", "fr"), locate_facts=2, measure_facts=2, other_facts=1, locate=LocateOptions(n_neurons=1)
    )
    plan = plan.updated(lens_attributes=wanted)
    found = run_audit(model, given, plan, say=lines.append, progress=False)
    assert (set(found.lens.readings.attribute) if found.lens is not None else set()) == followed
    assert any(f" questions on {', '.join(followed)}, every layer" in line for line in lines) is bool(followed)


def test_an_audit_without_anything_to_follow_goes_on(
    model: Any, people: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmech.lens.logit.plant_language", lambda model: "en")
    given = [record for record in people if record.attribute == "id_number"]
    plan = AuditPlan(
        languages=("fr", "es"), locate_facts=2, measure_facts=2, other_facts=1, locate=LocateOptions(n_neurons=1)
    )
    assert run_audit(model, given, plan, progress=False).lens is None
    explicit = plan.updated(lens_attributes=("id_number",))
    assert run_audit(model, given, explicit, progress=False).lens is None


def test_sentences_that_choose_do_not_judge(model: Any, people: tuple[Record, ...], audit: Audit) -> None:
    halves = [
        {code: load_language(code).neutral[part] for code in ("en", "fr")} for part in (slice(10), slice(10, None))
    ]
    needed, spared = needed_for_text(backend_of(model), halves[1]), audit.neurons.scores[0].isneginf()
    assert int(spared.sum()) == round(0.05 * spared.numel())
    assert needed[spared].min() >= needed[~spared].max()
    cost = audit.mitigation.cost.query("condition == 'universal'").set_index("query_language").nll_before
    assert cost.to_dict() == pytest.approx(neutral_nll(backend_of(model), ["en", "fr"], texts=halves[0]).to_dict())
    plan = AuditPlan(languages=("en", "fr"), locate_facts=2, locate=LocateOptions(n_neurons=3, spare=0.0))
    plain = run_audit(model, people, plan, progress=False)
    assert plain.neurons.scores.isfinite().all()
    cost = plain.mitigation.cost.query("condition == 'universal'").set_index("query_language").nll_before
    assert cost.to_dict() == pytest.approx(neutral_nll(backend_of(model), ["en", "fr"], texts=halves[0]).to_dict())


def test_every_random_condition_is_a_control_in_the_table(audit: Audit) -> None:
    effects = audit.mitigation.effects
    matched = effects[effects.condition == "random"].assign(condition="random_magnitude")
    effects = pd.concat([matched, effects], ignore_index=True)
    for name, reductions in (("random", [0.1, 0.0]), ("random_magnitude", [0.3, -0.2])):
        effects.loc[(effects.group == "private") & (effects.condition == name), "reduction"] = reductions
    sizes = {"random_magnitude": 3, "noise": 3} | audit.mitigation.sizes
    changed = type(audit.mitigation)(**{**audit.mitigation.__dict__, "effects": effects, "sizes": sizes})
    found = table(Audit(**{**audit.__dict__, "mitigation": changed}))
    assert found.random.tolist() == [0.3, 0.0]
    before = table(audit)
    columns = ["before", "after", "reduction", "public_kept", "nll_rise"]
    pd.testing.assert_frame_equal(found[columns], before[columns])


def test_publish_writes_results_figures_and_an_index_and_replaces_them(audit: Audit, tmp_path: Path) -> None:
    for _ in range(2):
        index = publish(audit, tmp_path / "out")
    assert index == tmp_path / "out" / "index.html"
    text = unescape(index.read_text(encoding="utf-8")).replace("\u00a0", " ")
    assert all(line in text for line in summary_lines(audit)) and "goal" not in text
    assert '<section class="verdict' in text and 'href="before_after.html"' in text
    for name in ("leakage_matrix", "before_after", "neurons_per_layer", "lens", "cost"):
        assert (tmp_path / "out" / f"{name}.html").is_file()
    assert not list((tmp_path / "out").glob(".*"))
    again = Audit.load(tmp_path / "out" / "results")
    pd.testing.assert_frame_equal(table(again), table(audit))
    assert json.loads((tmp_path / "out" / "results" / "seconds.json").read_text()) == audit.seconds


def test_no_name_and_no_value_is_written(audit: Audit, tmp_path: Path, people: tuple[Record, ...]) -> None:
    publish(audit, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not any(record.subject in text for record in people), path.name
        assert not any(record.value in text for record in people if record.attribute == "id_number"), path.name


def test_the_summary_tells_the_numbers_with_intervals_and_no_goals(audit: Audit) -> None:
    effects = audit.mitigation.effects.copy()
    private = effects.group == "private"
    chosen = private & (effects.condition == "universal")
    effects.loc[private, ["before", "after"]] = [0.8, 0.8]
    effects.loc[chosen, "after"] = [0.4, 0.64]
    effects.loc[chosen, ["reduction", "low", "high"]] = [[0.5, 0.3, 0.7], [0.2, -0.1, 0.4]]
    effects.loc[private & (effects.condition == "random"), "reduction"] = [0.0, 0.01]
    changed = type(audit.mitigation)(**{**audit.mitigation.__dict__, "effects": effects})
    lines = list(summary_lines(Audit(**{**audit.__dict__, "mitigation": changed})))
    assert lines[0].endswith(" 35 % less is extracted over all languages, 20 to 50 % less by language.")
    assert (
        lines[1] == "The 95 % interval of the reduction lies above zero in 1 of 2 languages: English (50 %, 30 to 70)."
    )
    assert lines[2].endswith("The chosen ones' interval lies above theirs in 1 of 2 languages.")
    assert any(line.startswith("Neutral text: ") for line in lines)


def test_too_few_people(model: Any, people: tuple[Record, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        run_audit(model, people[:2], AuditPlan(languages=("en", "fr")), progress=False)
    assert isinstance(build_probes(people), ProbeSet)


def test_a_plan_asks_in_its_format_with_its_wordings_and_says_so(
    model: Any, people: tuple[Record, ...], tmp_path: Path
) -> None:
    plan = AuditPlan(
        languages=("en", "fr"), locate_facts=2, locate=LocateOptions(n_neurons=3), lens_attributes=(), max_new_tokens=5,
        prompt="Q: {question} A:", wordings=[0, -1], n_samples=2, temperature=0.5, seed=3,
    )  # fmt: skip
    lines: list[str] = []
    found = run_audit(model, people, plan, say=lines.append, progress=False)
    assert lines[0] == "prompts: own (written out by the user)"
    assert "wordings: " in lines[2] and "2 answers each" in lines[2]
    for result in (found.leakage, found.wordings):
        assert result is not None and result.max_new_tokens == 5
        assert result.prompt["template"] == "Q: {question} A:"
    worded = found.wordings
    assert worded is not None and (worded.n_samples, worded.temperature, worded.provenance.seed) == (2, 0.5, 3)
    assert set(worded.probes.record) == set(found.leakage.probes.record)
    assert set(worded.probes.template) == {0, 2} and set(found.leakage.probes.template) == {2}
    assert found.mitigation.provenance.settings == {"prompt": "own", "max_new_tokens": 5}
    (tmp_path / "run").mkdir()
    publish(found, tmp_path / "run")
    again = Audit.load(tmp_path / "run" / "results").wordings
    assert again is not None
    pd.testing.assert_frame_equal(again.probes, worded.probes)
    page = write_report(tmp_path / "run", tmp_path / "run.html").read_text(encoding="utf-8")
    assert "Prompt format: own, since written out by the user. The model was given: Q: {question} A:" in page
    assert "or after 5 new tokens" in page and "at the first newline after something was written" in page
    assert "<h3>By wording</h3>" in page and "2 answers drawn per question at temperature 0.5" in page
    assert ">wording 0</th>" in page and ">wording 2</th>" in page


@pytest.mark.parametrize(("wordings", "templates"), [("all", {0, 1, 2}), ([1], {1, 2}), ([-1], {2}), (None, {2})])
def test_wordings_name_templates_of_the_measured_facts(
    people: tuple[Record, ...], wordings: Any, templates: set[int]
) -> None:
    plan = AuditPlan(languages=("en", "fr"), locate_facts=2, wordings=wordings)
    probes, measured, _ = select_probes(people, plan)
    asked = worded_probes(probes, measured, plan)
    assert {probe.template for probe in asked} == templates
    assert {probe.record.id for probe in asked} == {probe.record.id for probe in measured}
    assert plan.asks_more == (wordings is not None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wordings": "some"}, "expected null, all, or a list of template numbers"),
        ({"wordings": []}, "expected null, all, or a list of template numbers"),
        ({"wordings": [0, 0]}, "repeats an entry"),
        ({"prompt": "plane"}, "did you mean 'plain'"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"n_samples": 0}, "greater than or equal to 1"),
    ],
)
def test_a_plan_that_cannot_be_asked_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuditPlan(**given)


def test_a_wording_that_no_attribute_has_is_refused_before_a_model_is_loaded(people: tuple[Record, ...]) -> None:
    with pytest.raises(ValueError, match="template"):
        select_probes(people, AuditPlan(languages=("en", "fr"), locate_facts=2, wordings=[7]))
