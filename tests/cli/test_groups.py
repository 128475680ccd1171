"""The help: commands in groups, each with an example that works, at the width of a narrow terminal."""

from __future__ import annotations

import shlex
from importlib import metadata
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from xlmech.cli import app as cli
from xlmech.cli.groups import GROUPS, ORDER, shown

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})


def test_every_command_is_in_one_group_in_the_order_of_the_help() -> None:
    assert sorted(ORDER) == sorted(COMMANDS) and list(COMMANDS) == ORDER
    text = invoke("--help").stdout
    places = [text.index(f" {group} ") for group in GROUPS]
    assert places == sorted(places)
    for group, names in GROUPS.items():
        panel = text.partition(f" {group} ")[2].partition("\u2570")[0]
        assert [line.split()[1] for line in panel.splitlines() if line[:2] == "\u2502 " and line[2] != " "] == list(
            names
        )


@pytest.mark.parametrize("name", ORDER)
def test_a_commands_help_ends_with_examples_that_exist(name: str) -> None:
    examples = next(names[name] for names in GROUPS.values() if name in names)
    text = invoke(name, "--help").stdout
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert lines[-len(examples) - 1 :] == ["Examples:" if len(examples) > 1 else "Example:", *examples]
    assert max(map(len, text.splitlines())) <= 80
    options = {option for one in COMMANDS[name].params for option in one.opts}
    for example in examples:
        program, command, *words = shlex.split(example)
        assert (program, command) == ("xlmech", name)
        assert {word for word in words if word.startswith("--")} <= options


def test_a_command_without_a_group_cannot_be_added() -> None:
    with pytest.raises(StopIteration):
        shown("strange")


def test_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"xlmech {metadata.version('xlmech')}\n")
