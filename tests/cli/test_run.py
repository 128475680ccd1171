"""`init --minimal`, `run --dry-run`, warnings at the start, and the next command at the end."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from helpers.tiny_models import tiny
from typer.testing import CliRunner

from xlmech.audit.config import read_config
from xlmech.audit.stages.forecast import forecast, product_speed
from xlmech.cli import app as cli
from xlmech.cli.console import time_text
from xlmech.data.readers import save_records
from xlmech.data.records import Record

COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def next_commands(text: str) -> list[list[str]]:
    """Commands that a command names at its end, each of which must exist with its options."""
    found = [shlex.split(line.removeprefix("next: xlmech ")) for line in text.splitlines() if line.startswith("next: ")]
    for name, *words in found:
        options = {option for one in COMMANDS[name].params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= options, (name, words)
    return found


@pytest.fixture
def folder(tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run: a tiny model, and records of two people per group."""
    more = [
        record.model_copy(update={"id": f"{record.id}-2", "subject": f"{record.subject[:3]}Lee"}) for record in records
    ]
    save_records([*records, *more], tmp_path / "records.csv")
    tiny("llama").save_pretrained(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.models.load.load_checkpoint", Mock(side_effect=AssertionError("a model was loaded")))


def test_a_minimal_config_is_what_must_be_filled_in_and_runs_as_it_is(folder: Path) -> None:
    done = invoke("init", "--minimal")
    assert done.exit_code == 0 and next_commands(done.stdout) == [["run", "xlmech.yaml", "--dry-run"]]
    text = Path("xlmech.yaml").read_text(encoding="utf-8")
    keys = [line.split(":")[0].strip() for line in text.splitlines() if not line.strip().startswith("#")]
    assert keys == ["model", "source", "data", "records"]
    minimal = read_config("xlmech.yaml")  # its examples are the fixture's files
    assert invoke("init", "whole.yaml").exit_code == 0
    whole = read_config("whole.yaml")
    assert whole.model_copy(update={"export": None}) == minimal, "all else is the default"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(folder: Path, no_model: None) -> None:
    invoke("init", "--minimal")
    files = sorted(path for path in folder.rglob("*"))
    done = invoke("run", "xlmech.yaml", "--dry-run")
    assert done.exit_code == 0, done.output
    assert sorted(path for path in folder.rglob("*")) == files
    assert "nothing was loaded or written" in done.stdout and next_commands(done.stdout) == [["run", "xlmech.yaml"]]
    stages = [
        line.split()[:2]
        for line in done.stdout.splitlines()
        if line.startswith(("leakage", "lens", "locate", "ablate"))
    ]
    # 20 languages. Of ten people half are measured, on two facts each: three private, one public and one control person.
    assert [name for name, _ in stages] == ["leakage", "lens", "locate", "ablate"]
    counts = {name: int(n) for name, n in stages}
    assert counts["leakage"] % 20 == 0 and counts["ablate"] == 2 * (counts["leakage"] - 2 * 20 * round(0.5 * 2))
    assert re.search(r"^time: \S+ s to \S+ (?:s|min|h), if nothing else", done.stdout, re.M)
    assert re.search(r"^memory: about 0.7\d GB$", done.stdout, re.M) and re.search(
        r"^disk: about 0.01\d GB$", done.stdout, re.M
    )
    assert "warning: If nothing is extracted from 3 people, the rate's 95 % interval ends at 71%" in done.stdout


def test_a_dry_run_counts_what_the_run_expects(folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.save_pretrained("my-model")
    Path("own.yaml").write_text(
        "model:\n  source: my-model\ndata:\n  records: records.csv\n  languages: [en, fr]\n  lens_attributes: []\n"
        "  prompt: plain\n  wordings: [0]\n",
        encoding="utf-8",
    )
    from xlmech.audit.preflight import prepare
    from xlmech.audit.stage_clock import StageClock

    config = read_config("own.yaml")
    found = forecast(config, prepare(config)).stages.set_index("stage").questions.to_dict()
    expected: dict[str, tuple[int, float]] = {}
    monkeypatch.setattr(StageClock, "expect", lambda _, items: expected.update(items))
    assert invoke("run", "own.yaml").exit_code == 0
    assert found.pop("wordings") == 2 * found["leakage"]
    assert found == {stage: n for stage, (n, _) in expected.items() if n}


def test_a_dry_run_refuses_what_a_run_refuses(folder: Path, no_model: None) -> None:
    invoke("init", "--minimal")
    weights = next(Path("my-model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    done = invoke("run", "xlmech.yaml", "--dry-run")
    assert done.exit_code == 1 and weights.name in done.stderr
    assert "a dry run has no summary" in invoke("run", "xlmech.yaml", "--dry-run", "--json").stderr
    Path("xlmech-run").mkdir()
    assert "exists; give a new folder" in invoke("run", "xlmech.yaml", "--dry-run").stderr


def test_a_model_elsewhere_has_no_known_size(folder: Path, no_model: None) -> None:
    Path("own.yaml").write_text("model:\n  source: nobody/nothing\ndata:\n  records: records.csv\n", encoding="utf-8")
    done = invoke("run", "own.yaml", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "of nobody/nothing, it is not on this machine; the run asks the hub for it" in done.stdout
    assert "memory: not known" in done.stdout and "time: ? to ?" in done.stdout


def test_speed_is_that_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from xlmech.models.sources.config_shape import DEMO_SHAPE

    clock = iter([0, 4, 10, 12, 20, 25, 30, 33, 40, 44])  # five products, the fastest in 2 s
    monkeypatch.setattr("xlmech.audit.stages.forecast.time.perf_counter", lambda: next(clock))
    speed = product_speed(DEMO_SHAPE, torch.device("cpu"), "float32", seconds=0.5)
    assert speed == pytest.approx(torch.get_num_threads() * 2 * 32 * 640 * 2048 / 2)
    assert [time_text(seconds) for seconds in (0.2, 89, 600, 7200, float("nan"))] == [
        "1 s",
        "89 s",
        "10 min",
        "2.0 h",
        "?",
    ]


# The start and the end of other commands


def test_commands_say_where_results_are_and_what_comes_next(
    folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmech.cli.console.load", Mock(return_value=model))
    monkeypatch.setattr("xlmech.neurons.selection.locate.check_known", Mock())
    same = ["--records", "records.csv", "--languages", "en,fr"]
    leak = invoke("leak", "demo", *same, "--out", "some leaks")
    assert leak.exit_code == 0 and "leakage in some leaks" in leak.stdout
    first, second = next_commands(leak.stdout)
    assert first == ["lens", "demo", "--out", "some leaks-lens", *same]
    assert second == ["locate", "demo", "--out", "some leaks-locate", *same]
    lens = invoke(*first)
    assert lens.exit_code == 0 and "lens in some leaks-lens" in lens.stdout
    assert next_commands(lens.stdout) == [["locate", "demo", "--out", "some leaks-lens-locate", *same]]
    locate = invoke(*second, "--n-neurons", "3")
    assert locate.exit_code == 0 and "neurons in some leaks-locate" in locate.stdout
    (ablate,) = next_commands(locate.stdout)
    assert ablate[:4] == ["ablate", "demo", "--neurons", "some leaks-locate/universal.json"]
    measured = invoke(*ablate)
    assert measured.exit_code == 0, measured.output
    assert "measurements in some leaks-locate-ablated" in measured.stdout
    assert [words[:2] for words in next_commands(measured.stdout)] == [["audit", "demo"]]


def test_an_audit_warns_first_and_ends_with_what_can_be_done(folder: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained("my-model")
    words = [
        "audit",
        "my-model",
        "--records",
        "records.csv",
        "--languages",
        "en,fr",
        "--prompt",
        "plain",
        "--out",
        "mine",
    ]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("warning: If nothing is extracted from 3 people")
    assert lines[1].startswith(
        "warning: 1 measured control person: a leak of what can be guessed (birth country) cannot be told"
    )
    assert next_commands(done.stdout) == [["gate", "mine", "--max-extraction", "0.05"]]
    assert lines[-1] == 'or in a notebook: xlmech.explore("mine")'


def test_a_checked_file_is_audited_next(folder: Path) -> None:
    done = invoke("check", "records.csv", "--languages", "en")
    assert done.exit_code == 0, done.output
    assert next_commands(done.stdout) == [
        ["audit", "MODEL", "--records", "records.csv", "--languages", "en", "--out", "runs/mine"]
    ]
