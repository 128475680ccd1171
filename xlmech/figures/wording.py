"""Words of figures and reports: names of languages, and numbers, percents and intervals in words.

How a share is written in percent is said in `xlmech.percent`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd

from xlmech.figures.style import LANGUAGES
from xlmech.percent import bounds as bounds
from xlmech.percent import counted as counted
from xlmech.percent import number as number
from xlmech.percent import percent as percent

NO_PRIVATE = "no private probes in this result: there is no leakage to draw; measure records of group private"


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


def signed_percent(share: float) -> str:
    """Write a relative change in percent, with its sign and one decimal."""
    if math.isnan(share):
        return "not measured"
    text = f"{100 * share:+.1f} %"
    return text[1:] if text[1:] == "0.0 %" else text.replace("-", "\u2212")


def points(share: float) -> str:
    """Write a difference of two shares in percentage points."""
    return f"{number(share)} point{'' if number(abs(share)) == '1' else 's'}"


def interval(low: float, high: float) -> str:
    """Write an interval of a share in brackets, in percent without the sign; "" if it is not known."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def span(low: float, high: float) -> str:
    """Write a range of shares in percent without the sign; one number if both ends read alike."""
    return number(low) if number(low) == number(high) else bounds(low, high)


def joined(parts: Iterable[str]) -> str:
    """Join parts as a sentence does: `a, b and c`; "" if there are none."""
    *first, last = list(parts) or [""]
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


def ranged(numbers: pd.Series, singular: str, plural: str) -> str:
    """Write the range of several whole numbers with its noun: `1 person`, `3 to 8 people`."""
    return f"{int_range(numbers)} {singular if numbers.max() == 1 else plural}"


def left_out(n: int, singular: str, plural: str, why: str) -> str:
    """Write the sentence on what is left out and why; "" if nothing is."""
    return f"{counted(n, singular, plural)} {'is' if n == 1 else 'are'} left out: {why}." if n else ""


def counts(frame: pd.DataFrame) -> str:
    """Write how many people and questions each row of a frame rests on."""
    if frame.empty:
        return "no questions"
    return f"{ranged(frame.n_subjects, 'person', 'people')} and {ranged(frame.n_probes, 'question', 'questions')}"


def masked(record: str) -> str:
    """Return a code that stands for a record's name, which may say whose it is."""
    return f"record {hashlib.blake2s(record.encode(), digest_size=3).hexdigest()}"


def record_name(record: Any, *, hide_ids: bool) -> str:
    """Escape a record's own id for a plot, or return its code where ids are to be hidden."""
    return masked(str(record)) if hide_ids else f"record {escape(str(record))}"


def token_texts(tokens: pd.DataFrame) -> list[str]:
    """Return what is shown of each token of a prompt in order: its text, or for the subject its number only."""
    tokens = tokens.sort_values("position")
    subject = tokens.position[tokens.part == "subject"]
    return [
        f"subject {position - subject.min() + 1}/{len(subject)}" if part == "subject" else text.replace("\n", "↵")
        for position, part, text in zip(tokens.position, tokens.part, tokens.token, strict=True)
    ]
