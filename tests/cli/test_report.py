from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xlmech.cli.app import app


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
