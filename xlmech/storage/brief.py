"""A result in brief: one sentence with its main number, and a small picture, drawn as SVG that needs no JavaScript.

Texts are escaped, and colours are the notebook's own, so that it can be read in JupyterLab and VS Code, light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

_BLUE, _ORANGE = "#0072B2", "#D55E00"
_WIDTH, _ROW, _LABEL, _PLOT = 560, 18, 90, 250
_HEIGHT = 90
"""Of a picture of columns, px."""
_MAX_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a picture.

    Attributes:
        label: What it is of: a language, a layer.
        value: Its length; NaN for none.
        low: Lower end of its interval, NaN for none.
        high: Upper end.
        mark: Another value to compare with, such as that before; NaN for none.
        text: What stands beside it.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    mark: float = math.nan
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Brief:
    """A result in brief; no personal value may stand in it.

    Attributes:
        sentence: The main number, with its interval and what it rests on.
        caption: What the bars are.
        bars: The picture; none if there is nothing to draw.
        end: The longest possible value; NaN for the longest that is there.
        columns: Whether the bars stand side by side, as for layers, and not one below the other.
    """

    sentence: str
    caption: str = ""
    bars: tuple[Bar, ...] = ()
    end: float = math.nan
    columns: bool = False

    def to_html(self) -> str:
        """Write the sentence and the picture."""
        parts = [f"<p>{escape(self.sentence)}</p>"]
        if self.bars:
            n_left = 0 if self.columns else max(0, len(self.bars) - _MAX_ROWS)
            caption = f"{self.caption} {n_left} more are not shown." if n_left else self.caption
            parts += [self._svg(), f'<p style="font-size:85%">{escape(caption)}</p>']
        return "".join(parts)

    def _svg(self) -> str:
        bars = self.bars if self.columns else self.bars[:_MAX_ROWS]
        height = _HEIGHT + 18 if self.columns else _ROW * len(bars) + 4
        drawn = self._draw_columns() if self.columns else self._draw_rows(bars)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(self.caption)}" width="{_WIDTH}" '
            f'height="{height}" viewBox="0 0 {_WIDTH} {height}" font-size="12" fill="currentColor">{"".join(drawn)}</svg>'
        )

    @property
    def _end(self) -> float:
        ends = [n for bar in self.bars for n in (bar.value, bar.high, bar.mark) if not math.isnan(n)]
        return max([*ends, 1e-12]) if math.isnan(self.end) else self.end

    def _draw_rows(self, bars: tuple[Bar, ...]) -> Iterator[str]:
        def at(value: float) -> float:
            return _LABEL + _PLOT * min(1.0, max(0.0, value / self._end))

        for number, bar in enumerate(bars):
            middle = _ROW * number + _ROW / 2 + 2
            yield f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label[:14])}</text>'
            yield f'<text x="{_LABEL + _PLOT + 10}" y="{middle + 4:.1f}">{escape(bar.text)}</text>'
            if not math.isnan(bar.value):
                width = at(bar.value) - _LABEL
                yield f'<rect x="{_LABEL}" y="{middle - 6:.1f}" width="{width:.1f}" height="12" fill="{_BLUE}"/>'
            if not math.isnan(bar.low + bar.high):
                line = f'x1="{at(bar.low):.1f}" x2="{at(bar.high):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"'
                yield f'<line {line} stroke="currentColor" stroke-width="1.5"/>'
            if not math.isnan(bar.mark):
                yield (
                    f'<circle cx="{at(bar.mark):.1f}" cy="{middle:.1f}" r="4" fill="none" stroke="{_ORANGE}" stroke-width="2"/>'
                )

    def _draw_columns(self) -> Iterator[str]:
        step = (_WIDTH - 20) / len(self.bars)
        for number, bar in enumerate(self.bars):
            share = 0.0 if math.isnan(bar.value) else min(1.0, max(0.0, bar.value / self._end))
            x, height = 10 + step * number, share * (_HEIGHT - 16)
            width, middle = max(1.0, step - 2), x + step / 2
            yield f'<rect x="{x:.1f}" y="{_HEIGHT - height:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{_BLUE}"/>'
            if bar.text:
                yield f'<text x="{middle:.1f}" y="{_HEIGHT - height - 4:.1f}" text-anchor="middle">{escape(bar.text)}</text>'
            if number % (1 + len(self.bars) // 20) == 0:
                yield f'<text x="{middle:.1f}" y="{_HEIGHT + 14}" text-anchor="middle">{escape(bar.label)}</text>'


def layer_bars(values: list[float]) -> tuple[Bar, ...]:
    """Make a column per layer, with its number where it is highest."""
    highest = max(range(len(values)), key=values.__getitem__, default=0)
    bars = []
    for layer, value in enumerate(values):
        text = f"{value:,.0f}" if value.is_integer() else f"{value:.2f}"
        bars.append(Bar(label=str(layer), value=value, text=text if layer == highest else ""))
    return tuple(bars)
