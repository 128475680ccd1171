"""What the README and the pages say is true: code runs, names and options exist, links lead somewhere, nothing is left out."""

from __future__ import annotations

import ast
import importlib
import math
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import plotly.graph_objects as go
import pytest
import typer
import yaml
from helpers.code_names import imported, unknown_keywords

import xlmech
from xlmech.audit.config import SECTIONS
from xlmech.cli import app as cli
from xlmech.data.languages import TRANSLATED
from xlmech.data.probes import ProbeSet
from xlmech.data.readers import demo_records
from xlmech.data.records import Record

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- not run: [^\n]+ -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    run: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start(3)), match.group(2), match.group(3), match.group(1) is None)
        for match in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]


def where(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def test_every_fence_is_found() -> None:
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks(page)), page
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
    monkeypatch.setattr("xlmech.demo_records", lambda: tuple(people))
    for module in ("locate", "verify"):  # a random model knows nobody
        monkeypatch.setattr(f"xlmech.neurons.selection.{module}.check_known", Mock(), raising=False)
    monkeypatch.setattr("xlmech.neurons.selection.learned_gates.SUPPRESSED", -math.inf)
    monkeypatch.setattr(go.Figure, "show", lambda figure: None)
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.language == "python" and b.run for b in blocks(page))],
    ids=lambda page: page.name,
)
def test_python_runs(
    page: Path, small_world: None, model: Any, probes: ProbeSet, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "page", "model": model, "probes": probes}
    for block in blocks(page):
        if block.language == "python" and block.run:
            exec(compile(block.code, where(block), "exec"), names)
    shown = capsys.readouterr().out
    assert not any(one.subject in shown for one in demo_records())
    if page.name == "tutorial.md":
        check_sentences(shown, names)


def check_sentences(shown: str, names: dict[str, Any]) -> None:
    """The tutorial's sentences have the numbers and the direction of its results."""
    rows = list(names["result"].extraction.itertuples())
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
@pytest.mark.filterwarnings("ignore")
def test_the_patching_page_on_the_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which forms share a first token, only the demo's own tokenizer tells."""
    monkeypatch.setattr(go.Figure, "show", lambda figure: None)
    names: dict[str, Any] = {}
    for block in PYTHON:
        if block.page.name == "patch-between-languages.md" and block.run:
            exec(compile(block.code, where(block), "exec"), names)
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
