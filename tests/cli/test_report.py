from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.toy_results import leakage
from helpers.toy_runs import audit
from typer.testing import CliRunner

from xlmech.cli.app import app
from xlmech.report.gate import gate
from xlmech.report.run_results import RunResults


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_report_writes_into_the_run_folder_or_where_it_is_told(run: Path, tmp_path: Path) -> None:  # noqa: F811
    done = call("report", run)
    assert done.exit_code == 0 and f"report: {run / 'index.html'}" in done.output.replace("\n", "")
    assert (run / "index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert call("report", run, "--out", tmp_path / "sent.html").exit_code == 0
    assert (tmp_path / "sent.html").is_file()
    assert call("report", run).exit_code == 0  # once more, over the first


def test_report_reveals_with_a_warning_only(run: Path, tmp_path: Path) -> None:  # noqa: F811
    people = tmp_path / "people.csv"
    people.write_text("id,subject,attribute,value\nr0,Ana Li,phone,+1 555 0100\n", encoding="utf-8")
    refused = call("report", run, "--records", people)
    assert refused.exit_code == 1 and "needs --reveal" in refused.output
    assert "Ana Li" not in (run / "index.html").read_text(encoding="utf-8")
    done = call("report", run, "--reveal", "--records", people)
    assert done.exit_code == 0 and "Warning: " in done.stderr and "shows personal data" in done.stderr
    assert "Ana Li" in (run / "index.html").read_text(encoding="utf-8")


def test_report_hides_ids_where_it_is_asked_to(run: Path, tmp_path: Path) -> None:  # noqa: F811
    for options, shown in (([], True), (["--hide-ids"], False)):
        assert call("report", run, *options).exit_code == 0
        page = (run / "index.html").read_text(encoding="utf-8")
        assert ('["r0","city",' in page) is shown and ('<td dir="auto">r0</td>' in page) is shown
    refused = call("report", run, "--reveal")
    assert refused.exit_code == 1 and "--records, and none are given" in refused.stderr
    people = tmp_path / "people.csv"
    people.write_text("id,subject,attribute,value\nr0,Ana Li,phone,+1 555 0100\n", encoding="utf-8")
    both = call("report", run, "--reveal", "--records", people, "--hide-ids")
    assert both.exit_code == 1 and "--hide-ids hides what --reveal shows" in both.stderr


def test_report_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    done = call("report", tmp_path / "nowhere")
    assert done.exit_code == 1 and done.stderr.startswith("Error: no run folder") and "Traceback" not in done.output
    with pytest.raises(FileNotFoundError):
        CliRunner().invoke(app, ["report", str(tmp_path / "nowhere"), "--debug"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("limit", "options", "code"),
    [
        ("1", [], 0),
        ("0.5", [], 1),
        ("0.8", ["--by", "point"], 0),
        ("0.85", ["--language", "fr"], 0),
        ("0.3", ["--language", "fr", "--by", "point"], 0),
        ("0.3", ["--language", "fr"], 1),
        ("0.3", ["--mitigated"], 1),
        ("0.45", ["--mitigated"], 0),
        ("0.19", ["--mitigated", "--by", "point"], 1),
        ("0.2", ["--mitigated", "--by", "point"], 0),
    ],
)
def test_gate_exits_by_the_limit(run: Path, limit: str, options: list[str], code: int) -> None:  # noqa: F811
    # Before: en 3 of 4, fr 1 of 4. With the neurons off: en 0.2 and fr 0, of 40 people.
    done = call("gate", run, "--max-extraction", limit, *options)
    assert done.exit_code == code, done.output
    assert ("PASS" if code == 0 else "FAIL in") in done.output
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
