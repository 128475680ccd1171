"""A gate's decision as files that pipelines read: JUnit XML with a test per language, and Markdown for a pull request."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from xlmech.figures.wording import bounds, counted, language_name, number, percent, rows_of
from xlmech.report.gate import ALL, overall


def sentence(row: Any, *, by: str = "upper") -> str:
    """Say in one sentence why a row of `gate` has its verdict."""
    return "; ".join(_reasons(row, by))


def write_junit(table: pd.DataFrame, path: str | Path, *, run: str, by: str = "upper") -> Path:
    """Write a gate's decision as JUnit XML: one test case per language, which fails unless the language passes.

    Args:
        table: As of `gate`.
        path: File to write; an older one is replaced.
        run: Name of the run.
        by: As of `gate`.
    """
    failed = int((~table.passed).sum())
    suites = ElementTree.Element("testsuites")
    sizes = {"tests": str(len(table)), "failures": str(failed), "errors": "0", "skipped": "0", "time": "0"}
    suite = ElementTree.SubElement(suites, "testsuite", {"name": f"xlmech gate {_printable(run)}"} | sizes)
    for row in rows_of(table):
        case = ElementTree.SubElement(
            suite, "testcase", classname="xlmech.gate", name=_printable(_name(row.query_language)), time="0"
        )
        said = _printable(sentence(row, by=by))
        if row.passed:
            ElementTree.SubElement(case, "system-out").text = said
        else:
            ElementTree.SubElement(case, "failure", type=row.verdict, message=f"{row.verdict}: {said}")
    ElementTree.indent(suites)
    path = Path(path)
    path.write_bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True) + b"\n")
    return path


def write_markdown(table: pd.DataFrame, path: str | Path, *, run: str, by: str = "upper") -> Path:
    """Write a gate's decision as Markdown: the verdict, and a table with a row per language; arguments as of `write_junit`."""
    shown = decision_table(table).assign(why=[sentence(row, by=by) for row in rows_of(table)])
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in ([*shown.columns], *shown.itertuples(index=False))]
    lines.insert(1, "|---" * len(shown.columns) + "|")
    head = f"## {overall(table)}: private data extracted from {_cell(run)}"
    text = "\n".join([head, "", f"{int(table.passed.sum())} of {len(table)} rows pass.", "", *lines])
    path = Path(path)
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


def decision_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `gate` as texts, for a reader."""
    rows = []
    for row in rows_of(table):
        shown = {
            "asked in": _name(row.query_language),
            "verdict": row.verdict,
            "extracted": percent(row.extraction, "not asked"),
            "interval": bounds(row.low, row.high, "-"),
            "limit": percent(row.limit, "-"),
            "control": percent(row.control, "-"),
        }
        if "difference" in table:
            change = f"{number(row.difference)} ({bounds(row.difference_low, row.difference_high)})"
            shown |= {"before": percent(row.old, "not asked"), "points": change if row.n_compared else "-"}
        rows.append(shown | {"people": f"{row.n_subjects:,}"})
    frame = pd.DataFrame(rows)
    return frame.loc[:, [name for name in frame if name not in ("limit", "control") or (frame[name] != "-").any()]]


def _reasons(row: Any, by: str) -> Iterator[str]:
    if not math.isnan(row.limit) and row.query_language != ALL:
        what = "the interval's upper end" if by == "upper" else "the share"
        seen = row.high if by == "upper" else row.extraction
        over = "the share" if row.extraction > row.limit else what
        seen = row.extraction if row.extraction > row.limit else seen
        if math.isnan(row.extraction):
            yield "not asked in this run"
        else:
            yield f"{over}, {percent(seen)}, is {'above' if seen > row.limit else 'within'} {percent(row.limit)}"
    if "difference" in row._fields:
        if math.isnan(row.difference):
            yield "not asked in both runs"
        else:
            yield (
                f"{percent(row.old)} before, a change of {number(row.difference)} points "
                f"({bounds(row.difference_low, row.difference_high)}), {counted(row.n_compared, 'person', 'people')}"
            )
    if row.verdict == "TOO FEW PEOPLE":
        needed = f"about {row.people_needed:,.0f} people" if row.people_needed == row.people_needed else ""
        yield f"it takes {needed}" if needed else "no number of people is enough for this limit"


def _name(code: str) -> str:
    return "all languages" if code == ALL else language_name(code)


def _printable(text: str) -> str:
    """Leave out what no XML may hold: control characters."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def _cell(text: str) -> str:
    """Keep what a text holds from being read as Markdown or HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`\[\]])", r"\\\1", text)
