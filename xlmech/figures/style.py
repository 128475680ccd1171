"""What all figures share: template, colours and the frame around a plot.

Colours are after Okabe and Ito's and Tol's, which colour-blind readers can distinguish; a language keeps its own.
"""

from __future__ import annotations

import textwrap
import zlib
from functools import partial
from html import escape

import plotly.graph_objects as go

INK, GREY, GRID = "#222222", "#8C8C8C", "#E2E2E2"
BLUE, ORANGE = "#0072B2", "#D55E00"
SCALE = ("#F7FBFF", "#C6DBEF", "#6BAED6", "#2171B5", "#08306B")
DIVERGING = ((0, ORANGE), (0.5, "#FFFFFF"), (1, BLUE))
LANGUAGES = {
    "en": ("English", BLUE), "zh": ("Chinese", ORANGE), "es": ("Spanish", "#E69F00"),
    "fr": ("French", "#56B4E9"), "de": ("German", "#332288"), "ja": ("Japanese", "#CC79A7"),
    "ar": ("Arabic", "#009E73"), "ru": ("Russian", "#D9C400"), "hi": ("Hindi", "#882255"),
    "sw": ("Swahili", "#7F7A1F"),
}  # fmt: skip
OTHERS = ("#DDCC77", "#CC6677", "#88CCEE")
SETS = (INK, "#117733", "#AA4499", "#44AA99", "#661100")
CAPTION_WIDTH = 132
"""Characters a line; at 12 px they fit a plot 800 px wide."""
TITLE_WIDTH = 84
"""The same of the title, at 17 px."""
TITLE_LINE = 22
"""Height of a further line of the title, px."""
_AXIS = {"gridcolor": GRID, "ticks": "outside", "tickcolor": GRID, "zeroline": False, "title_standoff": 8}
FONT = "Noto Sans, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
# Plotly's own button that uploads a chart, and with it the data, to its cloud is on by default since plotly.js 4.
_BUTTONS = ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"x": 0, "y": 1, "yanchor": "top", "pad": {"l": 16, "t": 14}, "font": {"size": 17}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": {
            "bgcolor": "white",
            "bordercolor": GREY,
            "align": "left",
            "font": {"color": INK, "family": FONT},
        },
        "legend": {"orientation": "h", "x": 0, "yref": "container", "yanchor": "top", "traceorder": "normal"},
        "modebar": {"remove": _BUTTONS},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def finish(
    figure: go.Figure,
    title: str,
    caption: str,
    *,
    height: int,
    details: str = "",
    foot: int = 56,
    legend: bool = False,
    head: int = 0,
    left: int = 130,
    right: int = 24,
    need: int = 340,
) -> go.Figure:
    """Add title, legend and margins to a plot of the given height, and the caption below its axis.

    `layout.meta` holds `title`, `caption` (with the details), `details` and `need`, for pages that write these themselves.

    Args:
        figure: Drawn plot; changed in place.
        title: Title of the figure: what is found, plain text.
        caption: What to see, then on how many and with which interval; plain text, whose line breaks are not kept.
        height: Of the plot itself, px; 140 at least.
        details: How to read the rest; it comes last in the caption, and a page may fold it.
        foot: From the plot down to the caption, px.
        legend: Whether to show a legend above the plot.
        head: From the top down to the plot below a title of one line, px; by default what a one-line legend needs.
        left: Left margin, px.
        right: Right margin, px.
        need: Least width at which no labels overlap, px.
    """
    title, caption, details = (" ".join(text.split()) for text in (title, caption, details))
    whole = f"{caption} {details}".strip()
    lines, headline = wrapped(whole.replace(" %", "\u00a0%")), wrapped(title.replace(" %", "\u00a0%"), TITLE_WIDTH)
    more = TITLE_LINE * (len(headline) - 1)
    top, bottom = (head or (84 if legend else 54)) + more, foot + 18 * len(lines) + 8
    total = top + max(140, height) + bottom
    figure.layout.template = TEMPLATE
    figure.update_layout(title_text="<br>".join(escape(line, quote=False) for line in headline), height=total)
    figure.update_layout(title_pad={"l": 16, "t": 14 + 0.6 * more})  # Plotly counts from the middle of the lines
    figure.update_layout(showlegend=legend, legend_y=1 - (40 + more) / total)
    figure.update_layout(margin={"l": left, "r": right, "t": top, "b": bottom})
    figure.update_layout(meta={"title": title, "caption": whole, "details": details, "need": max(340, need)})
    return figure.add_annotation(
        text="<br>".join(escape(line, quote=False) for line in lines), name="caption", xref="paper", yref="paper",
        x=0, y=0, xanchor="left", yanchor="top", xshift=16 - left, yshift=-foot, align="left", showarrow=False,
        font={"color": "#555555"},
    )  # fmt: skip


def wrapped(text: str, most: int = CAPTION_WIDTH) -> list[str]:
    """Wrap a text into as few lines of `most` characters as hold it, all of about one length."""
    wrap = partial(textwrap.wrap, text, break_on_hyphens=False)
    count = len(wrap(most))
    if count < 2:
        return [text]
    tries = (wrap(width) for width in range(len(text) // count, most + 1))
    return next(lines for lines in tries if len(lines) == count)


def colour(code: str) -> str:
    """Return a language's colour, the same in every figure; an unknown language gets one of three that others may share."""
    return LANGUAGES[code][1] if code in LANGUAGES else OTHERS[zlib.crc32(code.encode()) % len(OTHERS)]


def readable(colour: str) -> str:
    """Darken a colour `#rrggbb` that is too pale for text on white; other notations stay as they are."""
    if not colour.startswith("#"):
        return colour
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    light = (0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2]) / 255
    share = min(1.0, 0.5 / light) if light else 1.0
    return "#" + "".join(f"{round(share * channel):02X}" for channel in channels)


def faded(colour: str, alpha: float = 0.18) -> str:
    """Make a colour `#rrggbb` transparent."""
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{alpha})"
