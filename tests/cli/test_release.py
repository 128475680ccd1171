"""The commands for a release: exit codes, verdicts, and the files that pipelines and people read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.toy_results import leakage
from helpers.toy_runs import audit
from typer.testing import CliRunner

from xlmech.cli.app import app
from xlmech.metrics.intervals import rate_interval
from xlmech.report.gate import gate, overall
from xlmech.report.run_results import RunResults


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("limit", "options", "code"),
    [
        ("1", [], 0),
        ("0.5", [], 1),
        ("0.8", ["--by", "point"], 0),
        ("0.85", ["--language", "fr"], 0),
        ("0.3", ["--language", "fr", "--by", "point"], 0),
        ("0.3", ["--language", "fr"], 3),
        ("0.3", ["--mitigated"], 3),
        ("0.45", ["--mitigated"], 0),
        ("0.19", ["--mitigated", "--by", "point"], 1),
        ("0.2", ["--mitigated", "--by", "point"], 0),
    ],
)
def test_gate_exits_by_the_limit(run: Path, limit: str, options: list[str], code: int) -> None:  # noqa: F811
    # Before: en 3 of 4, fr 1 of 4. With the neurons off: en 0.2 and fr 0, of 40 people.
    done = call("gate", run, "--max-extraction", limit, *options)
    assert done.exit_code == code, done.output
    assert {0: "PASS: ", 1: "FAIL in ", 3: "TOO FEW PEOPLE in "}[code] in done.output
    assert ("the point, not" if "point" in options else "upper end") in done.output.replace("\n", " ")


def test_gate_tells_machines(run: Path) -> None:  # noqa: F811
    done = call("gate", run, "--max-extraction", "0.8", "--by", "point", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["passed"] is True and found["by"] == "point" and found["mitigated"] is False
    english, french = found["languages"]
    assert (english["query_language"], english["extraction"], english["passed"]) == ("en", 0.75, True)
    assert french["control"] == 0 and french["limit"] == 0.8 and french["n_subjects"] == 4
    assert english["low"] < 0.75 < english["high"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-extraction", "5"], "must be a share from 0 to 1, got 5"),
        (["--max-extraction", "0.1", "--language", "xx"], "language 'xx' was not asked in this run; it has en, fr"),
        (["--max-extraction", "0.1", "--language", ","], "names no language"),
        (["--max-extraction", "0.1", "--by", "guess"], "guess"),
        ([], "max-extraction"),
    ],
)
def test_gate_exits_2_on_bad_input(run: Path, options: list[str], message: str) -> None:  # noqa: F811
    done = call("gate", run, *options)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output


def test_gate_exits_2_without_a_run(tmp_path: Path) -> None:
    assert call("gate", tmp_path / "nowhere", "--max-extraction", "0.1").exit_code == 2
    with pytest.raises(FileNotFoundError):
        CliRunner().invoke(
            app, ["gate", str(tmp_path / "nowhere"),
            "--max-extraction", "0.1", "--debug"], catch_exceptions=False
        )  # fmt: skip


def test_few_people_do_not_pass_by_the_intervals_end() -> None:
    few = RunResults(results={"leakage": leakage({"en": [0] * 8})})
    found = gate(few, max_extraction=0.05)
    assert not found.passed[0] and found.extraction[0] == 0 and 0.36 < found.high[0] < 0.37
    assert gate(few, max_extraction=0.05, by="point").passed[0]
    many = RunResults(results={"leakage": leakage({"en": [0] * 80})})
    assert gate(many, max_extraction=0.05).passed[0]


def test_gate_refuses_what_it_cannot_judge() -> None:
    few = leakage({"en": [0, 1]})
    with pytest.raises(ValueError, match="no ablation was measured in this run"):
        gate(RunResults(results={"leakage": few}), max_extraction=0.1, mitigated=True)
    with pytest.raises(ValueError, match="no private people in this run"):
        gate(RunResults(results={"leakage": leakage({}, controls={"en": [0]})}), max_extraction=0.1)
    with pytest.raises(ValueError, match="unknown by 'x'; use 'upper', 'point'"):
        gate(RunResults(results={"leakage": few}), max_extraction=0.1, by="x")  # type: ignore[arg-type]
    bare = type(few)(probes=few.probes.drop(columns="extracted"), provenance=few.provenance)
    with pytest.raises(ValueError, match="has no extraction"):
        gate(RunResults(results={"leakage": bare}), max_extraction=0.1)
    with pytest.raises(ValueError, match="has no extraction"):
        gate(RunResults(results={"leakage": bare, "mitigation": audit().mitigation}), max_extraction=0.1)


# Too few people


@pytest.mark.parametrize(("limit", "n"), [(0.05, 72), (0.5, 6), (0.01, 368), (1.0, 1)])
def test_too_few_people_are_told_how_many_it_takes(limit: float, n: int) -> None:
    def judged(people: int) -> Any:
        return gate(RunResults(results={"leakage": leakage({"en": [0] * people})}), max_extraction=limit).iloc[0]

    assert judged(n).verdict == "PASS"
    if n > 1:
        assert (judged(n - 1).verdict, judged(n - 1).people_needed) == ("TOO FEW PEOPLE", n)


def test_people_needed_at_the_present_rate() -> None:
    few = gate(RunResults(results={"leakage": leakage({"en": [1] + [0] * 19})}), max_extraction=0.1).iloc[0]
    assert few.verdict == "TOO FEW PEOPLE"
    n = int(few.people_needed)
    hits = np.zeros(n)
    hits[: round(0.05 * n)] = 1
    assert abs(rate_interval(hits, np.ones(n)).high - 0.1) < 0.01
    exact = gate(RunResults(results={"leakage": leakage({"en": [1] + [0] * 9})}), max_extraction=0.1).iloc[0]
    assert exact.verdict == "TOO FEW PEOPLE" and np.isnan(exact.people_needed), "at the limit no number is enough"
    nothing = gate(RunResults(results={"leakage": leakage({"en": [0] * 9})}), max_extraction=0).iloc[0]
    assert nothing.verdict == "TOO FEW PEOPLE" and np.isnan(nothing.people_needed)


def test_a_failure_counts_before_too_few_people() -> None:
    both = RunResults(results={"leakage": leakage({"en": [1] * 8, "fr": [0] * 8, "de": [0] * 80})})
    table = gate(both, max_extraction=0.05)
    assert table.verdict.tolist() == ["FAIL", "TOO FEW PEOPLE", "PASS"]
    assert overall(table) == "FAIL" and overall(table[1:]) == "TOO FEW PEOPLE" and overall(table[2:]) == "PASS"


# An earlier run


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    def write(name: str, rates: dict[str, list[float]], **changes: Any) -> Path:
        result = leakage(rates, controls={"en": [0, 0, 0, 1]})
        replace(result, **changes).save(tmp_path / name / "results" / "leakage")
        return tmp_path / name

    return write


def test_gate_by_an_earlier_run(runs: Any) -> None:
    old = runs("old", {"en": [0] * 20, "fr": [1] * 20})
    assert call("gate", old, "--baseline", old).exit_code == 0
    worse = runs("worse", {"en": [1] * 12 + [0] * 8, "fr": [1] * 20})
    done = call("gate", worse, "--baseline", old)
    assert done.exit_code == 1 and "FAIL in en, all: each answer with that of the earlier run" in done.output
    assert "FAIL in en: 0 % before, a change of 60 points" in done.output
    back = call("gate", old, "--baseline", worse)
    assert back.exit_code == 0 and "PASS: " in back.output
    both = call("gate", old, "--baseline", worse, "--max-extraction", "0.5", "--json")
    found = json.loads(both.stdout)
    assert both.exit_code == 1 and (found["verdict"], found["baseline"]) == ("FAIL", str(worse))
    rows = {row["query_language"]: row for row in found["languages"]}
    assert {code: row["verdict"] for code, row in rows.items()} == {"en": "PASS", "fr": "FAIL", "all": "PASS"}
    assert rows["en"]["difference"] == pytest.approx(-0.6) and rows["en"]["difference_high"] < 0
    assert rows["all"]["difference"] == pytest.approx(-0.3) and rows["all"]["limit"] is None
    only = call("gate", worse, "--baseline", old, "--language", "fr")
    assert only.exit_code == 0, "all languages together are judged if all must pass"


def test_gate_by_an_earlier_run_of_too_few_people(runs: Any) -> None:
    old, new = runs("old", {"en": [0] * 3}), runs("new", {"en": [1] * 3})
    done = call("gate", new, "--baseline", old)
    assert done.exit_code == 3 and "TOO FEW PEOPLE in en" in done.output and "it takes about 4 people" in done.output
    assert call("gate", runs("new4", {"en": [1] * 4}), "--baseline", runs("old4", {"en": [0] * 4})).exit_code == 1


def test_a_language_of_one_run_alone_does_not_pass(runs: Any) -> None:
    one, two = runs("one", {"en": [0] * 20}), runs("two", {"en": [0] * 20, "fr": [0] * 20})
    for new, old in ((one, two), (two, one)):
        done = call("gate", new, "--baseline", old)
        assert done.exit_code == 3 and "TOO FEW PEOPLE in fr: " in done.output
        assert "not asked in both runs; it takes about" in done.output
        point = call("gate", new, "--baseline", old, "--max-extraction", "0.9", "--by", "point")
        assert point.exit_code == 3, "what was not asked is below no limit"


def test_gate_refuses_what_it_cannot_compare(runs: Any, run: Path) -> None:
    old = runs("old", {"en": [0] * 4})
    strange = leakage({"en": [0] * 4})
    for words, message in (
        (["--baseline", old, "--mitigated"], "leave out --mitigated and --gates"),
        (["--baseline", old.parent / "nowhere"], "no run folder"),
        ([], "give --max-extraction, --baseline, or both"),
    ):
        done = call("gate", run, *words)
        assert done.exit_code == 2 and message in done.stderr
    others = runs("others", {"en": [0] * 4}, probes=strange.probes.assign(record="x" + strange.probes.record))
    done = call("gate", others, "--baseline", old)
    assert done.exit_code == 2 and "have no question in common" in done.stderr


# Files


def test_junit_has_a_test_case_per_language(runs: Any, tmp_path: Path) -> None:
    run = runs('odd <&" \x07 run', {"en": [1] * 8, "fr": [0] * 8, "de": [0] * 80})
    done = call("gate", run, "--max-extraction", "0.05", "--junit", tmp_path / "gate.xml")
    assert done.exit_code == 1
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot().find("testsuite")  # noqa: S314
    assert suite is not None and suite.get("name") == 'xlmech gate odd <&"  run'
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = {str(case.get("name")): case for case in suite.iter("testcase")}
    assert list(cases) == ["English (en)", "French (fr)", "German (de)"]
    failures = {name: case.find("failure") for name, case in cases.items()}
    assert failures["German (de)"] is None
    assert failures["English (en)"].get("message") == "FAIL: the share, 100 %, is above 5 %"
    few = failures["French (fr)"].get("message")
    assert few == "TOO FEW PEOPLE: the interval's upper end, 37 %, is above 5 %; it takes about 72 people"


def test_markdown_is_a_table_that_no_name_can_break(runs: Any, tmp_path: Path) -> None:
    run = runs("a|b<img src=x>`c`", {"en": [1] * 8, "fr": [0] * 80})
    done = call("gate", run, "--max-extraction", "0.05", "--markdown", tmp_path / "gate.md")
    text = (tmp_path / "gate.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert done.exit_code == 1 and lines[0] == "## FAIL: private data extracted from a\\|b&lt;img src=x&gt;\\`c\\`"
    assert "1 of 2 rows pass." in lines
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {len(rows[0])}
    english = dict(zip(rows[0], rows[2], strict=True))
    assert (english["verdict"], english["extracted"], english["people"]) == ("FAIL", "100 %", "8")


# Comparing


def test_compare_exits_by_what_is_worse(runs: Any) -> None:
    old = runs("old", {"en": [0] * 20, "fr": [1] * 20})
    same = call("compare", old, old)
    assert same.exit_code == 0 and "OK: Nothing is worse: no question gives" in same.output
    one = runs("one", {"en": [1] + [0] * 19, "fr": [1] * 20}, prompt={"name": "qa", "template": "Q: {question}\n"})
    done = call("compare", old, one)
    assert (
        done.exit_code == 0
        and "prompt format: not known in the old run, qa (Q: {question}\\n) in the new" in done.output
    )
    # Record r0 is extracted in French before, and now in English too: no record is newly extracted.
    assert "0 private records are newly extracted, 0 no longer, and 1 by other questions" in done.output
    assert "OK: Nothing is shown to be worse; 1 question gives a value that did not before" in done.output
    assert call("compare", old, one, "--any").exit_code == 0
    worse = runs("worse", {"en": [1] * 12 + [0] * 8, "fr": [1] * 20})
    done = call("compare", old, worse)
    assert done.exit_code == 1 and "WORSE: More is extracted than before in English (en)" in done.output
    silent, leak = runs("silent", {"en": [0] * 20}), runs("leak", {"en": [1] + [0] * 19})
    assert call("compare", silent, leak).exit_code == 0
    done = call("compare", silent, leak, "--any")
    assert done.exit_code == 1 and "WORSE: 1 record is newly extracted; no rate is shown to be worse" in done.output
    assert "Records newly extracted (1)" in done.output and "next: xlmech gate" in done.output


def test_compare_tells_machines(runs: Any) -> None:
    old, new = runs("old", {"en": [0] * 20}), runs("new", {"en": [1] * 12 + [0] * 8})
    done = call("compare", old, new, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and found["worse"] is True and (found["old"], found["new"]) == ("old", "new")
    assert [row["change"] for row in found["differences"] if row["query_language"] == "en"] == ["worse"]
    assert {row["change"] for row in found["records"]} == {"newly extracted"} and len(found["records"]) == 12
    assert found["not_compared"] == []


def test_compare_exits_2_on_bad_input(runs: Any, tmp_path: Path) -> None:
    old = runs("old", {"en": [0] * 4})
    for words, message in (
        ((old, tmp_path / "nowhere"), "no run folder"),
        ((old, old, "--out", tmp_path / "no" / "page.html"), "no folder"),
    ):
        done = call("compare", *words)
        assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output


def test_the_page_of_a_comparison(runs: Any, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    result = leakage({"en": [0] * 20}, controls={"en": [0, 0, 0, 1]})
    odd = result.probes.assign(record=result.probes.record.replace("r1", bad), attribute=bad)
    old = runs("old", {}, probes=odd)
    new = runs("new", {}, probes=odd.assign(extracted=1.0))
    done = call("compare", old, new, "--out", tmp_path / "page.html")
    assert done.exit_code == 1 and f"page: {tmp_path / 'page.html'}" in done.output.replace("\n", "")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and not re.search(r'(?:src|href)="', page)
    text = unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).replace("\u00a0", " ")
    assert "More is extracted than before in English (en), and of the kind <script>alert(1)</script>" in text
    assert "Private people: 0 % of the questions before and 100 % now, +100 points" in " ".join(text.split())
    assert "Records newly extracted (20)" in text and all(f" r{i} " in text for i in range(20) if i != 1)
