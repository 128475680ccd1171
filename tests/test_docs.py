"""What the README and the pages say is true: code runs, names and options exist, links lead somewhere, nothing is left out."""

from __future__ import annotations

import ast
import importlib
import itertools
import math
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import typer
import yaml
from helpers.code_names import imported, unknown_keywords
from helpers.pages import LINES, WIDTH, Block, as_a_reader, blocks, has_output, run_block, shortened, with_outputs

import xlmech
from xlmech.audit.config import SECTIONS
from xlmech.cli import app as cli
from xlmech.data.languages import TRANSLATED
from xlmech.data.probes import ProbeSet
from xlmech.data.readers import demo_records
from xlmech.data.records import Record
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.storage.result import Provenance

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]


def where(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def test_every_fence_is_found() -> None:
    for page in PAGES:
        found = blocks(page)
        n_outputs = sum(block.output is not None for block in found)
        text = page.read_text(encoding="utf-8")
        assert text.count("\n```") == 2 * (len(found) + n_outputs), page
        assert text.count("<!-- output -->") == n_outputs, f"{page}: an output stands directly beneath its block"
    assert len(PYTHON) > 30
    assert len(SHELL) > 10


# Names and keyword arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_and_keywords_exist(page: Path) -> None:
    known: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            tree = ast.parse(block.code, filename=where(block))
            known |= dict(imported(tree))
            assert list(unknown_keywords(tree, known)) == [], where(block)


# Running


def person(number: int, record: Record) -> Record:
    """The record, with forms whose first letters (tokens of a tiny model) tell people and languages apart.

    As on the demo, English and French have one word for the first person's values (Portugal).
    """
    if record.attribute not in TRANSLATED:
        return record
    places = {"en": 0, "fr": 0 if number == 0 else 1, "es": 2}
    forms = {code: f"{chr(48 + 3 * number + place)}{chr(97 + place)}" for code, place in places.items()}
    return record.model_copy(update={"forms": forms})


def gates_of(model: Any) -> Any:
    """What reads gates for the tiny model in the place of those that come with the demo's."""
    shape = model.cfg.n_layers, model.cfg.d_mlp
    return lambda adapter: NeuronGates(factors=torch.full(shape, 0.5), provenance=Provenance(model="", adapter=adapter))


@pytest.fixture
def small_world(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model and a few people in the place of the demo's; no browser opens."""
    people = [
        person(number, one)
        for number, group in enumerate(("private",) * 4 + ("public",) * 4 + ("control",) * 2)
        for one in demo_records()
        if one.id.startswith(f"{group}-{number % 4:02d}-")
    ]
    monkeypatch.setattr("xlmech.data.readers.demo_records", lambda: tuple(people))

    def load(source: str, *, adapter: str = "en") -> Any:
        monkeypatch.setattr(model, "xlmech_source", replace(model.xlmech_source, plant_language=adapter))
        return model

    monkeypatch.setattr("xlmech.models.load.load_model", load)
    monkeypatch.setattr("xlmech.load_model", load)
    monkeypatch.setattr(NeuronGates, "shipped", gates_of(model))
    monkeypatch.setattr("xlmech.demo_records", lambda: tuple(people))
    for module in ("locate", "verify"):  # a random model knows nobody
        monkeypatch.setattr(f"xlmech.neurons.selection.{module}.check_known", Mock(), raising=False)
    monkeypatch.setattr("xlmech.neurons.selection.learned_gates.SUPPRESSED", -math.inf)
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.language == "python" and b.run for b in blocks(page))],
    ids=lambda page: page.name,
)
def test_python_runs(page: Path, small_world: None, model: Any, probes: ProbeSet) -> None:
    """Blocks run, and beneath each stands what it prints, as far as that does not depend on the model."""
    names: dict[str, Any] = {"__name__": "page", "model": model, "probes": probes}
    shown = []
    with as_a_reader():
        for block in blocks(page):
            if block.language == "python" and block.run:
                shown.append(run_block(block, names))
                if page.name != "README.md":
                    check_output(block, shown[-1])
    text = "".join(shown)
    assert not any(one.subject in text for one in demo_records())
    if page.name == "tutorial.md":
        check_sentences(text, names)


def check_output(block: Block, small: str) -> None:
    """The page's output is there if and only if the block prints, and begins as what the block prints in the small world."""
    remedy = f"{where(block)}: run python tools/print_docs.py {block.page.relative_to(ROOT)}"
    assert (block.output is not None) == (block.printed and bool(small)), remedy
    if block.output is not None:
        assert all(one == other for one, other in zip(heading(block.output), heading(small), strict=False)), (
            f"{remedy}\n{block.output}\n{small}"
        )


def heading(output: str) -> list[str]:
    """What no model decides of a first line: a table's columns as far as they are shown, or the name of a class."""
    line = output.splitlines()[0]
    if line.startswith(" "):
        return list(itertools.takewhile(lambda word: word != "...", line.split()))
    return re.findall(r"^[A-Z]\w+", line)


def test_outputs_are_short_and_hold_nobodys_data() -> None:
    found = [block for block in BLOCKS if block.output is not None]
    assert len(found) > 20
    for block in found:
        assert block.output == shortened(block.output), where(block)
        for record in demo_records():
            assert record.subject not in block.output, where(block)
            assert record.attribute in TRANSLATED or record.value not in block.output, where(block)
        assert not re.search(r"/(home|root|work|tmp|Users)/|\d\d:\d\d", block.output), where(block)


@pytest.mark.parametrize("block", [block for block in SHELL if block.output is not None], ids=where)
def test_commands_print_what_stands_beneath(block: Block) -> None:
    assert block.output == run_block(block, {}), f"run python tools/print_docs.py {block.page.relative_to(ROOT)}"


def test_an_output_is_cut_to_the_page() -> None:
    lines = shortened("\n".join(["x" * 300, *"abcdefghijklmn"]) + "\n\n").splitlines()
    assert len(lines) == LINES and lines[-1] == "..."
    assert len(lines[0]) == WIDTH and lines[0].endswith("x...")
    assert shortened("a  \n  b\n\n") == "a\n  b\n"
    assert shortened("\n") == ""


def test_a_block_shows_what_it_prints_and_its_last_expression(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(first="", second=""))
    first, second, third = blocks(page)
    assert [has_output(block) for block in (first, second, third)] == [True, True, False]
    names: dict[str, Any] = {}
    assert [run_block(first, names), run_block(second, names)] == ["1\n'2'\n", ""]


def test_an_output_is_put_beneath_its_block_and_taken_away() -> None:
    one, two = ("\n\n<!-- output -->\n```text\n" + output + "```" for output in ("1\n", "2\n3\n"))
    bare = PAGE.format(first="", second="")
    assert with_outputs(bare, {0: "1\n"}) == PAGE.format(first=one, second="")
    assert with_outputs(PAGE.format(first=one, second=one), {0: "2\n3\n"}) == PAGE.format(first=two, second=one)
    assert with_outputs(PAGE.format(first=one, second=one), {0: "", 1: ""}) == bare


PAGE = """Text.

```python
print(1)
x = 2
str(x)
```{first}

More.

```python
y = x
```{second}

<!-- not run: it never ends -->
```python
while True:
    pass
```
"""


def check_sentences(shown: str, names: dict[str, Any]) -> None:
    """The tutorial's sentences have the numbers and the direction of its results."""
    rows = list(names["result"].extraction.query("group != 'control'").itertuples())
    for row in rows:
        (line,) = re.findall(
            rf"^{row.condition} neurons ablated, {row.group} .* in {row.query_language}: (.*)$", shown, re.M
        )
        way = {-1: "fewer", 0: "as many", 1: "more"}[(row.after > row.before) - (row.after < row.before)]
        assert line == f"{way} facts, {row.before:.0%} before and {row.after:.0%} after"
    (line,) = re.findall(r"^asked in fr: (.*)$", shown, re.M)
    found = [
        names[name].matrix().set_index("query_language").value.fr for name in ("before", "without_first", "without_all")
    ]
    assert line == "{:.0%} of the facts, {:.0%} without the first neuron, {:.0%} without all".format(*found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patch-between-languages.md", "read-results.md"])
def test_pages_show_what_the_demo_model_prints(
    name: str, demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmech.load_model", lambda source: demo)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with as_a_reader():
        for block in PYTHON:
            if block.page.name == name and has_output(block):
                assert run_block(block, names) == (block.output or ""), where(block)
    if "sweep" in names:  # which forms share a first token, only the demo's own tokenizer tells
        assert names["pairs"][0].id == names["sweep"].effects.pair[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_readmes_example_on_the_demo_model(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    code, shown = (block.code for block in blocks(ROOT / "README.md") if block.language in ("python", "text"))
    exec(code, names)
    assert capsys.readouterr().out == shown
    before, after = (names[name].matrix().set_index("query_language").value for name in ("before", "after"))
    assert (before > 0.5).all()
    assert (after < before).all()


# The command line and config files


def commands() -> Iterator[tuple[Block, list[str]]]:
    for block in SHELL:
        for line in block.code.splitlines():
            for part in re.split(r"\s&&\s", line.split("#")[0]):
                if (words := shlex.split(part)) and words[0] == "xlmech":
                    yield block, words[1:]


def test_commands_and_options_exist() -> None:
    found = list(commands())
    assert len(found) > 10
    for block, words in found:
        if "|" in words:
            assert set(words) - {"|", "MODEL", "..."} <= set(COMMANDS), where(block)
            continue
        command = COMMANDS.get(words[0])
        assert command is not None, f"{where(block)}: no command {words[0]}"
        options = {option for one in command.params for option in one.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= options, f"{where(block)}: {words}"


def test_make_targets_exist() -> None:
    rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        used = set(
            re.findall(
                r"\bmake ([a-z][\w-]*)[`\n ]",
                "\n".join(re.findall(r"`make [^`]+`|^make .*$", page.read_text(encoding="utf-8"), re.MULTILINE)) + "\n",
            )
        )
        assert used <= rules, page


def test_config_keys_exist() -> None:
    found = [block for block in BLOCKS if block.language == "yaml" and block.run]
    assert found
    for block in found:
        for section, content in yaml.safe_load(block.code).items():
            assert section in SECTIONS[""].model_fields, f"{where(block)}: {section}"
            if isinstance(content, dict):
                assert set(content) <= set(SECTIONS[section].model_fields), f"{where(block)}: {section}"


# The pages


def documented_paths() -> set[str]:
    """Dotted path under which every public name is documented: from the top, or from its package."""
    packages = {where: importlib.import_module(f"xlmech.{where}").__all__ for where in (*xlmech._WHERE, "figures")}
    others = {
        f"xlmech.{where}.{name}" for where, names in packages.items() for name in set(names) - set(xlmech.__all__)
    }
    return {f"xlmech.{name}" for name in xlmech.__all__} | others


def test_api_pages_hold_every_public_name() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    listed = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(set(listed)), "a name stands on two pages"
    missing = documented_paths() - set(listed)
    assert not missing, f"add '::: PATH' to a page in docs/api for {sorted(missing)}"
    assert set(listed) <= documented_paths()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_paths_and_modules_exist(page: Path) -> None:
    """Files and modules that a page names in backticks or in a command, each of which a move or a renaming may have lost."""
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.-])(?:xlmech|analyses|tests|docs|figures)/[\w/.-]*\w", text):
        generated = path.startswith("figures/demo/")
        assert generated or (ROOT / path).exists(), path
    for dotted in re.findall(r"`(xlmech\.(?!yaml)\w+(?:\.\w+)*)`", text):
        pkgutil.resolve_name(dotted)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "architecture.md"], ids=lambda page: page.name)
def test_every_package_is_on_the_map(page: Path) -> None:
    packages = {folder.name for folder in (ROOT / "xlmech").iterdir() if (folder / "__init__.py").is_file()}
    assert packages <= set(re.findall(r"`xlmech[./](\w+)", page.read_text(encoding="utf-8")))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_pages_ask_the_network_for_nothing() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert settings["theme"]["font"] is False
    assert settings["strict"] is True
    assert not {"repo_url", "extra_javascript"} & set(settings)


@pytest.mark.slow
def test_pages_build_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    pages = "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))
    assert not re.findall(r'(?:src|<link[^>]+href)="(?:https?:)?//[^"]+', pages)
    for path in documented_paths() - {"xlmech.figures"}:
        assert f'id="{path}"' in pages, path


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
