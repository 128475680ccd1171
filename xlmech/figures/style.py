"""What all figures share: template, colours, a language's name, place and colour, numbers in words, and the frame.

Colours are after Okabe and Ito's and Tol's, which colour-blind readers can tell apart; a language keeps its own.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
import zlib
from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

INK, GREY, GRID = "#222222", "#8C8C8C", "#E2E2E2"
SCALE = ("#F7FBFF", "#C6DBEF", "#6BAED6", "#2171B5", "#08306B")
LANGUAGES = {
    "en": ("English", "#0072B2"), "zh": ("Chinese", "#D55E00"), "es": ("Spanish", "#E69F00"),
    "fr": ("French", "#56B4E9"), "de": ("German", "#332288"), "ja": ("Japanese", "#CC79A7"),
    "ar": ("Arabic", "#009E73"), "ru": ("Russian", "#D9C400"), "hi": ("Hindi", "#882255"),
    "sw": ("Swahili", "#7F7A1F"),
}  # fmt: skip
OTHERS = ("#DDCC77", "#CC6677", "#88CCEE")
SETS = (INK, "#117733", "#AA4499", "#44AA99", "#661100")
CAPTION_WIDTH = 132
"""Characters a line; at 12 px they fit a plot 800 px wide."""
_AXIS = {"gridcolor": GRID, "ticks": "outside", "tickcolor": GRID, "zeroline": False, "title_standoff": 8}
_FONT = "Noto Sans, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
# Plotly's own button that uploads a chart, and with it the data, to its cloud is on by default since plotly.js 4.
_BUTTONS = ("sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d")
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 12, "color": INK},
        "title": {"x": 0, "y": 1, "yanchor": "top", "pad": {"l": 16, "t": 14}, "font": {"size": 17}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": {
            "bgcolor": "white",
            "bordercolor": GREY,
            "align": "left",
            "font": {"color": INK, "family": _FONT},
        },
        "legend": {"orientation": "h", "x": 0, "yref": "container", "yanchor": "top", "traceorder": "normal"},
        "modebar": {"remove": list(_BUTTONS)},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def finish(
    figure: go.Figure, title: str, caption: str, *, height: int, foot: int = 56, legend: bool = False, head: int = 0
) -> go.Figure:
    """Title, legend and margins around a plot of the given height, and the caption below its axis.

    Args:
        figure: Drawn but for these; changed in place.
        title: Of the figure.
        caption: Plain text; its line breaks are not kept.
        height: Of the plot itself, px; 140 at least.
        foot: From the plot down to the caption, px.
        legend: Whether there is one, above the plot.
        head: From the top down to the plot, px; by default as title and a one-line legend need.
    """
    caption = " ".join(caption.split())
    lines = wrapped(caption.replace(" %", "\u00a0%"))
    head, bottom = head or (84 if legend else 54), foot + 18 * len(lines) + 8
    total = head + max(140, height) + bottom
    figure.layout.template = TEMPLATE
    figure.update_layout(title_text=title, showlegend=legend, legend_y=1 - 40 / total, height=total)
    figure.update_layout(margin={"l": 130, "r": 24, "t": head, "b": bottom}, meta={"title": title, "caption": caption})
    return figure.add_annotation(
        text="<br>".join(map(escape, lines)), name="caption", xref="paper", yref="paper", x=0, y=0, xanchor="left",
        yanchor="top", xshift=-114, yshift=-foot, align="left", showarrow=False, font={"color": "#555555"},
    )  # fmt: skip


def wrapped(text: str) -> list[str]:
    """As few lines as `CAPTION_WIDTH` allows, and these of about one length."""
    count = len(textwrap.wrap(text, CAPTION_WIDTH))
    if count < 2:
        return [text]
    tries = (textwrap.wrap(text, width) for width in range(len(text) // count, CAPTION_WIDTH + 1))
    return next(lines for lines in tries if len(lines) == count)


def language_name(code: str) -> str:
    """A language's English name and code; the code alone where the name is not known here, `unknown` for none."""
    return f"{LANGUAGES[code][0]} ({code})" if code in LANGUAGES else code or "unknown"


def label(code: str, plant: str = "") -> str:
    """A language's name made safe for a plot, where Plotly reads some HTML; the plant language's is bold."""
    return f"<b>{escape(language_name(code))}</b>" if code and code == plant else escape(language_name(code))


def ordered(codes: Iterable[str], *first: str) -> list[str]:
    """Each language once, in the same order in every figure: `first`, where they occur, then by name."""
    found = set(codes)
    return list(dict.fromkeys([*(code for code in first if code in found), *sorted(found, key=language_name)]))


def bold_note(codes: Iterable[str], plant: str) -> str:
    """The caption's sentence about the bold label, where there is one."""
    return "Bold: the plant language." if plant and plant in set(codes) else ""


def colour(code: str) -> str:
    """A language's colour, the same in every figure: its own, or, where it has none, one of three that it may share."""
    return LANGUAGES[code][1] if code in LANGUAGES else OTHERS[zlib.crc32(code.encode()) % len(OTHERS)]


def faded(colour: str, alpha: float = 0.18) -> str:
    """A colour `#rrggbb`, see-through."""
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{alpha})"


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """Rows as named tuples."""
    return list(frame.itertuples())


def percent(share: float, missing: str = "not measured") -> str:
    """A share from 0 to 1 in words."""
    return missing if math.isnan(share) else f"{100 * share:.0f} %"


def interval(low: float, high: float) -> str:
    """The interval of a share, in percent; empty where it is not known."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{100 * low:.0f}, {100 * high:.0f}]"


def reduction_text(row: Any) -> str:
    """A row's reduction with its interval, and the reason where one of them is not known."""
    text = f"{percent(row.reduction, 'undefined')} {interval(row.low, row.high)}".strip()
    return f"{text} ({row.reason})" if row.reason else f"{text}, 95 % interval"


def with_interval(value: float, low: float, high: float) -> str:
    """A number to three decimals with its interval, where there is one."""
    return f"{value:.3f}" + ("" if math.isnan(low + high) else f" [{low:.3f}, {high:.3f}], 95 % interval")


def counts(frame: pd.DataFrame) -> str:
    """How many subjects and probes each row of a frame rests on."""
    if frame.empty:
        return "no probes"
    spans = [(int(column.min()), int(column.max())) for column in (frame.n_subjects, frame.n_probes)]
    subjects, probes = (f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in spans)
    return f"{subjects} subjects and {probes} probes"


def masked(record: str) -> str:
    """A code that stands for a record's name, which may say whose it is."""
    return f"record {hashlib.blake2s(record.encode(), digest_size=3).hexdigest()}"
