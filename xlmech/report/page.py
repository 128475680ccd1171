"""The report of a run: one HTML file that opens offline, from a mail, and prints; what a reader should know and do comes first.

    write_report("runs/mine", "report.html")
    write_report({"leakage": leakage, "mitigation": mitigation}, "report.html")

Nothing is measured here. Records are shown by their ids, which say nothing about a person if they were chosen so; `hide_ids=True`
puts codes in their place, and `reveal=True` with `records` shows people and values beside them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from xlmech.data.attributes import unguessable
from xlmech.figures import saving
from xlmech.figures.wording import counted, joined, language_name, plain
from xlmech.report.advice import advise
from xlmech.report.method_text import how_asked, provenance_table, reproduce, wordings_table
from xlmech.report.overview import JUDGEMENTS, beyond_chance, language_table, matrix, tiles
from xlmech.report.records_table import MAX_ROWS, RecordsTable, records_table
from xlmech.report.run_results import RunResults, read_results
from xlmech.report.sections import Section, draw_sections
from xlmech.report.verdict import verdict
from xlmech.storage.result import Provenance

if TYPE_CHECKING:
    from xlmech.data.records import Record

MAX_BYTES = 8_000_000
"""Size above which a report is too large for a mail."""
PAGE = "index.html"
"""Name of the report in a run folder."""


def write_report(
    results: Any, path: str | Path, *, reveal: bool = False, records: Iterable[Record] = (), hide_ids: bool = False
) -> Path:
    """Write one self-contained HTML file: numbers, verdict, what to do, figures, all records, method, limits, versions.

    Args:
        results: A run folder; results by name (`leakage`, and if there are `lens`, `neurons`, `mitigation`, or any others that
            have a figure); or an `Audit`.
        path: File to write; an older one is replaced when the new one is complete.
        reveal: Show the people and values of `records` beside the records' ids.
        records: With `reveal`, the records.
        hide_ids: Show a code in place of each record's id, for ids that say whose they are, and link no page of a figure.

    Returns:
        The path.

    Raises:
        FileNotFoundError: No such run folder, or no folder to write to.
        ValueError: No leakage result in it, nothing to judge, a damaged or other version's result, records without reveal or
            reveal without records, or ids that are to be hidden beside names.
        OSError: The file cannot be written.
    """
    people = {record.id: record for record in records}
    if people and not reveal:
        raise ValueError("records show people and values, which needs reveal=True; leave records out otherwise")
    if reveal and not people:
        raise ValueError("reveal=True shows the people and values of records, and none are given; give records=, too")
    if reveal and hide_ids:
        raise ValueError("hide_ids=True hides what reveal=True shows; give one of them")
    path = Path(path)
    read = read_results(results)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it first")
    if reveal:
        warnings.warn(f"{path} shows personal data: whoever gets it can read them", stacklevel=2)
    table = records_table(read, hide_ids=hide_ids, people=people)
    beside = [] if hide_ids else _beside(results, path)  # pages of single figures name records by their ids
    text = _render(read, table, beside, revealed=reveal, hide_ids=hide_ids)
    if (size := len(text.encode())) > MAX_BYTES:
        warnings.warn(f"{path} has {size / 1e6:.0f} MB, which is much for a mail; report fewer results", stacklevel=2)
    return saving.write(path, text)


def _beside(results: Any, path: Path) -> list[str]:
    """Name the pages of single figures in the run folder, if the report is written into it."""
    if not isinstance(results, str | Path) or Path(results).resolve() != path.parent.resolve():
        return []
    return sorted(page.name for page in path.parent.glob("*.html") if page.name != path.name)


def title_of_run(source: Provenance) -> str:
    """Return the title of a run's pages."""
    return f"xlmech audit of {source.model}" + (f" with adapter {source.adapter}" if source.adapter else "")


def _render(results: RunResults, table: RecordsTable, beside: list[str], *, revealed: bool, hide_ids: bool) -> str:
    from plotly.offline import get_plotlyjs

    judged = verdict(results)
    sections, not_drawn = draw_sections(results, hide_ids=hide_ids)
    source, probes = results.leakage.provenance, results.leakage.probes
    private = probes[probes.group == "private"]
    languages = private.query_language.unique()
    return _template().render(
        title=title_of_run(source),
        subtitle=f"{source.time[:10]}; private people asked in {counted(len(languages), 'language', 'languages')}",
        only_language=language_name(languages[0]) if len(languages) == 1 else "",
        revealed=revealed,
        tiles=list(tiles(results, judged.found)),
        verdict=judged,
        advice=list(advise(results, judged.found)),
        matrix=matrix(results, judged.found),
        beyond_chance=beyond_chance,
        judgements=JUDGEMENTS,
        answers=[
            ("Where", judged.where),
            ("How sure", judged.certainty),
            ("What ablation reduces", judged.gains),
            ("What it costs", judged.costs),
            ("What gates do to given people", judged.gates_given),
            ("What gates do to held-out people", judged.gates_held_out),
        ],
        table=language_table(results, judged.found),
        wordings=wordings_table(results.wordings, results.leakage.plant_language),
        asked=list(how_asked(results.leakage)),
        sections=sections,
        title_of=saving.title_of,
        parts_of_caption=saving.parts_of_caption,
        language_name=language_name,
        records=table,
        n_records=counted(len(table.rows), "record", "records"),
        max_rows=MAX_ROWS,
        results=results,
        groups=[
            (
                group,
                f"{counted(part.subject.nunique(), f'{group} person', f'{group} people')} ({_questions(len(part))})",
            )
            for group, part in probes.groupby("group", sort=False)
        ],
        kinds=[plain(kind) for kind in probes.attribute.unique()],
        unguessable=joined(plain(kind) for kind in probes.attribute[unguessable(probes)].unique()),
        not_drawn=not_drawn,
        provenance=provenance_table(results),
        reproduce=list(reproduce(results)),
        beside=beside,
        style=Markup(_text("page.css")),
        script=Markup(_text("page.js")),
        plotly_js=Markup(get_plotlyjs()),
        plots=Markup(_for_script(_plots(sections))),
        data=Markup(_for_script(_table_data(table))),
        options=Markup(json.dumps(saving.OPTIONS)),
    )


def _questions(n: int) -> str:
    return counted(n, "question", "questions")


def _text(name: str) -> str:
    return resources.files("xlmech.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    options: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "finalize": _unbroken}
    return jinja2.Environment(autoescape=True, **options).from_string(_text("page.html.j2"))


def _unbroken(value: Any) -> Any:
    """Keep a number on the line of its percent sign."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) and not isinstance(value, Markup) else value


def _plots(sections: Iterable[Section]) -> dict[str, Any]:
    return {
        drawn.name: json.loads(saving.without_texts(drawn.figure).to_json())
        for section in sections
        for drawn in section.figures
    }


def _table_data(table: RecordsTable) -> dict[str, Any]:
    """Return the table of records as the page's script takes it."""
    return {
        "names": [column.name for column in table.columns],
        "numbers": [column.is_number for column in table.columns],
        "rows": table.rows,
        "kind": table.kinds[0],
        "languages": table.languages[0],
        "severity": table.severity,
        "most": MAX_ROWS,
    }


def _for_script(value: Any) -> str:
    """Return JSON for a script element, which no string in it can end."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
