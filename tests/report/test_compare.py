"""Comparing runs: pairs, differences, records one by one, and what is said of all else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.toy_results import TOY, leakage

from xlmech.leakage.measure import LeakageResult
from xlmech.metrics.intervals import paired_difference_interval
from xlmech.report.compare import KEYS, compare_runs, n_people_to_tell
from xlmech.report.release.comparison_page import headline, summary_lines, tables


def asked(answers: dict[tuple[int, str, str], tuple[float, ...]], group: str = "private") -> LeakageResult:
    """Answers by (person, kind, language), one per wording."""
    rows = [
        {
            "probe": f"{person}{kind}{code}{number}",
            "record": f"{person}-{kind}",
            "subject": f"s{person}",
            "group": group,
        }
        | {"attribute": kind, "query_language": code, "template": number, "extracted": hit, "own_form": 0.0}
        for (person, kind, code), hits in answers.items()
        for number, hit in enumerate(hits)
    ]
    return LeakageResult(probes=pd.DataFrame(rows), provenance=TOY)


def row(frame: pd.DataFrame, **keys: str) -> Any:
    (found,) = frame[np.logical_and.reduce([frame[name] == value for name, value in keys.items()])].itertuples()
    return found


def test_differences_are_those_of_the_same_peoples_same_questions() -> None:
    people = range(10)
    before = {
        (n, kind, code): (0.0, float(n < 2)) for n in people for kind in ("city", "phone") for code in ("en", "fr")
    }
    after = {key: (float(key[2] == "fr"), 0.0) for key in before}
    found = compare_runs(asked(before), asked(after)).differences
    french = row(found, query_language="fr")
    new, lost = [2] * 10, [2, 2, *[0] * 8]  # two kinds, the first wording newly and the second no longer
    wanted = paired_difference_interval(new, lost, [4] * 10)
    assert (french.difference, french.low, french.high) == pytest.approx(tuple(wanted))
    assert (french.old, french.new, french.gained, french.lost) == (0.1, 0.5, 20, 4)
    assert (french.n_subjects, french.n_probes) == (10, 40)
    whole = row(found, group="private", query_language="", attribute="")
    assert (whole.old, whole.new, whole.n_probes) == (0.1, 0.25, 80)
    assert set(found.attribute) == {"", "city", "phone"}
    # Half of the permitted error is that of all questions, a quarter of the other half that of each language and kind.
    assert whole.confidence == 0.975 and french.confidence == pytest.approx(1 - 0.025 / 4)
    sure = paired_difference_interval(new, lost, [4] * 10, confidence=french.confidence)
    assert (french.change == "worse") is (sure.low > 0)


def test_what_is_worse_and_what_is_better() -> None:
    old = leakage({"en": [0] * 20, "fr": [1] * 20, "de": [1, 0] * 10})
    new = leakage({"en": [1] * 15 + [0] * 5, "fr": [0] * 15 + [1] * 5, "de": [0, 1] * 10})
    found = compare_runs(old, new)
    assert found.worse.query_language.tolist() == ["en"] and found.better.query_language.tolist() == ["fr"]
    assert row(found.differences, query_language="de").change == "unclear"
    assert found.is_worse() and not compare_runs(old, old).is_worse(any_record=True)
    assert compare_runs(new, old).worse.query_language.tolist() == ["fr"]
    assert headline(found) == "More is extracted than before in English (en)"
    assert "Less is extracted: French (fr)." in list(summary_lines(found))


def test_with_few_people_little_can_be_shown() -> None:
    """The numbers of docs/how-to/gate-a-release.md."""
    others = {f"l{number}": [0.0] * 8 for number in range(9)}

    def change(n: int) -> str:
        found = compare_runs(leakage({"en": [0] * 8, **others}), leakage({"en": [1] * n + [0] * (8 - n), **others}))
        return str(row(found.differences, query_language="en").change)

    assert (change(6), change(7)) == ("unclear", "worse")


@pytest.mark.parametrize("confidence", [0.95, 0.975, 0.9986])
def test_fewest_people_with_whom_a_rise_can_be_told(confidence: float) -> None:
    n = n_people_to_tell(confidence)
    # All n of n newly, none lost: both ends are Clopper and Pearson's, a power of the error left on each side.
    end = ((1 - confidence) / 2) ** (1 / n)
    assert 1 - math.sqrt(2) * (1 - end) > 0 >= 1 - math.sqrt(2) * (1 - ((1 - confidence) / 2) ** (1 / (n - 1)))
    few, enough = (compare_runs(leakage({"en": [0] * m}), leakage({"en": [1] * m})) for m in (3, 4))
    assert set(few.differences.change) == {"too few"} and set(enough.differences.change) == {"worse"}
    assert (
        "So few people that no answers could be called worse: all questions, English (en) and city."
        in summary_lines(few)
    )
    assert len(few.newly_extracted) == 3 and few.is_worse(any_record=True) and not few.is_worse()


def test_every_record_that_changed_is_listed() -> None:
    """One record comes, another goes: their mean says nothing."""
    old = {(0, "city", "en"): (0.0,), (1, "city", "en"): (1.0,), (2, "city", "en"): (1.0,), (3, "city", "en"): (1.0,)}
    old |= {(n, "city", "fr"): (hit,) for n, hit in enumerate((0.0, 0.0, 0.0, 1.0))}
    new = old | {
        (0, "city", "fr"): (1.0,),
        (1, "city", "en"): (0.0,),
        (2, "city", "fr"): (0.5,),
        (3, "city", "fr"): (0.0,),
    }
    found = compare_runs(asked(old), asked(new))
    changes = {one.record: (one.change, one.newly, one.no_longer) for one in found.records.itertuples()}
    assert changes == {
        "0-city": ("newly extracted", "fr", ""),
        "1-city": ("no longer extracted", "", "en"),
        "2-city": ("more questions", "fr", ""),
        "3-city": ("fewer questions", "", "fr"),
    }
    assert found.newly_extracted.record.tolist() == ["0-city"] and found.no_longer_extracted.record.tolist() == [
        "1-city"
    ]
    shown = tables(found)
    assert shown["Records newly extracted (1)"].iloc[0].tolist() == ["0-city", "city", "fr"]
    worded = compare_runs(asked({(0, "a", "en"): (0.0, 1.0)}), asked({(0, "a", "en"): (1.0, 0.0)})).records
    assert worded.iloc[0].tolist()[3:] == ["a", "other questions", "en (wording 0)", "en (wording 1)"]


def test_what_one_run_alone_asked_is_named_and_not_compared() -> None:
    old, new = leakage({"en": [0] * 6, "fr": [1] * 6}), leakage({"en": [0] * 5, "de": [1] * 6})
    found = compare_runs(old, new)
    assert found.differences[found.differences.attribute == ""].n_probes.tolist() == [5, 5]
    assert found.not_compared.groupby(["run", "query_language"]).size().to_dict() == {
        ("new", "de"): 6,
        ("old", "en"): 1,
        ("old", "fr"): 6,
    }
    assert found.notes == (
        "not compared, as only the old run has them: 7 questions about 6 people, asked in en, fr",
        "not compared, as only the new run has them: 6 questions about 6 people, asked in de",
    )
    assert not len(found.records)


def test_another_person_of_the_same_record_is_another_question() -> None:
    one = leakage({"en": [0] * 6})
    subject = one.probes.subject.replace("private0", "another")
    found = compare_runs(one, replace(one, probes=one.probes.assign(subject=subject, extracted=1.0)))
    assert found.differences.n_subjects.max() == 5 and len(found.not_compared) == 2
    assert set(KEYS) <= set(found.not_compared)


def test_public_facts_count_in_the_language_of_the_question() -> None:
    old, new = (asked({(n, "city", "en"): (1.0,) for n in range(5)}, "public") for _ in range(2))
    found = compare_runs(old, replace(new, probes=new.probes.assign(own_form=1.0))).differences
    assert (found.old.item(), found.new.item(), found.change.item()) == (0, 1, "")


def test_other_models_and_settings_are_said() -> None:
    old = leakage({"en": [0] * 4})
    new = replace(
        old, provenance=replace(TOY, model="other", adapter="fr"), max_new_tokens=9, plant_language="fr", n_samples=2,
        temperature=0.5, prompt={"name": "qa", "template": "Q: {question}"},
    )  # fmt: skip
    assert compare_runs(old, new).notes == (
        "model: toy in the old run, other, adapter fr in the new one",
        "prompt format: not known in the old run, qa (Q: {question}) in the new one",
        "training language: en in the old run, fr in the new one",
        "new tokens per answer: not known in the old run, 9 in the new one",
        "answers per question: 1 at temperature 0 in the old run, 2 at temperature 0.5 in the new one",
    )


def test_runs_that_cannot_be_compared_are_refused() -> None:
    one = leakage({"en": [0] * 4})
    with pytest.raises(ValueError, match="old and new have no question in common"):
        compare_runs(one, replace(one, probes=one.probes.assign(template="b")))
    with pytest.raises(ValueError, match="new: a question stands twice"):
        compare_runs(one, replace(one, probes=pd.concat([one.probes, one.probes])))
    bare = replace(one, probes=one.probes.drop(columns=["extracted", "own_form"]).assign(rank=1))
    with pytest.raises(ValueError, match="old: the leakage result has no extraction"):
        compare_runs(bare, one)
