"""Prose states no result: what a number is and which way it went, the code beside it says, each time it is run.

Held to it are the notebooks' text and the tutorial. A number or a direction may stand in them where the code cells beside it, or
what these show, have it too; questions and what a cited paper reports are no claims of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "analyses").glob("*.ipynb"))
TUTORIAL = ROOT / "docs" / "tutorial.md"

NUMBERS = re.compile(
    r"\d[\d.,]*\s?(?:%|per\s?cent)|\b0\.\d+|\b\d[\d,]* of (?:\d[\d,]*|them)\b|\b\d[\d.,]* times\b|\bone neuron of [\d,]+",
    re.I,
)
DIRECTIONS = re.compile(
    r"""\b(?:fall|drop|sink|rise|increase|decrease|shrink|grow|improve|worsen|halve|double)s?\b
    |\b(?:fell|rose|fallen|risen|halved|doubled|increased|decreased|dropped)\b
    |\b(?:next\sto\snothing|do(?:es)?\snothing|as\smuch\sless|nearly\sas\slikely|stays\slost|seldom|does\sworse|do\sworse|hardly)\b
    """,
    re.I | re.X,
)
KNOWN = re.compile(r"95 %")
"""The level of every interval."""
CITED = re.compile(r"arXiv|et al\.")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sentences(text: str) -> list[str]:
    """Of prose, without code, links and tables of words."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+", " ", text)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    parts = re.split(r"(?<=[.?!:;])(?<!al\.)\s+|\n\s*\n|\n(?=[#*-])", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def claims(text: str) -> list[str]:
    """Numbers and directions that a text states."""
    found = []
    for sentence in sentences(text):
        if sentence.endswith("?") or CITED.search(sentence):
            continue
        found += [match.group() for match in (*NUMBERS.finditer(sentence), *DIRECTIONS.finditer(sentence))]
    return [claim for claim in found if not KNOWN.fullmatch(claim)]


def stands_in(claim: str, shown: str) -> bool:
    """Whether code or output has the number (a share also as a decimal) or the word."""
    spellings = [claim]
    if "%" in claim:
        share = float(claim.rstrip("% ").replace(",", ""))
        spellings = [f"{share:g}%", f"{share:g} %", f"{share / 100:g}", f"{share / 100:.2f}"]
    return any(re.search(rf"(?<![\w.]){re.escape(one)}(?!\w)", shown, re.I) for one in spellings)


def shown_by(cell: Any) -> str:
    """A code cell's source and the text it shows."""
    texts = [cell.source]
    for output in cell.get("outputs", ()):
        texts += [output.get("text", ""), str(output.get("data", {}).get("text/plain", ""))]
    return "\n".join(texts)


def notebook_prose(path: Path) -> Iterator[tuple[str, str]]:
    """Each text, and what the code cells around it show, as far as the next text."""
    cells = nbformat.read(path, as_version=4).cells
    for number, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        beside = []
        for around in (reversed(cells[:number]), cells[number + 1 :]):
            for other in around:
                if other.cell_type == "markdown":
                    break
                beside.append(shown_by(other))
        yield cell.source, "\n".join(beside)


def page_prose(path: Path) -> Iterator[tuple[str, str]]:
    """Each stretch of text, and the blocks of code before and after it, each with its output."""
    text = path.read_text(encoding="utf-8").replace("```\n\n<!-- output -->\n```text\n", "")
    pieces = FENCE.split(text)  # text, language, code, text, ...
    for number in range(0, len(pieces), 3):
        before = pieces[number - 1] if number else ""
        after = pieces[number + 2] if number + 2 < len(pieces) else ""
        yield pieces[number], f"{before}\n{after}"


def unsupported(prose: Iterator[tuple[str, str]]) -> list[str]:
    return [claim for text, shown in prose for claim in claims(text) if not stands_in(claim, shown)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_text_states_no_result_of_its_own(path: Path) -> None:
    assert unsupported(notebook_prose(path)) == [], "let the code beside it print this, or ask it as a question"


def test_the_tutorials_text_states_no_result_of_its_own() -> None:
    assert unsupported(page_prose(TUTORIAL)) == [], "let the code beside it print this, or ask it as a question"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("French falls by 37 %.", ["37 %", "falls"]),
        ("Private and public answers of new people fall together.", ["fall"]),
        ("One neuron of 36,864 seldom changes an answer.", ["One neuron of 36,864", "seldom"]),
        ("Random neurons do next to nothing:", ["next to nothing"]),
        ("The rate was 0.62 and doubled.", ["0.62", "doubled"]),
        ("184 of 36,864 is half a percent.", ["184 of 36,864"]),
        ("Does French fall by 37 %?", []),
        ("Dong et al. 2025 report 23.3 to 31.6 % less leakage.", []),
        ("Bands are 95 % intervals; set `spare=0.05`.", []),
        ("It takes Python 3.11 and two minutes.", []),
    ],
)
def test_claims_are_found(text: str, found: list[str]) -> None:
    assert claims(text) == found


def test_what_the_code_beside_shows_may_be_said() -> None:
    shown = "falls: en 1.00 to 0.63\nfr 37%"
    assert all(stands_in(claim, shown) for claim in ("falls", "37 %", "63 %"))
    assert not any(stands_in(claim, shown) for claim in ("rises", "38 %", "3 %", "fall"))
