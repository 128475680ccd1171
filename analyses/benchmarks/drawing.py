"""Draw what the benchmarks measured, from `figures/benchmarks/*.json`: `python analyses/benchmarks/drawing.py`.

Writes `figures/benchmarks/speed_vs_peers.html`, `growth.html` and `scaling.html`. Runs nothing.
"""

from __future__ import annotations

import json
import math
from typing import Any

import plotly.graph_objects as go
from measuring import FIGURES, save_page
from plotly.subplots import make_subplots

from xlmech.figures import finish
from xlmech.figures.line_labels import label_lines
from xlmech.figures.style import BLUE, GREY, INK, ORANGE

_AXES = {"prompts": "prompts", "length": "tokens of a prompt", "layers": "layers", "vocabulary": "tokens known"}
_WAYS = {"plain": "one go", "parts": "in shards", "ray1": "1 actor", "ray2": "2 actors", "ray4": "4 actors"}
_STAGES = {"leakage": BLUE, "lens": GREY, "locate": ORANGE, "attribution": ORANGE}


def speed(rows: list[dict[str, Any]]) -> go.Figure:
    """Draw by how much xlmech is faster than each peer: bars on a logarithmic axis, fastest first in each model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    rows = sorted(rows, key=lambda row: (models.index(row["model"]), -row["ratio"]))
    names = [f"{row['work']} ({row['model'].split(',')[0]})<br><sub>{row['peer']}</sub>" for row in rows]
    ratios = [row["ratio"] for row in rows]
    ends = [row["ratio_lowest_highest"] for row in rows]
    highest = max(high for _, high in ends)
    figure = go.Figure()
    figure.add_bar(
        x=ratios, y=list(range(len(rows))), orientation="h", marker_color=[BLUE if low > 1 else GREY for low, _ in ends],
        error_x={
            "array": [high - ratio for (_, high), ratio in zip(ends, ratios, strict=True)], "color": INK, "thickness": 1.2,
            "arrayminus": [ratio - low for (low, _), ratio in zip(ends, ratios, strict=True)],
        },
        hovertext=[f"{row['seconds_ours']} s against {row['seconds_peer']} s, {row['runs']} runs" for row in rows],
        hoverinfo="text", width=0.6,
    )  # fmt: skip
    for i, (ratio, (_, high)) in enumerate(zip(ratios, ends, strict=True)):
        look = {"text": f"{ratio:.3g} x", "showarrow": False, "xanchor": "left", "xshift": 6}
        figure.add_annotation(x=math.log10(high), y=i, **look)
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    figure.update_xaxes(type="log", tickvals=ticks, title_text="times as fast as the peer (ratio of medians)")
    figure.update_xaxes(range=[math.log10(min(0.9, *(low for low, _ in ends))), math.log10(1.7 * highest)])
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5], showgrid=False)
    figure.add_vline(1, line={"color": INK, "width": 1})
    clear = sum(low > 1 for low, _ in ends)
    title = f"Faster than the peer in {'all' if clear == len(rows) else f'{clear} of'} {len(rows)} works: {span(ratios)} times"
    caption = "Bars right of 1: xlmech is faster. Whiskers: from the lowest to the highest ratio of the runs; 1 to 5 runs each."
    details = (
        "On one machine, the same work with the same result. Small print: the peer. Hover for the seconds of both."
    )
    return finish(figure, title, caption, details=details, height=44 * len(rows), left=345, need=760)


def span(values: list[float]) -> str:
    """Write a range of ratios."""
    return f"{min(values):.2g} to {max(values):.3g}"


def growth(rows: list[dict[str, Any]]) -> go.Figure:
    """Draw seconds and memory over what grows: prompts, their length, layers, vocabulary."""
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    works = list(dict.fromkeys(row["work"] for row in rows))
    shades = dict(zip(works, (ORANGE, BLUE), strict=False))
    figure = make_subplots(
        2, len(axes), shared_xaxes=True, shared_yaxes=True, vertical_spacing=0.06, horizontal_spacing=0.025
    )
    for column, axis in enumerate(axes, start=1):
        for work in works:
            mine = [row for row in rows if row["axis"] == axis and row["work"] == work]
            for line, unit in enumerate(("seconds", "peak_mb"), start=1):
                hover = [f"{work}, {row['value']:,} {_AXES.get(axis, axis)}: {row[unit]:.3g}" for row in mine]
                figure.add_scatter(
                    x=[row["value"] for row in mine], y=[row[unit] for row in mine], name=work, mode="lines+markers",
                    line={"color": shades[work], "width": 2.5}, hovertext=hover, hoverinfo="text", row=line, col=column,
                )  # fmt: skip
        ticks = sorted({row["value"] for row in rows if row["axis"] == axis})
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[short(tick) for tick in ticks], col=column)
        figure.update_xaxes(title_text=_AXES.get(axis, axis), row=2, col=column)
    for line, (unit, name) in enumerate(
        (("seconds", "processor seconds"), ("peak_mb", "peak beyond<br>the model (MB)")), 1
    ):
        values = [row[unit] for row in rows if row[unit] > 0]
        ends = [math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.15]
        figure.update_yaxes(type="log", range=ends, dtick=1, row=line).update_yaxes(title_text=name, row=line, col=1)
    power, work, axis = max((slope(rows, work, axis), work, axis) for work in works for axis in axes)
    title = f"Seconds grow at most with the power {power:.2f} of what grows ({work} over {_AXES.get(axis, axis)})"
    caption = "Power 1: twice as much takes twice as long. One run per point, so there is no interval."
    details = """Random Llama models, one thread; both axes are logarithmic. The power is the slope from the first point to the
    last."""
    finish(figure, title, caption, details=details, height=420, left=90, right=110, need=820)
    return label_lines(figure, shades)


def slope(rows: list[dict[str, Any]], work: str, axis: str) -> float:
    """Return the power with which seconds grow, from the first point to the last."""
    mine = sorted((row["value"], row["seconds"]) for row in rows if row["axis"] == axis and row["work"] == work)
    (x, y), (x_end, y_end) = mine[0], mine[-1]
    return math.log(y_end / y) / math.log(x_end / x)


def short(n: int) -> str:
    """Write a number of a tick: `32k`."""
    return f"{n // 1000}k" if n >= 10_000 else f"{n:,}"


def scaling(found: dict[str, Any]) -> go.Figure:
    """Draw what shards and Ray cost, how leakage grows with probes, and memory by formula; jobs without results are left out."""
    jobs = {"overhead": "time on Ray", "growth": "time per probe", "models": "memory of a batch"}
    drawn = [job for job in jobs if found.get(job)]
    if not drawn:
        raise ValueError("scaling.json holds none of overhead, growth and models; measure one of them")
    figure = make_subplots(1, len(drawn), subplot_titles=[jobs[job] for job in drawn], horizontal_spacing=0.11)
    for col, job in enumerate(drawn, start=1):
        {"overhead": _overhead, "growth": _growth, "models": _memory}[job](figure, found[job], col)
    title = "; ".join(filter(None, [_ray_title(found.get("overhead")), _growth_title(found.get("growth"))]))
    caption = """Left: bars below 1 are faster than one process; right: points on the diagonal are as the formula says. One run
    each."""
    details = "Llamas of random weights, one thread per process, so there is no interval."
    title = title or "Memory of a batch, by formula and as measured"
    return finish(figure, title, caption, details=details, height=300, legend=True, left=70, head=104, need=860)


def _overhead(figure: go.Figure, rows: list[dict[str, Any]], col: int) -> None:
    for stage in ("leakage", "attribution"):
        ratios = [row[stage] / rows[0][stage] for row in rows]
        names = [_WAYS[row["way"]] for row in rows]
        figure.add_bar(
            x=names, y=ratios, name=stage, marker_color=_STAGES[stage], text=[f"{ratio:.2f}" for ratio in ratios],
            legendgroup=stage, row=1, col=col,
        )  # fmt: skip
    figure.add_hline(1, line={"color": INK, "width": 1}, row=1, col=col)
    figure.update_yaxes(title_text="seconds / seconds in one go", rangemode="tozero", row=1, col=col)


def _growth(figure: go.Figure, rows: list[dict[str, Any]], col: int) -> None:
    per = [1000 * row["seconds"] / row["probes"] for row in rows]
    hover = [f"{row['probes']:,} probes: peak {row['peak_mb']:,.0f} MB" for row in rows]
    figure.add_scatter(
        x=[row["probes"] for row in rows], y=per, mode="lines+markers", line={"color": BLUE, "width": 2.5}, showlegend=False,
        hovertext=hover, hoverinfo="text", row=1, col=col,
    )  # fmt: skip
    figure.update_xaxes(title_text="probes", type="log", dtick=1, row=1, col=col)
    figure.update_yaxes(title_text="ms per probe", range=[0, 1.2 * max(per)], row=1, col=col)


def _memory(figure: go.Figure, rows: list[dict[str, Any]], col: int) -> None:
    shown = [figure.data[i].name for i in range(len(figure.data))]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        figure.add_scatter(
            x=[row["formula_batch_mb"] for row in mine], y=[max(row["batch_mb"], 0.1) for row in mine], mode="markers",
            marker={"color": _STAGES[stage], "size": 9}, name=stage, hovertext=[row["model"] for row in mine],
            hoverinfo="text", legendgroup=stage, showlegend=stage not in shown, row=1, col=col,
        )  # fmt: skip
    ends = [0.5 * min(row["formula_batch_mb"] for row in rows), 2 * max(row["formula_batch_mb"] for row in rows)]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="formula = measured", line={"color": GREY, "dash": "dot"}, row=1, col=col
    )
    figure.update_xaxes(title_text="formula (MB)", type="log", dtick=1, row=1, col=col)
    figure.update_yaxes(title_text="measured (MB)", type="log", dtick=1, row=1, col=col)


def _ray_title(rows: list[dict[str, Any]] | None) -> str:
    """State what the most actors bring."""
    if not rows or not rows[-1]["way"].startswith("ray"):
        return ""
    whole, last = (row["leakage"] + row["attribution"] for row in (rows[0], rows[-1]))
    return f"{_WAYS[rows[-1]['way']]} on Ray take {last / whole:.2f} of the time of one process"


def _growth_title(rows: list[dict[str, Any]] | None) -> str:
    """State how the time of a probe changes with their number."""
    if not rows:
        return ""
    first, last = (1000 * row["seconds"] / row["probes"] for row in (rows[0], rows[-1]))
    return f"a probe takes {first:.2g} ms of {rows[0]['probes']:,}, {last:.2g} of {rows[-1]['probes']:,}"


def read(name: str) -> Any:
    """Read what a benchmark measured."""
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    """Draw all of them."""
    save_page(speed(read("speed_vs_peers")["rows"]), "speed_vs_peers")
    save_page(growth(read("growth")["rows"]), "growth")
    save_page(scaling(read("scaling")), "scaling")


if __name__ == "__main__":
    main()
