"""The config file: what `init` writes is the defaults, what is read can be run again, and every fault names its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from xlmech.audit.config import SECTIONS, Config, DataSection, ExportSection, ModelSection, read_config, write_template
from xlmech.audit.plan import AuditPlan
from xlmech.models.load import BackendName
from xlmech.options import GateOptions, LocateOptions, Method, MitigateOptions, Positions

LEAST = "model:\n  source: demo\ndata:\n  records: records.csv\n"  # lines 1 to 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "records.csv").touch()
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "xlmech.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def chosen(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"model": {"source"}, "data": {"records"}})


def test_the_template_is_every_key_and_its_default(folder: Path) -> None:
    path = write_template(folder / "new" / "xlmech.yaml")
    text = path.read_text(encoding="utf-8")
    assert "mitigate" not in YAML(typ="safe").load(text)  # it takes long, so it is a comment until it is wanted
    text = re.sub(r"^#(mitigate:|  )", r"\1", text, flags=re.MULTILINE)
    content = YAML(typ="safe").load(text)
    for name, section in SECTIONS.items():
        found = content[name] if name else content
        assert list(found) == list(section.model_fields), name
    assert text.count("# ") > sum(len(section.model_fields) for section in SECTIONS.values())
    (folder / "new" / "records.csv").touch()
    filled = read_config(path)
    assert filled.mitigate is None
    path.write_text(text, encoding="utf-8")
    assert read_config(path).mitigate == MitigateOptions()
    path.unlink()
    write_template(path)
    least = read_config(written(folder, LEAST + "export:\n  neurons: universal\n"))
    assert chosen(filled) == chosen(least)
    assert (filled.export, filled.locate) == (ExportSection(), LocateOptions())
    assert filled.model.source == "my-model"
    with pytest.raises(FileExistsError, match="xlmech.yaml exists; give another path, or move it away"):
        write_template(path)


def test_the_defaults_and_choices_are_those_of_the_library(folder: Path) -> None:
    config = read_config(written(folder, LEAST))
    given = config.data.model_dump() | {"locate": config.locate, "seed": config.seed, "mitigate": config.mitigate}
    shared = {name: field.default for name, field in AuditPlan.model_fields.items()}
    assert set(shared) >= {"languages", "held_out", "locate", "seed"}
    assert {name: given[name] for name in shared} == shared
    for section, key, choices in (
        (LocateOptions, "method", Method),
        (LocateOptions, "positions", Positions),
        (ModelSection, "backend", BackendName),
    ):
        assert set(get_args(section.model_fields[key].annotation)) == set(get_args(choices))
    assert config.export is None and config.checkpoint_folder is None
    assert MitigateOptions().gate_options(seed=0) == GateOptions()
    assert MitigateOptions(steps=3, suppress=("phone",)).gate_options(seed=5) == GateOptions(steps=3, seed=5)


def test_paths_are_relative_to_the_file_and_a_saved_copy_runs_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    for name in ("model", "adapter"):
        (folder / name).mkdir()
    (folder / "model" / "config.json").touch()
    text = (
        "model:\n  source: model\n  adapter: ./adapter\n  tokenizer: gpt2\ndata:\n  records: records.csv\n"
        "locate:\nout: run\nexport:\n  folder: ../mitigated\nmitigate:\n  suppress: [phone]\nxlmech: 0.0.1\n"
    )
    config = read_config(written(folder, text))
    assert (config.model.source, config.model.adapter) == (str(folder / "model"), str(folder / "adapter"))
    assert config.model.tokenizer == "gpt2"
    assert config.data.records == str(folder / "records.csv")
    assert config.run_folder == folder / "run"
    assert config.checkpoint_folder == folder.parent / "mitigated"
    (folder / "run").mkdir()
    config.save(folder / "run" / "config.yaml")
    again = read_config(folder / "run" / "config.yaml")
    assert again.model_dump(exclude={"xlmech"}) == config.model_dump(exclude={"xlmech"})
    assert (config.xlmech, again.xlmech) == (
        "0.0.1",
        Config.model_fields["xlmech"].get_default(call_default_factory=True),
    )
    assert again.run_folder == folder / "run" / "run"
    plain = read_config(written(folder, LEAST))
    plain.save(folder / "plain.yaml")
    assert read_config(folder / "plain.yaml").export is None and read_config(folder / "plain.yaml").mitigate is None
    assert again.mitigate == MitigateOptions(suppress=("phone",))


def test_from_python_paths_are_relative_to_where_it_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    config = Config(model=ModelSection(source="demo"), data=DataSection(records="records.csv"), out="run")
    assert config.data.records == str(folder / "records.csv")
    assert config.run_folder == folder / "run"


FAULTS = {
    "unknown key": (
        "locate:\n  metod: exact\n",
        r"line 6: locate: unknown key \(did you mean 'method'\?\); known: method, positions, metric, baseline, ",
    ),
    "key of another section": (
        "n_neurons: 3\n",
        r"line 5: unknown key \(it belongs in the section 'locate'\); known: model, data",
    ),
    "key of no section": (
        "  out: run\n",
        r"line 5: data: unknown key \(it belongs in no section\); known: records",
    ),
    "strange key": ("whatever: 3\n", "line 5: unknown key; known: model"),
    "number as key": ("1: 2\n", "line 5: keys should be strings, got a number"),
    "choice": (
        "locate:\n  n_neurons: 3\n  method: exakt\n",
        r"line 7: locate.method: not one of the choices \(did you mean 'exact'\?\): gradient_x_activation, ",
    ),
    "range": ("  held_out: 1.5\n", "line 5: data.held_out: input should be less than 1, got a number"),
    "not a number": (
        "locate:\n  contrast: .nan\n",
        "line 6: locate.contrast: input should be a finite number, got a number",
    ),
    "truth for a number": ("seed: yes\n", "line 5: seed: input should be a valid integer, got true or false"),
    "language": ("  languages: [en, xx]\n", "line 5: data.languages: no language pack for 'xx'; there are ar, bn, de"),
    "no list": ("  languages: en\n", r"line 5: data.languages: expected a list such as \[a, b\], got text"),
    "Norway": (
        "  languages:\n    - en\n    - no\n",
        "line 7: data.languages.1: expected text, got true or false .*; put it in quotes",
    ),
    "twice in a list": ("  languages: [en, en]\n", "line 5: data.languages: the list repeats an entry"),
    "empty list": ("  attributes: []\n", "line 5: data.attributes: tuple should have at least 1 item"),
    "attribute": (
        "  attributes: [fone]\n",
        r"line 5: data.attributes: unknown attribute 'fone' \(did you mean 'phone'\?\)",
    ),
    "lens attribute": ("  lens_attributes: [fone]\n", "line 5: data.lens_attributes: unknown attribute 'fone'"),
    "empty export": ("export:\n", "line 5: export: the section is empty; give it a key, e.g. folder, or remove it"),
    "empty mitigate": (
        "mitigate:\n",
        "line 5: mitigate: the section is empty; give it a key, e.g. steps, or remove it to learn no gates",
    ),
    "gates without mitigate": (
        "export:\n  neurons: gates\n",
        "line 5: export: neurons: gates needs the section 'mitigate', which learns them",
    ),
    "no list of kinds": ("mitigate:\n  suppress: phone\n", "line 6: mitigate.suppress: expected a list such as"),
    "no kinds": ("mitigate:\n  suppress: []\n", "line 6: mitigate.suppress: tuple should have at least 1 item"),
    "steps": (
        "mitigate:\n  steps: 0\n",
        "line 6: mitigate.steps: input should be greater than or equal to 1, got a number",
    ),
    "seed of gates": ("mitigate:\n  seed: 3\n", "line 6: mitigate: unknown key .it belongs in no section."),
    "section is a word": ("locate: exact\n", "line 5: locate: expected keys such as 'method' below it, got text"),
    "twice": (
        "seed: 1\nseed: 2\n",
        "line 6: a key of this section is given twice; keep one",
    ),
    "twice in a section": ("  seed: 1\n  seed: 2\n", "line 6: a key of this section is given twice"),
    "indentation": ("  languages: [en\nseed: 3\n", "line 6: not valid YAML; check indentation"),
    "tag": ("seed: !!python/name:os.system\n", "line 5: not valid YAML; check"),
    "two faults": (
        "seed: a\nout: 3\n",
        "line 5: seed: .* got text; line 6: out: expected text, got a number; put it in quotes",
    ),
    "alias": ("seed: &a 1\nlens: *a\n", r"line 6: an alias \(\*\), which a config cannot have"),
    "brackets": (f"seed: {'[' * 5000}\n", "line 5: nested deeper than a config can be"),
    "many faults": ("".join(f"key{i}: 1\n" for i in range(9)), "; and 5 more$"),
    "long value": (f"seed: {'a' * 100}\n", "got text$"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_line_key_and_value(name: str, folder: Path) -> None:
    text, message = FAULTS[name]
    with pytest.raises(ValueError, match=message) as caught:
        read_config(written(folder, LEAST + text))
    assert str(caught.value).startswith("xlmech.yaml, line ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "xlmech.yaml: empty; write a config with every key with: xlmech init"),
        ("# only a comment\n", "xlmech.yaml: empty"),
        ("- a\n- b\n", r"xlmech.yaml, line 1: expected sections such as 'model:' and 'data:', got a list"),
        ("model:\n  source: demo\n", "line 1: data: missing; it has no default, and needs 'records'"),
        ("seed: 1\nmodel:\ndata:\n  records: records.csv\n", "line 2: model.source: missing; it has no default$"),
        (
            "model:\n  source: demo\ndata:\n  records: gone.csv\n",
            "line 4: data.records: no file of records at /.*/gone.csv",
        ),
        (
            LEAST.replace("demo", "./gone"),
            "line 2: model.source: nothing is at /.*/gone; give a folder or .gguf file that",
        ),
        (LEAST.replace("demo", "gone.gguf"), "line 2: model.source: nothing is at /.*/gone.gguf"),
        (LEAST.replace("demo", "a/b/c"), "line 2: model.source: nothing is at /.*/a/b/c"),
        (LEAST.replace("demo", "."), "line 2: model.source: .* holds no config.json; give a folder as save_pretrained"),
        (LEAST.replace("demo", "demo\n  tokenizer: ./gone"), "line 3: model.tokenizer: nothing is at /.*/gone"),
        (
            LEAST.replace("demo", "demo\n  plant_language: xx"),
            "line 3: model.plant_language: no language pack for 'xx'",
        ),
    ],
)
def test_a_config_that_cannot_be_used(text: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(written(folder, text))


@pytest.mark.parametrize(
    "text",
    [
        "id,subject,value\nr1,CANARY,+1 555\n",
        "subject: CANARY\nvalue: CANARY\n",
        "CANARY: {CANARY: CANARY}\nCANARY: 1\n",
        '{"subject": "CANARY"}\n{"subject": "CANARY"}\n',
        "model: CANARY\ndata: [CANARY]\nlocate: {method: CANARY, CANARY: 1, positions: [CANARY]}\n",
        "model: {source: demo}\ndata: {records: people.csv}\nseed: CANARY\nCANARY\n",
        "- CANARY\n- {CANARY: *CANARY}\n",
        "x" * 200_000 + "CANARY",
    ],
)
def test_nothing_of_another_file_is_quoted(text: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"xlmech\.yaml") as caught:
        read_config(written(folder, text))
    assert "CANARY" not in str(caught.value) and len(str(caught.value)) < 1200


def test_a_file_that_is_not_there_or_not_text(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="no config file at .*gone.yaml; write one with: xlmech init .*gone.yaml"
    ):
        read_config(folder / "gone.yaml")
    (folder / "latin.yaml").write_bytes(b"model: \xe9\n")
    with pytest.raises(ValueError, match=r"latin.yaml: not UTF-8 \(byte 7\); save it as UTF-8"):
        read_config(folder / "latin.yaml")
    (folder / "bell.yaml").write_bytes(b"model: \x07\n")
    with pytest.raises(ValueError, match=r"bell.yaml: not valid YAML; check"):
        read_config(folder / "bell.yaml")
