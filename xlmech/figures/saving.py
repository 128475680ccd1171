"""Save figures: HTML that opens offline, and pictures if a Chromium is installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from xlmech.figures.style import TITLE_LINE
from xlmech.figures.token_views import View
from xlmech.storage.atomic import new_file

_HINT = "save as .html, which needs no browser"


def save(figure: go.Figure | View, path: str | Path, *, width: int = 900, scale: float = 2.0) -> Path:
    """Write a figure to a file: `.html` that opens offline, or `.png`, `.svg` or `.pdf`, which a Chromium draws.

    Args:
        figure: A figure, or a view (HTML only).
        path: File; an older one is replaced when the new one is complete.
        width: Of a picture, px; the height is the figure's.
        scale: Pixels of a PNG per px.

    Returns:
        The path.

    Raises:
        ValueError: Another kind of file, or a picture of a view.
        ImportError: A picture is wanted, and kaleido is not installed.
        OSError: No Chromium or Chrome to draw a picture with, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind == "html":
        if isinstance(figure, View):
            style = "body{font:14px/1.5 system-ui,sans-serif;margin:1rem}"
            return write(path, _page(escape(figure.title), figure.html, style))
        return write(path, page_of(figure, plotlyjs=True))
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"{path}: save figures as .html, .png, .svg or .pdf")
    if isinstance(figure, View):
        raise ValueError(f"{path}: a view has no picture; {_HINT}")
    size = {"width": width, "height": figure.layout.height or 450, "scale": scale if kind == "png" else 1.0}
    return write(path, _picture(figure, kind, size))


def _picture(figure: go.Figure, kind: str, size: dict[str, Any]) -> bytes:
    try:
        import kaleido
        from choreographer.errors import ChromeNotFoundError
    except ImportError as error:
        raise ImportError(f"pictures need kaleido: pip install 'xlmech[images]', or {_HINT}") from error
    try:
        # Without MathJax, which it would load from a network.
        return bytes(kaleido.calc_fig_sync(figure, opts={"format": kind} | size, kopts={"mathjax": False}))
    except ChromeNotFoundError as error:
        raise OSError(
            f"no Chromium or Chrome to draw a picture with: install one (apt install chromium), or {_HINT}"
        ) from error
    except RuntimeError as error:
        reason = str(error.args[0] if error.args else error)
        raise OSError(
            f"Chromium did not draw the picture ({reason}); start it by hand to see why, or {_HINT}"
        ) from error


OPTIONS: dict[str, Any] = {"responsive": True, "displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
"""Plotly's options for every page: figures fit its width, and nothing is offered that uploads the data."""


def write_pages(figures: Mapping[str, go.Figure], folder: Path) -> None:
    """Write each figure as `<name>.html`, and one `plotly.min.js` for all.

    The pages open offline: none asks the network for anything, or has Plotly's button that uploads the data.

    Args:
        figures: Figures by the name of their file; titles come from `layout.meta`.
        folder: Made if missing; every file is written under a temporary name and then renamed.

    Raises:
        ValueError: A name that cannot be a file's, or is the report's.
    """
    from plotly.offline import get_plotlyjs

    if bad := [name for name in figures if name == "index" or not re.fullmatch(r"[\w-]+", name)]:
        raise ValueError(f"figure names {bad}: use letters, digits, - and _, and not 'index'")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "plotly.min.js", get_plotlyjs())
    for name, figure in figures.items():
        write(folder / f"{name}.html", page_of(figure, plotlyjs="directory"))


_PAGE = """body{font:15px/1.5 system-ui,sans-serif;color:#222;margin:1rem auto;max-width:60rem;padding:0 1rem}
h1{font-size:1.2rem;font-weight:500;margin:.2rem 0 .6rem}.wide{overflow-x:auto}p,details{font-size:.85rem;color:#555}"""


def page_of(figure: go.Figure, *, plotlyjs: bool | str) -> str:
    """Write a figure as a page: title and caption as text, which wraps on a phone, details folded, and a plot that scrolls.

    Args:
        figure: What to show.
        plotlyjs: Where plotly.js is: True, in the page, or as of `Figure.to_html`.
    """
    title, caption, meta = title_of(figure), caption_of(figure), figure.layout.meta or {}
    untitled = without_texts(figure) if caption else figure
    plot = untitled.to_html(full_html=False, include_plotlyjs=plotlyjs, config=OPTIONS)
    body = f'<div class="wide"><div style="min-width:{meta.get("need", 340)}px">{plot}</div></div>'
    if caption:
        brief, details = parts_of_caption(figure)
        body = f"<h1>{escape(title)}</h1>{body}<p>{escape(brief)}</p>"
        body += f"<details><summary>How to read it</summary>{escape(details)}</details>" if details else ""
    return _page(escape(title or "figure"), body, _PAGE)


def title_of(figure: go.Figure) -> str:
    """Return a figure's title, "" without one."""
    return str((figure.layout.meta or {}).get("title") or figure.layout.title.text or "")


def caption_of(figure: go.Figure) -> str:
    """Return a figure's caption, "" without one."""
    return str((figure.layout.meta or {}).get("caption") or "")


def parts_of_caption(figure: go.Figure) -> tuple[str, str]:
    """Return what a caption says first, and the details that a page folds, which may be ""."""
    details = str((figure.layout.meta or {}).get("details") or "")
    return caption_of(figure).removesuffix(details).strip(), details


def without_texts(figure: go.Figure) -> go.Figure:
    """Copy a figure without its title and caption, for a page that shows both as text, which wraps on a phone."""
    copy = go.Figure(figure)
    captions = [note for note in copy.layout.annotations if note.name == "caption"]
    if not captions:
        return copy
    margin = copy.layout.margin
    lines = copy.layout.title.text.count("<br>") + 1 if copy.layout.title.text else 0
    top = max(16, margin.t - (34 + TITLE_LINE * (lines - 1) if lines else 0))
    foot = -captions[0].yshift
    height = copy.layout.height - margin.t - margin.b + top + foot
    copy.layout.annotations = [note for note in copy.layout.annotations if note.name != "caption"]
    copy.update_layout(title_text=None, meta=None, height=height, legend_y=1 - 4 / height)
    right = (
        margin.r if any(note.name == "line" for note in copy.layout.annotations) else 16
    )  # names of lines stand there
    return copy.update_layout(margin={"t": top, "b": foot, "l": margin.l, "r": right})


def write(path: Path, content: str | bytes) -> Path:
    """Write a whole file or none.

    Raises:
        OSError: It could not be written (names the file and the remedy); an older file is kept.
    """
    with new_file(path, remedy="make room, or give another path") as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _page(title: str, body: str, style: str) -> str:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    head += f"<style>{style}</style>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
