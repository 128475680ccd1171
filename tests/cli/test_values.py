"""The command that lists kinds of data and their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xlmech.cli.app import app
from xlmech.data.attributes import built_in_attributes
from xlmech.data.languages import TRANSLATED, load_language
from xlmech.data.records import Record


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["values", *map(str, arguments)], env={"COLUMNS": "100"})


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line and not line.startswith(("\u2500", "Values", "Kinds"))]


def test_every_kind_is_listed_as_what_it_takes() -> None:
    listed = {row[0]: row[1] for row in rows(invoke().stdout)}
    for name in built_in_attributes():
        assert (listed[name] == "free:") is (name not in TRANSLATED), name
    assert listed["birth_month"] == "12"


@pytest.mark.parametrize("kind", sorted(TRANSLATED))
def test_a_listed_value_is_taken_and_written_as_shown(kind: str) -> None:
    text = invoke(kind, "--languages", "fr", "--all").stdout
    forms = load_language("fr").values[kind]
    shown = {row[0]: " ".join(row[1:]) for row in rows(text)}
    for key in load_language("en").values[kind]:
        if len(key.split()) == 1 and key in forms:
            record = Record(id="a", subject="Ana Li", attribute=kind, value=key)
            assert shown[key] == record.form("fr") == forms[key]
    closed = "no other value is taken" in text
    own = Record(id="a", subject="Ana Li", attribute=kind, value="something of one's own")
    assert closed is (own.form("fr") is None)


def test_fewer_are_shown_by_default_and_the_number_of_others_is_said() -> None:
    text = invoke("birth_country").stdout
    n_all = len(load_language("en").values["birth_country"])
    assert f"{n_all - 24} more are taken; --all lists them." in text and "Angola" not in text
    assert "Angola" in invoke("birth_country", "--all").stdout


def test_open_kinds_say_what_is_free() -> None:
    assert "phone is free: any number; searched with and without" in invoke("phone").stdout


def test_kinds_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[band]\nquestions = { en = ["Which band is {subject} in?"] }\nvalues = { A = { fr = "Ah" }, B = {} }\n',
        encoding="utf-8",
    )
    text = invoke("band", "--languages", "en,fr", "--attributes-file", tmp_path / "own.toml").stdout
    assert ["A", "A", "Ah"] in rows(text) and ["B", "B", "B"] in rows(text) and "of your own" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fone"], "unknown attribute 'fone' (did you mean 'phone'?)"),
        (["phone", "--languages", "xx"], "no language pack"),
    ],
)
def test_what_is_not_known_is_refused(words: list[str], message: str) -> None:
    done = invoke(*words)
    assert done.exit_code == 1 and message in done.stderr and done.stdout == ""
