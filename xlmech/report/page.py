"""The report of a run: one HTML file that opens offline, from a mail, and prints; the verdict comes first.

    write_report("runs/mine", "audit.html")
    write_report({"leakage": leakage, "mitigation": mitigation}, "audit.html")

Nothing is measured here. Records are shown by a code that stands for their name; `reveal=True` shows names, and with `records`
people and values.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from xlmech.data.attributes import unguessable
from xlmech.figures import saving
from xlmech.figures.wording import bounds, counted, joined, language_name, masked, ordered, percent, plain, rows_of
from xlmech.leakage.above_controls import Excess
from xlmech.report.asking import how_asked, wordings_table
from xlmech.report.mitigation_text import deed
from xlmech.report.reproduction import provenance_table, reproduce
from xlmech.report.run_results import RunResults, chosen_effects, read_results
from xlmech.report.sections import Section, draw_sections
from xlmech.report.verdict import verdict
from xlmech.storage.result import Provenance

if TYPE_CHECKING:
    from xlmech.data.records import Record

MAX_ROWS = 200
"""Records that are listed one by one; the file must stay small."""
MAX_BYTES = 8_000_000
"""Size above which a report is too large for a mail."""
_SHOWN_LANGUAGES = 12
_JUDGEMENTS = {"leaks": "leaks", "silent": "no leak found", "unclear": "cannot tell"}


def write_report(results: Any, path: str | Path, *, reveal: bool = False, records: Iterable[Record] = ()) -> Path:
    """Write one self-contained HTML file: verdict, figures, method, limits, versions, and how to reproduce.

    Args:
        results: A run folder; results by name (`leakage`, and if there are `lens`, `neurons`, `mitigation`, or any others that
            have a figure); or an `Audit`.
        path: File to write; an older one is replaced when the new one is complete.
        reveal: Show the records' names instead of codes.
        records: With `reveal`, the records, of which people and values are shown.

    Returns:
        The path.

    Raises:
        FileNotFoundError: No such run folder, or no folder to write to.
        ValueError: No leakage result in it, nothing to judge, a damaged or other version's result, or records without reveal.
        OSError: The file cannot be written.
    """
    people = {record.id: record for record in records}
    if people and not reveal:
        raise ValueError("records show people and values, which needs reveal=True; leave records out otherwise")
    path = Path(path)
    read = read_results(results)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it first")
    if reveal:
        warnings.warn(f"{path} shows personal data: whoever gets it can read them", stacklevel=2)
    text = _render(read, people if reveal else None)
    if (size := len(text.encode())) > MAX_BYTES:
        warnings.warn(f"{path} has {size / 1e6:.0f} MB, which is much for a mail; report fewer results", stacklevel=2)
    return saving.write(path, text)


def title_of_run(source: Provenance) -> str:
    """Return the title of a run's pages."""
    return f"xlmech audit of {source.model}" + (f" with adapter {source.adapter}" if source.adapter else "")


def _render(results: RunResults, people: dict[str, Record] | None) -> str:
    from plotly.offline import get_plotlyjs

    judged = verdict(results)
    sections, not_drawn = draw_sections(results)
    source, probes = results.leakage.provenance, results.leakage.probes
    private = probes[probes.group == "private"]
    languages = private.query_language.unique()
    return _template().render(
        title=title_of_run(source),
        subtitle=f"{source.time[:10]}; private people asked in {counted(len(languages), 'language', 'languages')}",
        only_language=language_name(languages[0]) if len(languages) == 1 else "",
        revealed=people is not None,
        people=bool(people),
        verdict=judged,
        answers=[
            ("Where", judged.where),
            ("How sure", judged.certainty),
            ("What ablation reduces", judged.gains),
            ("What it costs", judged.costs),
            ("What gates do to given people", judged.gates_given),
            ("What gates do to held-out people", judged.gates_held_out),
        ],
        table=_language_table(results, judged.languages),
        wordings=wordings_table(results.wordings, results.leakage.plant_language),
        asked=list(how_asked(results.leakage)),
        sections=sections,
        title_of=saving.title_of,
        caption_of=saving.caption_of,
        language_name=language_name,
        records=_record_table(private, people),
        results=results,
        groups=[(group, part.subject.nunique(), len(part)) for group, part in probes.groupby("group", sort=False)],
        kinds=[plain(kind) for kind in probes.attribute.unique()],
        unguessable=joined(plain(kind) for kind in probes.attribute[unguessable(probes)].unique()),
        not_drawn=not_drawn,
        provenance=provenance_table(results),
        reproduce=list(reproduce(results)),
        plotly_js=Markup(get_plotlyjs()),
        plots=Markup(_plots_json(sections)),
        options=Markup(json.dumps(saving.OPTIONS)),
    )


@cache
def _template() -> jinja2.Template:
    text = resources.files("xlmech.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    options: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "finalize": _unbroken}
    return jinja2.Environment(autoescape=True, **options).from_string(text)


def _unbroken(value: Any) -> Any:
    """Keep a number on the line of its percent sign."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) and not isinstance(value, Markup) else value


def _plots_json(sections: Iterable[Section]) -> str:
    """Return the figures for a script element, which no string in them can end."""
    plots = {
        drawn.name: json.loads(saving.without_texts(drawn.figure).to_json())
        for section in sections
        for drawn in section.figures
    }
    text = json.dumps(plots, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _language_table(results: RunResults, languages: Mapping[str, Excess]) -> dict[str, Any]:
    """What was extracted per query language, beyond chance, and with the neurons ablated."""
    mitigation = results.mitigation
    order = ordered(languages, results.leakage.plant_language)
    columns = ["asked in", "extracted", "interval", "control people", "beyond chance", "interval", "judged"]
    rows = []
    for code in order:
        each = languages[code]
        row = [language_name(code), percent(each.private[0]), bounds(*each.private[1:])]
        row.append(percent(each.control[0]) if each.n_controls else "not asked")
        known = not math.isnan(each.excess[0])
        row += [percent(each.excess[0]).removesuffix(" %"), bounds(*each.excess[1:])] if known else ["not known", ""]
        rows.append([*row, _JUDGEMENTS[each.judgement]])
    if mitigation is None or not mitigation.chosen:
        return {"columns": columns, "rows": rows, "ablated": ""}
    name, private = chosen_effects(mitigation, "private")
    after = {row.query_language: row for row in rows_of(private)}
    public = chosen_effects(mitigation, "public")[1].set_index("query_language").reduction
    rise = mitigation.cost[mitigation.cost.condition == name].set_index("query_language").rise
    for code, row in zip(order, rows, strict=True):
        effect = after.get(code)
        row += ["not measured", ""] if effect is None else [percent(effect.after), _reduction(effect)]
        row += [percent(1 - public.get(code, math.nan)), percent(rise.get(code, math.nan))]
    columns += ["after", "reduction", "public facts kept", "rise of NLL"]
    return {
        "columns": columns,
        "rows": rows,
        "ablated": f"{mitigation.sizes[name]:,} neurons ({name}) {deed(mitigation, name)}",
    }


def _reduction(row: Any) -> str:
    return f"{percent(row.reduction, 'undefined')} ({row.reason or bounds(row.low, row.high)})"


def _record_table(private: pd.DataFrame, people: dict[str, Record] | None) -> dict[str, Any]:
    """In how many languages each record was extracted, most first; its name is a code unless people may be shown."""
    by_record = private[private.extracted > 0].groupby("record", sort=False)
    n_asked = private.groupby("record").query_language.nunique()
    counts = by_record.query_language.nunique().sort_values(ascending=False, kind="stable")
    note = f"{len(counts):,} of {private.record.nunique():,} private records were extracted in at least one language."
    if len(counts) > MAX_ROWS:
        note += f" The {MAX_ROWS} extracted in most languages are listed; the others are in the run's leakage result."
    attributes = dict(zip(private.record, private.attribute, strict=True))
    columns, rows = ["record", "kind of data", "extracted in", "languages"], []
    if people:
        columns[1:1] = ["person", "value"]
    for record, n_languages in zip(counts.index[:MAX_ROWS].astype(str), counts, strict=False):
        codes = sorted(set(by_record.get_group(record).query_language))
        more = f" and {len(codes) - _SHOWN_LANGUAGES} more" if len(codes) > _SHOWN_LANGUAGES else ""
        row = [record if people is not None else masked(record), plain(attributes[record])]
        if people:
            person = people.get(record)
            row[1:1] = [person.subject, person.value] if person else ["not among the records given", ""]
        rows.append([*row, f"{n_languages} of {n_asked[record]}", ", ".join(codes[:_SHOWN_LANGUAGES]) + more])
    return {"columns": columns, "rows": rows, "note": note}
