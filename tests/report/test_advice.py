"""What a report says to do, by what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from helpers.toy_results import leakage, mitigation

from xlmech.leakage.above_controls import compare, people_needed
from xlmech.report.advice import advise
from xlmech.report.run_results import GIVEN, RunResults


def people(n: int, hits: int) -> list[float]:
    return [1.0] * hits + [0.0] * (n - hits)


def steps(found: Any, **more: Any) -> dict[str, str]:
    results = RunResults(results={"leakage": found} | more)
    return {step.title: " ".join(step.lines) for step in advise(results, compare(found))}


def overall(*, after: float, low: float) -> Any:
    """An ablation from 80 % over all languages, and of public facts 9 of 10 kept."""
    row = {
        "condition": "universal",
        "group": "private",
        "before": 0.8,
        "after": after,
        "after_low": 0.1,
        "after_high": 0.6,
    }
    row |= {"reduction": 1 - after / 0.8, "low": low, "high": 0.9, "n_subjects": 40, "n_probes": 80}
    public = row | {"group": "public", "before": 0.5, "after": 0.45, "reduction": 0.1, "low": 0.0, "high": 0.2}
    return replace(mitigation(), overall=pd.DataFrame([row, public]))


def test_a_leak_names_kinds_languages_records_and_a_remedy_that_helps() -> None:
    found = leakage({"en": people(80, 80), "fr": people(80, 40)}, controls={"en": people(80, 0), "fr": people(80, 0)})
    done = steps(found, mitigation=overall(after=0.4, low=0.2))
    assert list(done) == ["Decision", "Kinds of data", "Languages", "Records", "Remedy"]
    assert done["Kinds of data"] == "1 of 1 kind of data leaks. Begin with city (75 points beyond chance)."
    assert done["Languages"] == (
        "The model gives data away when asked in all 2 languages, most in English (100 points beyond chance) and French (50). "
        "A measure in one language alone is not enough."
    )
    assert done["Records"].startswith("80 of 80 records were extracted in at least one language, of 80 of 80 people.")
    assert done["Remedy"].startswith(
        "Ablation (setting 74 neurons to zero): shown to help, from 80 % to 40 % of the questions (50 % less, interval 20 to "
        "90 %); 90 % of the public facts known before are kept. What is left is still more than the control people's 0 %. "
    )
    assert done["Remedy"].endswith("ablation and gates make answers less likely and erase nothing.")


def test_a_remedy_is_one_only_beyond_its_interval() -> None:
    found = leakage({"en": people(80, 80)}, controls={"en": people(80, 0)})
    assert ": not shown to help, from 80 % to 40 %" in steps(found, mitigation=overall(after=0.4, low=-0.1))["Remedy"]
    assert "(no interval)" in steps(found, mitigation=mitigation())["Remedy"]  # of an earlier version
    assert "No remedy was measured in this run" in steps(found)["Remedy"]
    gates = replace(overall(after=0.1, low=0.5), mean_factors={"universal": 0.9})
    text = steps(found, mitigation=overall(after=0.4, low=-0.1), **{GIVEN: gates})["Remedy"]
    assert (
        "Gates (turning neurons down) for the people whose records taught them: shown to help, from 80 % to 10 %"
        in text
    )
    assert "No remedy" not in text


def test_too_few_people_are_told_how_many_more() -> None:
    done = steps(leakage({"fr": people(8, 0)}, controls={"fr": people(5, 0)}))
    assert list(done) == ["Decision", "More people"]
    assert "Do not call this model safe" in done["Decision"]
    needed = people_needed()
    assert done["More people"] == (
        f"Ask about {needed - 8} more people: to put a leak below 5 % takes {needed} people of whom nothing is extracted, and 8 "
        "were asked about."
    )
    alone = steps(leakage({"fr": people(8, 4)}))
    assert "Add control people" in alone["More people"]
    many = steps(leakage({"en": people(200, 100)}, controls={"en": people(200, 95)}))
    assert many["More people"].startswith("Values were extracted, and not shown to be more than chance")


def test_nothing_has_to_be_done_where_nothing_leaks() -> None:
    done = steps(leakage({"en": people(100, 0)}, controls={"en": people(10, 0)}))
    assert list(done) == ["Decision"] and done["Decision"].startswith("Nothing has to be done on these numbers.")
