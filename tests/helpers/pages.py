"""Code blocks of the documentation's pages, and what each prints: read, run, written beneath the block."""

from __future__ import annotations

import ast
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import plotly.graph_objects as go
from typer.testing import CliRunner

from xlmech.cli import app as cli

WIDTH, LINES = 110, 12
"""Of what is shown of an output, characters and lines."""
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|no output): [^\n]+ -->\n)?"
    r"```(?P<language>\w+)\n(?P<code>.*?)^```$"
    r"(?P<beneath>\n\n<!-- output -->\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
ELISION = "..."


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Where it stands.
        line: Of its first line of code.
        language: That the fence names.
        code: Its lines.
        output: What the output block directly beneath it holds, None without one.
        run: Whether tests run it; no, if it is marked `<!-- not run: REASON -->`.
        printed: Whether the tool runs it on the demo model; no, if it is marked `<!-- no output: REASON -->` either.
    """

    page: Path
    line: int
    language: str
    code: str
    output: str | None = None
    run: bool = True
    printed: bool = True


def blocks(page: Path) -> list[Block]:
    """Read the blocks of a page, each with the output beneath it."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")),
            match["language"],
            match["code"],
            output=match["output"],
            run=match["mark"] != "not run",
            printed=match["mark"] is None,
        )
        for match in BLOCK.finditer(text)
    ]


def has_output(block: Block) -> bool:
    """Whether the tool makes the block's output: of all Python that is run, and of commands that have one already."""
    return block.printed and (block.language == "python" or (block.language == "sh" and block.output is not None))


@contextmanager
def as_a_reader() -> Iterator[None]:
    """Show tables as the pages do: three digits, no wider and longer than a page; no figure opens, no warning shows."""
    options = {"width": WIDTH, "max_columns": 0, "max_rows": 9, "min_rows": 6, "precision": 3, "max_colwidth": 44}
    flat = [part for name, value in options.items() for part in (f"display.{name}", value)]
    with (
        pd.option_context(*flat),
        patch.dict(os.environ, {"COLUMNS": f"{WIDTH}"}),  # pandas asks the terminal too
        patch.object(go.Figure, "show", lambda *_, **__: None),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def run_block(block: Block, names: dict[str, Any]) -> str:
    """Run a block and return what it shows: what it prints, and its last expression as a notebook shows it.

    Args:
        block: Python, or commands of xlmech.
        names: Those of the blocks before it; changed.
    """
    return shortened(_of_commands(block.code) if block.language == "sh" else _of_python(block, names))


def _of_python(block: Block, names: dict[str, Any]) -> str:
    tree = ast.parse(block.code, filename=str(block.page))
    ast.increment_lineno(tree, block.line)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, str(block.page), "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(block.page), "eval"), names)
            if value is not None and not isinstance(value, (go.Figure, Path)):
                printed.write(f"{value!r}\n")
    return printed.getvalue()


def _of_commands(code: str) -> str:
    shown = []
    for line in code.splitlines():
        words = line.split("#")[0].split()
        if words[0] != "xlmech":
            raise ValueError(f"{line}: only commands of xlmech are run for a page")
        result = CliRunner().invoke(cli.app, words[1:], env={"COLUMNS": str(WIDTH), "TERM": "dumb"})
        if result.exception is not None:
            raise result.exception
        shown.append(result.stdout)
    return "".join(shown)


def shortened(text: str) -> str:
    """Cut a text to the lines and the width of a page; what is cut becomes `...`."""
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    lines = [line if len(line) <= WIDTH else line[: WIDTH - len(ELISION)] + ELISION for line in lines]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], ELISION]
    return "".join(f"{line}\n" for line in lines)


def with_outputs(text: str, outputs: Mapping[int, str]) -> str:
    """Put outputs beneath a page's blocks, in place of earlier ones.

    Args:
        text: The page.
        outputs: By number of the block on the page; "" takes an output away. Other blocks keep theirs.
    """
    numbers = iter(range(text.count("```")))

    def replaced(match: re.Match[str]) -> str:
        number = next(numbers)
        if number not in outputs:
            return match.group()
        code = match.group().removesuffix(match["beneath"] or "")
        output = outputs[number]
        return f"{code}\n\n<!-- output -->\n```text\n{output}```" if output else code

    return BLOCK.sub(replaced, text)
