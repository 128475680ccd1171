"""Options that commands share: written once, refused before a model is loaded, and what they do on a tiny model folder."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from helpers.tiny_models import tiny
from typer.testing import CliRunner

from xlmech.audit.config import read_config
from xlmech.audit.plan import AuditPlan
from xlmech.cli import app as cli
from xlmech.cli.options import Answering, Prompting, with_groups, wordings_of
from xlmech.data.readers import save_records
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult
from xlmech.neurons.privacy_neurons import PrivacyNeurons

PROMPTS = {"--prompt", "--system", "--wordings"}
ANSWERS = {"--max-new-tokens", "--samples", "--temperature"}
ASKED = [
    "--prompt",
    "Q: {question} A:",
    "--wordings",
    "0,1",
    "--max-new-tokens",
    "3",
    "--samples",
    "2",
    "--temperature",
    "0.7",
]
DRAWN = "answers: 2 answers drawn per question at temperature 0.7, of 3 new tokens at most"


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def options_of(name: str) -> dict[str, str]:
    """Help of each option of a command."""
    shown = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    return {option.opts[0]: option.help for option in shown.params if option.opts[0].startswith("--")}


@pytest.fixture
def folder(tmp_path: Path, records: tuple[Record, ...], tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands run: a tiny model, records of two people per group, and a config."""
    more = [
        record.model_copy(update={"id": f"{record.id}-2", "subject": f"{record.subject[:3]}Lee"}) for record in records
    ]
    people = [record for record in (*records, *more) if record.attribute == "id_number"]
    save_records(people, tmp_path / "records.jsonl")
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "own.yaml").write_text(
        "model:\n  source: model\ndata:\n  records: records.jsonl\n  languages: [en, fr]\n  prompt: plain\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_options_everywhere_they_can_be_used() -> None:
    of_leak = options_of("leak")
    assert set(of_leak) >= PROMPTS | ANSWERS
    for name in ("audit", "run"):
        assert {option: options_of(name)[option] for option in PROMPTS | ANSWERS} == {
            option: of_leak[option] for option in PROMPTS | ANSWERS
        }
    of_locate = options_of("locate")
    assert {option: of_locate[option] for option in PROMPTS} == {option: of_leak[option] for option in PROMPTS}
    assert not ANSWERS & set(of_locate), "locating writes no answers"


def test_defaults_that_help_names_are_those_of_an_audit() -> None:
    plan, of_leak = AuditPlan(), options_of("leak")
    assert f"{plan.prompt} (the default)" in of_leak["--prompt"]
    assert f"{plan.max_new_tokens} by default" in of_leak["--max-new-tokens"]
    assert f"{plan.n_samples}, the default" in of_leak["--samples"]
    assert f"{plan.temperature:g} by default" in of_leak["--temperature"]


def test_a_command_gets_its_groups_and_typer_their_options() -> None:
    got: list[Any] = []

    def command(name: str, prompting: Prompting, n: Annotated[int, typer.Option()] = 3) -> None:
        """Say it."""
        got.append((name, prompting, n))

    flat = with_groups(command)
    assert list(inspect.signature(flat).parameters) == ["name", "prompt", "system", "n"]
    assert (flat.__name__, flat.__doc__) == ("command", "Say it.")
    flat(name="a", prompt="qa", system=None, n=4)
    assert got == [("a", Prompting(prompt="qa"), 4)]
    assert Prompting(prompt="qa").given == {"prompt": "qa"}


def test_wordings_are_all_or_numbers() -> None:
    assert wordings_of(None) == {} and wordings_of("all") == {"wordings": "all"}
    assert wordings_of("0, 2,-1") == {"wordings": [0, 2, -1]}
    for text in ("", "0,", "some", "all,0", "1.5"):
        with pytest.raises(ValueError, match="--wordings: expected all, or numbers"):
            wordings_of(text)
    assert Answering(n_samples=2, wordings="all").given == {"n_samples": 2, "wordings": "all"}


REFUSED: list[tuple[list[str], str]] = [
    (
        ["--prompt", "plane"],
        "'plane' must hold {question} exactly once, or be one of plain, qa, chat, auto (did you mean",
    ),
    (["--wordings", "some"], "--wordings: expected all, or numbers of question templates such as 0,2; got 'some'"),
    (["--wordings", "0,0"], "wordings: the list repeats an entry"),
    (["--wordings", "7"], "no question template 7"),
    (
        ["--temperature", "0.5"],
        "--temperature: only drawn answers have one; give --samples 2 or more, or leave it out",
    ),
    (["--temperature", "0", "--samples", "2"], "temperature: input should be greater than 0"),
]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (name, *case)
        for name in ("leak", "audit", "run", "locate")
        for case in REFUSED
        if name != "locate" or "--temperature" not in case[0]
    ],
)
def test_refused_before_a_model_is_loaded(
    name: str, options: list[str], sentence: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("xlmech.models.load.load_checkpoint", load)
    given = ["run", "own.yaml"] if name == "run" else [name, "model", "--records", "records.jsonl", "--out", "out"]
    result = invoke(*given, *options)
    assert result.exit_code == 1 and sentence in result.stderr and result.stderr.count("\n") == 1, result.output
    assert "Value error" not in result.stderr and not (folder / "out").exists()


def test_leak_by_several_wordings_and_samples(folder: Path) -> None:
    result = invoke("leak", "model", "--records", "records.jsonl", "--out", "out", "--languages", "en,fr", *ASKED)
    assert result.exit_code == 0, result.output
    found = LeakageResult.load("out")
    assert set(found.probes.template) == {0, 1, 2}, "the usual one and those that are named"
    assert (found.n_samples, found.temperature, found.max_new_tokens) == (2, 0.7, 3)
    assert found.prompt["template"] == "Q: {question} A:"
    assert DRAWN in result.stdout and "Extraction by any wording" in result.stdout
    table = result.stdout.partition("Extraction by each wording")[2].partition("answers:")[0]
    rows = [line.split()[:2] for line in table.splitlines() if line.strip()[:2] in ("en", "fr")]
    assert sorted(rows) == sorted([code, str(number)] for code in ("en", "fr") for number in range(3))


def test_a_typed_newline_in_a_prompt_is_one(folder: Path) -> None:
    options = ["--languages", "en", "--max-new-tokens", "2", "--prompt", r"Q: {question}\nA:"]
    assert invoke("leak", "model", "--records", "records.jsonl", "--out", "out", *options).exit_code == 0
    assert LeakageResult.load("out").prompt["template"] == "Q: {question}\nA:"
    result = invoke("leak", "model", "--records", "records.jsonl", "--out", "out2", *options[:-1], "plain")
    assert "prompts: plain (given)" in result.stdout


def test_locate_by_several_wordings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.neurons.selection.locate.check_known", lambda *_, **__: None)
    options = ["--languages", "en,fr", "--n-neurons", "3", "--wordings", "1", "--prompt", "qa"]
    result = invoke("locate", "model", "--records", "records.jsonl", "--out", "out", *options)
    assert result.exit_code == 0, result.output
    assert "prompts: qa (given)" in result.stdout
    assert PrivacyNeurons.load("out").universal


def test_run_takes_options_in_the_place_of_keys_and_keeps_them(folder: Path) -> None:
    result = invoke("run", "own.yaml", *ASKED)
    assert result.exit_code == 0, result.output
    assert DRAWN in result.stdout and "Extraction by each wording" in result.stdout
    data = read_config("xlmech-run/config.yaml").data
    assert (data.prompt, data.wordings, data.max_new_tokens) == ("Q: {question} A:", (0, 1), 3)
    assert (data.n_samples, data.temperature, data.languages) == (2, 0.7, ("en", "fr"))
    wordings = json.loads(Path("xlmech-run/summary.json").read_text(encoding="utf-8"))["wordings"]
    assert (wordings["n_samples"], wordings["temperature"], wordings["max_new_tokens"]) == (2, 0.7, 3)
    assert {row["template"] for row in wordings["each"]} == {0, 1, 2}
    written = invoke("report", "xlmech-run")
    assert written.exit_code == 0, written.output
    page = Path("xlmech-run/index.html").read_text(encoding="utf-8")
    assert "one wording of each question, beside those of the table by wording" in " ".join(page.split())
    assert "2 answers drawn per question at temperature 0.7" in page and "wording 1" in page
    again = invoke("run", "own.yaml", "--resume")
    assert again.exit_code == 1 and "prompt" in again.stderr, "without the options it is another run"


def test_audit_shows_wordings(folder: Path) -> None:
    result = invoke("audit", "model", "--records", "records.jsonl", "--languages", "en,fr", "--out", "out", *ASKED)
    assert result.exit_code == 0, result.output
    assert DRAWN in result.stdout and "Extraction by any wording" in result.stdout
    assert LeakageResult.load("out/results/wordings").n_samples == 2
