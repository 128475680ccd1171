"""Write what the documentation's code blocks print beneath them: `python tools/print_docs.py [PAGE ...]`.

Runs the Python blocks of each page in order, as a reader would, on the demo model; without arguments all pages of `docs`, which
takes about half an hour on two free cores. Beneath a block that prints something stands a text block marked
`<!-- output -->`, cut to a few lines. Blocks marked `<!-- not run: REASON -->` or `<!-- no output: REASON -->` are left out.
Commands are run where an output block stands beneath them already. The functions are those of `tests/helpers/pages.py`, with
which tests hold pages and code together.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from helpers.pages import as_a_reader, blocks, has_output, run_block, with_outputs  # noqa: E402

import xlmech  # noqa: E402
from xlmech.data.languages import TRANSLATED  # noqa: E402
from xlmech.models import load  # noqa: E402


@contextmanager
def one_load_each() -> Iterator[None]:
    """Load each model once for all pages: every page begins with `load_model`."""
    known = functools.cache(load.load_model)
    with patch.object(xlmech, "load_model", known):
        yield


def outputs_of(page: Path) -> dict[int, str]:
    """Run a page in an empty folder: the output of each block by its number; "" where it prints nothing.

    Raises:
        ValueError: An output names a folder of this machine, or a person of the demo.
    """
    names: dict[str, Any] = {"__name__": "page"}
    shown, here = {}, Path.cwd()
    with tempfile.TemporaryDirectory() as folder, as_a_reader():
        os.chdir(folder)
        try:
            for number, block in enumerate(blocks(page)):
                if has_output(block):
                    started = time.perf_counter()
                    shown[number] = run_block(block, names)
                    check(shown[number], f"{page.name}:{block.line}")
                    print(f"  line {block.line}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        finally:
            os.chdir(here)
    return shown


def check(shown: str, where: str) -> None:
    """Refuse what must not stand on a page."""
    private = [one.subject for one in xlmech.demo_records()]
    private += [one.value for one in xlmech.demo_records() if one.attribute not in TRANSLATED]
    if any(text in shown for text in (*private, str(Path.home()), tempfile.gettempdir(), str(ROOT))):
        raise ValueError(f"{where} prints a person's data or a folder of this machine: let it print something else")


def main() -> None:
    """Write the outputs of the pages that are named, or of all."""
    pages = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "docs").rglob("*.md"))
    with one_load_each():
        for page in pages:
            if any(has_output(block) for block in blocks(page)):
                print(page.relative_to(ROOT), file=sys.stderr)
                outputs = outputs_of(page)
                page.write_text(with_outputs(page.read_text(encoding="utf-8"), outputs), encoding="utf-8")


if __name__ == "__main__":
    main()
