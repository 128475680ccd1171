"""The command line: help, refusals in one sentence before any model is loaded, and whole commands on a tiny model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
import typer
from helpers.tiny_models import taught
from typer.testing import CliRunner

from xlmech.cli import app as cli
from xlmech.cli import console
from xlmech.data.languages import available_languages
from xlmech.data.questions import build_probes
from xlmech.data.readers import save_records
from xlmech.data.records import Record
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.gate_losses import GatedModel
from xlmech.neurons.selection.learned_gates import learn_gates
from xlmech.options import GateOptions

COMMANDS = {
    "languages",
    "check",
    "plant",
    "leak",
    "lens",
    "locate",
    "ablate",
    "gates",
    "init",
    "run",
    "audit",
    "demo",
    "report",
    "values",
    "compare",
    "gate",
}
MODEL_COMMANDS = ("leak", "lens", "locate", "ablate", "gates", "audit")
NO_OUT = ("languages", "check", "values", "init", "run", "gate")


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refusal(*arguments: str | Path) -> str:
    """The one sentence on stderr of a command that must refuse."""
    result = invoke(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("xlmech.cli.console.load", load)
    monkeypatch.setattr("xlmech.models.load.load_model", load)
    monkeypatch.setattr("xlmech.planting.train.load_checkpoint", load)


@pytest.fixture
def files(tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records.jsonl and neurons.json, where the command runs."""
    save_records(records, tmp_path / "records.jsonl")
    NeuronSet(frozenset({(0, 1)}), 3, 64).save(tmp_path / "neurons.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(name: str, *options: str, source: str = "records.jsonl", out: str = "out") -> list[str]:
    """A command that works, up to the options."""
    extra = ["--neurons", "neurons.json"] if name == "ablate" else []
    return [name, "demo", "--records", source, "--out", out, *extra, *options]


def test_commands() -> None:
    assert set(typer.main.get_command(cli.app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help(name: str) -> None:
    result = invoke(name, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    shown = " ".join(result.stdout.split())
    help_text = typer.main.get_command(cli.app).commands[name].help  # type: ignore[attr-defined]
    assert help_text.split()[0] in shown
    assert f" {name} [OPTIONS]" in shown
    assert ("--out" in shown) is (name not in NO_OUT)


def test_no_command_shows_the_help() -> None:
    assert "Usage" in invoke("--help").stdout
    assert all(name in invoke("--help").stdout for name in COMMANDS)
    assert "Usage" in invoke().output


def test_languages() -> None:
    result = invoke("languages")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert [line.split()[0] for line in lines] == list(available_languages())
    assert lines[3] == "en  English    What is the occupation of ...?"


BAD_REQUESTS = {
    "no file": ([], "missing.csv", "no file of records at missing.csv; expected .csv, .tsv, .xlsx, .jsonl or .parquet"),
    "empty file": ([], "empty.jsonl", "empty.jsonl: no records in it"),
    "language": (["--languages", "en,xx"], "records.jsonl", "no language pack for 'xx'; there are ar, bn, de"),
    "attribute": (["--attributes", "fone"], "records.jsonl", "unknown attribute 'fone' (did you mean 'phone'?)"),
    "nobody asked": (["--attributes", "phone"], "records.jsonl", "no probes: none of the 10 records asks for phone"),
}


@pytest.mark.parametrize(
    ("name", "request_"),
    [(name, key) for name in MODEL_COMMANDS for key in BAD_REQUESTS]
    + [("plant", key) for key in list(BAD_REQUESTS)[:3]],
)
def test_refused_before_a_model_is_loaded(name: str, request_: str, files: Path, no_model: None) -> None:
    options, source, sentence = BAD_REQUESTS[request_]
    (files / "empty.jsonl").touch()
    assert sentence in refusal(*command(name, *options, source=source))
    assert not (files / "out").exists()


@pytest.mark.parametrize("name", ["leak", "lens", "locate", "ablate", "gates"])
@pytest.mark.parametrize("template", ["7", "-4"])
def test_unknown_template_is_refused_before_a_model_is_loaded(
    name: str, template: str, files: Path, no_model: None
) -> None:
    assert "template" in refusal(*command(name, "--template", template))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (command("plant", "--language", "xx"), "no language pack for 'xx'"),
        (command("plant", "--steps", "0"), "steps: input should be greater than or equal to 1, got 0"),
        (command("ablate", "--neurons", "missing.json"), "missing.json"),
        (command("ablate", "--neurons", "records.jsonl"), "records.jsonl: not a neuron set"),
        (command("leak", source="records.xlsx"), "records.xlsx"),
        (command("locate", source="strangers.jsonl"), "no private probes to locate neurons with"),
        (command("gates", source="strangers.jsonl"), "no probes to suppress"),
        (command("gates", "--steps", "0"), "steps: input should be greater than or equal to 1, got 0"),
        (command("ablate", "--neurons", "."), "no result in .: meta.json is missing"),
    ],
)
def test_other_refusals_before_a_model_is_loaded(
    arguments: list[str], sentence: str, files: Path, no_model: None, records: tuple[Record, ...]
) -> None:
    save_records([record for record in records if record.group == "control"], Path("strangers.jsonl"))
    assert sentence in refusal(*arguments)


@pytest.mark.parametrize(("option", "value"), [("--method", "guess"), ("--positions", "first"), ("--backend", "both")])
def test_choices_are_listed_by_the_parser(option: str, value: str, files: Path, no_model: None) -> None:
    result = invoke(*command("locate", option, value))
    assert result.exit_code == 2
    assert value in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["plant", *MODEL_COMMANDS])
def test_a_full_folder_is_refused_before_work_starts(name: str, files: Path, no_model: None) -> None:
    (files / "out").mkdir()
    (files / "out" / "mine.txt").write_text("keep", encoding="utf-8")
    assert "out exists and is not an empty folder" in refusal(*command(name))
    assert [(path.name, path.read_text(encoding="utf-8")) for path in (files / "out").iterdir()] == [
        ("mine.txt", "keep")
    ]


@pytest.mark.parametrize("name", ["plant", *MODEL_COMMANDS])
def test_a_place_that_cannot_be_written_is_refused_before_work_starts(
    name: str, files: Path, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "cannot be written, since {} is no folder to write to; give another"
    assert sentence.format(files / "records.jsonl") in refusal(*command(name, out="records.jsonl/deep/out"))
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert sentence.format(files) in refusal(*command(name))


@pytest.mark.parametrize(
    ("error", "sentence"), [(ImportError("install peft"), "install peft"), (OSError("disk full"), "disk full")]
)
def test_errors_are_one_sentence(error: Exception, sentence: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.cli.console.load", Mock(side_effect=error))
    assert refusal(*command("leak", "--languages", "en")) == f"Error: {sentence}\n"


def test_a_stop_is_told_apart(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.cli.console.load", Mock(side_effect=KeyboardInterrupt))
    result = invoke(*command("leak", "--languages", "en"))
    assert result.exit_code == 130
    assert result.stderr.startswith("Stopped. ")


def test_commands_on_a_tiny_model(
    files: Path, model: Any, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Mock(return_value=model)
    monkeypatch.setattr("xlmech.cli.console.load", load)
    monkeypatch.setattr("xlmech.neurons.selection.locate.check_known", Mock())  # a random model knows nobody
    only = ["--languages", "en,fr", "--attributes", "id_number"]
    leak = invoke(*command("leak", *only, "--adapter", "fr", "--backend", "bridge", out="leak"))
    assert leak.exit_code == 0, leak.output
    load.assert_called_once_with("demo", "fr", "bridge")
    found = LeakageResult.load("leak").probes
    assert set(found.probe) == {
        f"{record.id}/{code}/2" for record in records if record.attribute == "id_number" for code in ("en", "fr")
    }
    assert "extracted" in found
    assert "exposure_bits" not in found
    assert "Extraction per query language" in leak.stdout
    assert not any(record.value in leak.output or record.subject in leak.output for record in records[1::2])
    for options, said in (([], "lens on birth_country\n"), (only[2:], "lens on id_number\n")):
        lens = invoke(*command("lens", *only[:2], *options, out=f"lens-{len(options)}"))
        assert lens.exit_code == 0, lens.output
        assert said in lens.stdout and "prompts: qa (" in lens.stdout and "Layer where each form peaks" in lens.stdout
    locate = invoke(*command("locate", *only, "--n-neurons", "3", out="found"))
    assert locate.exit_code == 0, locate.output
    neurons = PrivacyNeurons.load("found")
    assert 0 < len(neurons.universal) <= 3
    assert NeuronSet.load("found/universal.json") == neurons.universal
    assert NeuronSet.load("found/specific-fr.json") == neurons.specific["fr"]
    evaluate = Mock(return_value=Mock(to_frame=lambda: found[["probe"]]))
    monkeypatch.setattr("xlmech.mitigation.evaluate.evaluate_mitigation", evaluate)
    ablate = invoke(*command("ablate", *only, "--neurons", "found/universal.json", out="ablated"))
    assert ablate.exit_code == 0, ablate.output
    assert evaluate.call_args.args[0] is model
    assert [probe.id for probe in evaluate.call_args.args[1]] == found.probe.tolist()
    assert evaluate.call_args.args[2] == {"universal": neurons.universal}
    evaluate.return_value.save.assert_called_once_with(Path("ablated"))


def test_gates_are_learned_and_then_ablated(
    files: Path, leaking: Any, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that is shown at the end works, and takes the gates that `learn_gates` learns."""
    monkeypatch.setattr("xlmech.cli.console.load", Mock(return_value=leaking))
    only = ["--languages", "en,fr", "--prompt", "plain"]
    learned = invoke(*command("gates", *only, "--steps", "3", "--adapter", "fr", out="some gates"))
    assert learned.exit_code == 0, learned.output
    gates = NeuronGates.load("some gates")
    probes = build_probes(records, ["en", "fr"], templates=[0])
    again = learn_gates(
        leaking,
        probes.filter(group="private"),
        keep=probes.filter(group="public"),
        options=GateOptions(steps=3),
        progress=False,
    )
    assert torch.equal(gates.factors, again.factors) and len(gates.history) == 3
    assert f"turned down: {gates.n_touched:,} of 192 neurons" in learned.stdout and "losses: private" in learned.stdout
    assert not any(record.value in learned.output or record.subject in learned.output for record in records[1::2])
    assert sorted(path.name for path in files.iterdir() if path.is_dir()) == ["some gates"]
    (line,) = [line for line in learned.stdout.splitlines() if line.startswith("next: xlmech ")]
    words = shlex.split(line.removeprefix("next: xlmech "))
    assert words == [
        *("ablate", "demo", "--neurons", "some gates", "--out", "some gates-measured", "--records", "records.jsonl"),
        *("--languages", "en,fr", "--prompt", "plain", "--adapter", "fr"),
    ]
    measured = invoke(*words)
    assert measured.exit_code == 0, measured.output
    found = MitigationResult.load("some gates-measured")
    assert list(found.sizes) == ["some gates", "permuted"] and found.sizes["some gates"] == gates.n_touched


def test_gates_go_on_after_a_stop(files: Path, leaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmech.cli.console.load", Mock(return_value=leaking))
    arguments = command("gates", "--languages", "en", "--prompt", "plain", "--steps", "3")
    run, n_runs = GatedModel.losses, 0

    def interrupted(*given: Any) -> Any:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 2:
            raise KeyboardInterrupt
        return run(*given)

    monkeypatch.setattr(GatedModel, "losses", interrupted)
    assert invoke(*arguments).exit_code == 130
    assert (files / "out.training").is_dir() and not (files / "out").exists()
    assert invoke(*arguments).exit_code == 0
    assert n_runs == 4 and not (files / "out.training").exists()


def test_init_writes_a_config_that_run_reads(files: Path, no_model: None) -> None:
    result = invoke("init")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "config in xlmech.yaml: fill in model.source and data.records\nnext: xlmech run xlmech.yaml --dry-run\n"
    )
    text = Path("xlmech.yaml").read_text(encoding="utf-8")
    assert "xlmech.yaml exists; give another path, or move it away" in refusal("init")
    assert Path("xlmech.yaml").read_text(encoding="utf-8") == text
    assert "line 33: data.records: no file of records at " in refusal("run", "xlmech.yaml")
    Path("xlmech.yaml").write_text(
        text.replace("records.csv", "records.jsonl").replace("null", "[en]", 4), encoding="utf-8"
    )
    assert "model.tokenizer: expected text" in refusal("run", "xlmech.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "own.yaml: empty; write a config with every key with: xlmech init"),
        (
            "model: demo\n",
            "own.yaml, line 1: model: expected keys such as 'source' below it, got text; line 1: data: missing",
        ),
        ("model: [\n", "own.yaml, line 2: not valid YAML"),
    ],
)
def test_run_refuses_a_bad_config(text: str, sentence: str, files: Path, no_model: None) -> None:
    Path("own.yaml").write_text(text, encoding="utf-8")
    for json_option in ([], ["--json"]):
        assert sentence in refusal("run", "own.yaml", *json_option)
    assert "no config file at gone.yaml; write one with: xlmech init gone.yaml" in refusal("run", "gone.yaml")


def test_run_shows_the_traceback_only_when_asked(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.yaml").write_text("model:\n  source: demo\ndata:\n  records: records.jsonl\n", encoding="utf-8")
    monkeypatch.setattr("xlmech.audit.run.run_config", Mock(side_effect=RuntimeError("not the measured model")))
    assert refusal("run", "own.yaml", "--json") == "Error: not the measured model\n"
    result = invoke("run", "own.yaml", "--debug")
    assert result.exit_code == 1 and isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_debugged(name: str) -> None:
    shown = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert [option for one in shown.params for option in one.opts].count("--debug") == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("out of memory:\n  try a\n smaller model"), "Error: out of memory: try a smaller model\n"),
        (OSError(), "Error: OSError\n"),
        (
            KeyError("layer"),
            "Error: KeyError: 'layer'. This should not happen; run the command again with --debug, and",
        ),
    ],
)
def test_errors_are_one_sentence_unless_debugged(
    error: Exception, sentence: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmech.cli.console.load", Mock(side_effect=error))
    assert refusal(*command("leak", "--languages", "en")).startswith(sentence)
    assert invoke(*command("leak", "--languages", "en", "--debug")).exception is error


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    result = invoke("--show-completion")
    assert result.exit_code == 0, result.output
    assert "_XLMECH_COMPLETE" in result.stdout or "complete" in result.stdout


def test_completion_knows_commands_options_and_choices() -> None:
    def complete(line: str) -> list[str]:
        environment = {
            "_XLMECH_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
        result = CliRunner().invoke(cli.app, [], env=environment, prog_name="xlmech")
        return sorted(word.split(",")[-1] for word in result.stdout.split())

    assert complete("xlmech l") == ["languages", "leak", "lens", "locate"]
    assert {"--records", "--debug", "--out"} <= set(complete("xlmech leak --"))
    assert complete("xlmech leak --backend h") == ["hooked"]


def test_a_table_of_an_audit_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "query_language": "en",
        "before": 1.0,
        "control": 0.0,
        "after": 0.5,
        "reduction": 0.5,
        "low": -0.1,
        "high": 0.2,
    }
    row |= {"random": 0.0, "public_kept": float("nan"), "nll_rise": -0.02}
    console.show("Title", pd.DataFrame([row]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["language", *list(row)[1:8], "kept", "rise"]
    assert lines[-1].split() == ["en", "1.00", "0.00", "0.50", "0.50", "-0.10", "0.20", "0.00", "-", "-0.02"]


def test_json_is_alone_on_stdout(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.yaml").write_text("model:\n  source: demo\ndata:\n  records: records.jsonl\n", encoding="utf-8")

    def run(config: Any, *, resume: bool, say: Any, show: Any, progress: bool) -> Any:  # noqa: ARG001
        say("a stage")
        assert not (progress or resume)
        return Mock(summary=lambda: {"notes": ["é"]})

    monkeypatch.setattr("xlmech.audit.run.run_config", run)
    result = invoke("run", "own.yaml", "--json")
    assert json.loads(result.stdout) == {"notes": ["é"]}
    assert result.stderr == "a stage\n"


COMMANDS_IN_A_ROW = """
import json, sys
from xlmech.cli.app import app
for arguments in json.loads(sys.argv[1]):
    if app(arguments, standalone_mode=False):
        sys.exit(f"{arguments} failed")
"""


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, records: tuple[Record, ...]) -> Path:
    """A folder with a model that knows the private and public records by heart, the records, and a config for `run`."""
    folder = tmp_path_factory.mktemp("bars")
    more = [
        record.model_copy(update={"id": f"{record.id}-2", "subject": f"{record.subject[:3]}Lee"}) for record in records
    ]
    people = [record for record in (*records, *more) if record.attribute == "id_number"]
    save_records(people, folder / "records.jsonl")
    known = build_probes([one for one in people if one.group != "control"], ["en", "fr"], templates=[0])
    taught(tokenizer, known, steps=100).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    data = "data:\n  records: records.jsonl\n  languages: [en, fr]\n  prompt: plain\n"
    export = "export:\n  folder: mitigated\n  without_effect: true\n"
    (folder / "own.yaml").write_text(f"model:\n  source: model\n{data}{export}", encoding="utf-8")
    return folder


def environment() -> dict[str, str]:
    """This process' own, without what hides progress bars."""
    return {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}


def test_no_progress_bars_in_a_log(own_model: Path) -> None:
    """What the commands write to a pipe is lines: no bar of ours, of transformers' or of a status line."""
    asked = ["model", "--records", "records.jsonl", "--languages", "en,fr", "--prompt", "plain"]
    commands = [[name, *asked, "--out", f"{name}-out"] for name in ("leak", "locate", "audit")] + [["run", "own.yaml"]]
    found = subprocess.run(
        [sys.executable, "-c", COMMANDS_IN_A_ROW, json.dumps(commands)], capture_output=True, text=True, env=environment(),
        cwd=own_model,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert all((own_model / name).is_dir() for name in ("leak-out", "locate-out", "audit-out", "xlmech-run"))
    for text in (found.stdout, found.stderr):
        assert not set(text) & {"\r", "\x1b", "\u2588"} and "%|" not in text
    assert found.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix")
def test_progress_bars_on_a_terminal(own_model: Path) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    arguments = ["leak", "model", "--records", "records.jsonl", "--languages", "en", "--out", "watched"]
    code = "import sys; from xlmech.cli.app import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(
        command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment(), cwd=own_model
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert "extraction: " in shown.decode() and "Loading weights: 100%|" in shown.decode()


def test_a_command_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    seen: list[str | None] = []
    app = typer.Typer(add_completion=False)
    app.command(cls=console.Command)(lambda: seen.append(os.environ.get("TQDM_DISABLE")))
    CliRunner().invoke(app, [])
    assert seen == ["1"] and "TQDM_DISABLE" not in os.environ
    monkeypatch.setenv("TQDM_DISABLE", "0")
    CliRunner().invoke(app, [])
    assert seen[1:] == ["0"]


def test_check_says_in_one_column_who_can_be_asked_in_which_language(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "id,subject,attribute,value,question_pl\na,Jo,phone,0171 5550100,\nb,Jo,pesel,85030712345,PESEL: {subject}?\n",
        encoding="utf-8",
    )
    lines = [line.split() for line in invoke("check", tmp_path / "a.csv").stdout.splitlines()]
    assert ["private", "phone", "1", "all", str(len(available_languages()))] in lines
    assert ["private", "pesel", "1", "pl"] in lines
