"""Figures as files: HTML that opens offline, and pictures where a Chromium is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from xlmech.figures import html as pages
from xlmech.figures.token_views import View

_PICTURES = ("png", "svg", "pdf")
_HINT = "save as .html, which needs no browser"


def save(figure: go.Figure | View, path: str | Path, *, width: int = 900, scale: float = 2.0) -> Path:
    """Write a figure to a file: `.html` that opens offline, or `.png`, `.svg` or `.pdf`, which a Chromium draws.

    Args:
        figure: A figure, or a view (HTML only).
        path: File; one that is there is replaced when the new one is whole.
        width: Of a picture, px; the height is the figure's.
        scale: Pixels of a PNG per px.

    Returns:
        The path.

    Raises:
        ValueError: Another kind of file, or a picture of a view.
        ImportError: kaleido is not installed, and a picture is wanted.
        OSError: No Chromium or Chrome to draw a picture with, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind == "html":
        text = pages.html_page(figure.title, figure.html) if isinstance(figure, View) else pages.figure_page(figure)
        return pages.write(path, text)
    if kind not in _PICTURES:
        raise ValueError(f"{path}: save figures as .html, .png, .svg or .pdf")
    if isinstance(figure, View):
        raise ValueError(f"{path}: a view has no picture; {_HINT}")
    size = {"width": width, "height": figure.layout.height or 450, "scale": scale if kind == "png" else 1.0}
    return pages.write(path, _picture(figure, kind, size))


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
