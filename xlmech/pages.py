"""A folder of figures with an index, which opens offline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import plotly.graph_objects as go

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}a{color:#0072B2}section{border-top:1px solid #ddd;padding:.8rem 0 0}.wide{overflow-x:auto}
section p{font-size:.85rem;margin:0 16px}iframe{width:100%;min-width:860px;border:0;display:block}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:1rem 0 2rem}
th,td{text-align:right;vertical-align:bottom;padding:.25rem .6rem;border-bottom:1px solid #ddd}
td{white-space:nowrap}th:first-child,td:first-child{text-align:left}th{font-weight:600;line-height:1.25}"""


def write_index(figures: Mapping[str, go.Figure], folder: Path, *, title: str, summary_html: str = "") -> Path:
    """Write each figure as `<name>.html`, one `plotly.min.js`, and an `index.html` that shows all; opens offline.

    No page asks the network for anything, and none has Plotly's button that uploads the data.

    Args:
        figures: Name of the file -> figure; titles and captions come from `layout.meta`.
        folder: Made if missing; every file is written under a temporary name and then renamed.
        title: Of the index, plain text.
        summary_html: Put above the figures as it is, so it must be safe HTML.

    Raises:
        ValueError: A name that cannot be a file's, or is the index's.
    """
    from plotly.offline import get_plotlyjs

    if bad := [name for name in figures if name == "index" or not re.fullmatch(r"[\w-]+", name)]:
        raise ValueError(f"figure names {bad}: use letters, digits, - and _, and not 'index'")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "plotly.min.js", get_plotlyjs())
    body = f"<h1>{escape(title)}</h1>{summary_html}"
    for name, figure in figures.items():
        meta, height = figure.layout.meta or {}, figure.layout.height or 450
        heading = escape(meta.get("title") or figure.layout.title.text or name)
        options = {"responsive": True, "displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
        plot = figure.to_html(full_html=False, include_plotlyjs="directory", div_id=name, config=options)
        _write(folder / f"{name}.html", _page(heading, plot, "body{margin:0}"))
        frame = f'<iframe src="{name}.html" title="{heading}" loading="lazy" style="height:{height}px"></iframe>'
        link = f'<p><a href="{name}.html">{heading}</a>, alone</p>'
        body += f'\n<section><div class="wide">{frame}</div>{link}</section>'
    return _write(folder / "index.html", _page(escape(title), body, _STYLE))


def _page(title: str, body: str, style: str) -> str:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head += f"<style>{style}</style>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)
