"""What all figures share: template, colours, names of languages, numbers in words, and the frame around a plot.

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
NO_PRIVATE = "no private probes in this result: there is no leakage to draw; measure records of group private"
CAPTION_WIDTH = 132
"""Characters a line; at 12 px they fit a plot 800 px wide."""
_AXIS = {"gridcolor": GRID, "ticks": "outside", "tickcolor": GRID, "zeroline": False, "title_standoff": 8}
_FONT = "Noto Sans, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
# Plotly's own button that uploads a chart, and with it the data, to its cloud is on by default since plotly.js 4.
_BUTTONS = ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]
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
        "modebar": {"remove": _BUTTONS},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def finish(
    figure: go.Figure, title: str, caption: str, *, height: int, foot: int = 56, legend: bool = False, head: int = 0
) -> go.Figure:
    """Add title, legend and margins to a plot of the given height, and the caption below its axis.

    Args:
        figure: Drawn plot; changed in place.
        title: Title of the figure.
        caption: Plain text; its line breaks are not kept.
        height: Of the plot itself, px; 140 at least.
        foot: From the plot down to the caption, px.
        legend: Whether to show a legend above the plot.
        head: From the top down to the plot, px; by default what a title and a one-line legend need.
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
    """Wrap a text into as few lines as `CAPTION_WIDTH` allows, all of about one length."""
    count = len(textwrap.wrap(text, CAPTION_WIDTH))
    if count < 2:
        return [text]
    tries = (textwrap.wrap(text, width) for width in range(len(text) // count, CAPTION_WIDTH + 1))
    return next(lines for lines in tries if len(lines) == count)


# Languages


def language_name(code: str) -> str:
    """Return a language's English name and code; the code alone if its name is not known here, `unknown` for none."""
    return f"{LANGUAGES[code][0]} ({code})" if code in LANGUAGES else code or "unknown"


def short_name(code: str) -> str:
    """Return a language's name without its code, if it has a name."""
    return language_name(code).removesuffix(f" ({code})")


def label(code: str, training: str = "") -> str:
    """Escape a language's name for a plot, since Plotly reads some HTML; the training language's is bold."""
    return f"<b>{escape(language_name(code))}</b>" if code and code == training else escape(language_name(code))


def ordered(codes: Iterable[str], *first: str) -> list[str]:
    """Return each language once, in the same order in every figure: `first`, if they occur, then by name."""
    found = set(codes)
    return list(dict.fromkeys([*(code for code in first if code in found), *sorted(found, key=language_name)]))


def bold_note(codes: Iterable[str], training: str) -> str:
    """Return the caption's sentence about the bold label, "" if no label is bold."""
    return "Bold: the training language." if training and training in set(codes) else ""


def colour(code: str) -> str:
    """Return a language's colour, the same in every figure; an unknown language gets one of three that others may share."""
    return LANGUAGES[code][1] if code in LANGUAGES else OTHERS[zlib.crc32(code.encode()) % len(OTHERS)]


def faded(colour: str, alpha: float = 0.18) -> str:
    """Make a colour `#rrggbb` transparent."""
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},{alpha})"


# Numbers in words, in percent and with a true minus sign


def number(share: float) -> str:
    """Write a share in percent without the sign; what is not 0 is not rounded to 0."""
    text = f"{100 * share:.{1 if 0.0005 < abs(share) < 0.01 else 0}f}"
    return "0" if text == "-0" else text.replace("-", "\u2212")


def percent(share: float, missing: str = "not measured") -> str:
    """Write a share in percent."""
    return missing if math.isnan(share) else f"{number(share)} %"


def signed_percent(share: float) -> str:
    """Write a relative change in percent, with its sign and one decimal."""
    return "not measured" if math.isnan(share) else f"{100 * share:+.1f} %".replace("-", "\u2212")


def points(share: float) -> str:
    """Write a difference of two shares in percentage points."""
    return f"{number(share)} point{'' if number(abs(share)) == '1' else 's'}"


def bounds(low: float, high: float, missing: str = "interval not known") -> str:
    """Write an interval of a share in words, in percent without the sign: `13 to 87`."""
    return missing if math.isnan(low) or math.isnan(high) else f"{number(low)} to {number(high)}"


def interval(low: float, high: float) -> str:
    """Write an interval of a share in brackets, in percent without the sign; "" if it is not known."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def span(low: float, high: float) -> str:
    """Write a range of shares in percent without the sign; one number if both ends read alike."""
    return number(low) if number(low) == number(high) else bounds(low, high)


def counted(n: int, singular: str, plural: str) -> str:
    """Write a number with its noun: `1 person`, `1,200 people`."""
    return f"{n:,} {singular if n == 1 else plural}"


def joined(parts: Iterable[str]) -> str:
    """Join one part or more as a sentence does: `a, b and c`."""
    *first, last = list(parts)
    return f"{', '.join(first)} and {last}" if first else last


def plain(name: str) -> str:
    """Write an identifier as words."""
    return name.replace("_", " ")


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """Return a frame's rows as named tuples, which type checkers let have any columns."""
    return list(frame.itertuples())


def reduction_text(row: Any) -> str:
    """Write a row's reduction with its interval, and the reason if one of them is not known."""
    text = f"{percent(row.reduction, 'undefined')} {interval(row.low, row.high)}".strip()
    return f"{text} ({row.reason})" if row.reason else f"{text}, 95 % interval"


def with_interval(value: float, low: float, high: float) -> str:
    """Write a number to three decimals with its interval, if there is one."""
    return f"{value:.3f}" + ("" if math.isnan(low + high) else f" [{low:.3f}, {high:.3f}], 95 % interval")


def n_of(row: Any) -> str:
    """Write how many people and questions a row rests on."""
    return f"{counted(row.n_subjects, 'person', 'people')}, {counted(row.n_probes, 'question', 'questions')}"


def int_range(numbers: pd.Series) -> str:
    """Write the least and the greatest of several whole numbers: `3 to 8`, or `3` if they are the same."""
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def counts(frame: pd.DataFrame) -> str:
    """Write how many people and questions each row of a frame rests on."""
    if frame.empty:
        return "no questions"
    people, questions = int_range(frame.n_subjects), int_range(frame.n_probes)
    return (
        f"{people} {'person' if people == '1' else 'people'} and {questions} question{'' if questions == '1' else 's'}"
    )


def masked(record: str) -> str:
    """Return a code that stands for a record's name, which may say whose it is."""
    return f"record {hashlib.blake2s(record.encode(), digest_size=3).hexdigest()}"
