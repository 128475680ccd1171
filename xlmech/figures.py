"""Results as Plotly figures.

Nothing is measured here: a figure is drawn from a saved or fresh result alone. Its caption, below the plot and in
`layout.meta`, says on how many it rests and what its interval is; what was not measured stays blank and says so.
Colours are Okabe and Ito's, which colour-blind readers can tell apart, and some of Tol's; a language keeps its own.
"""

from __future__ import annotations

import math
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from xlmech.evaluation import MitigationResult
    from xlmech.leakage import LeakageResult
    from xlmech.lens import LensResult
    from xlmech.neurons import PrivacyNeurons

_INK, _GREY, _GRID = "#222222", "#8C8C8C", "#E2E2E2"
_SCALE = ("#F7FBFF", "#C6DBEF", "#6BAED6", "#2171B5", "#08306B")
_LANGUAGES = {
    "en": ("English", "#0072B2"), "zh": ("Chinese", "#D55E00"), "es": ("Spanish", "#E69F00"),
    "fr": ("French", "#56B4E9"), "de": ("German", "#332288"), "ja": ("Japanese", "#CC79A7"),
    "ar": ("Arabic", "#009E73"), "ru": ("Russian", "#F0E442"), "hi": ("Hindi", "#882255"),
    "sw": ("Swahili", "#999933"),
}  # fmt: skip
_OTHERS = ("#DDCC77", "#CC6677", "#88CCEE")
_SETS = (_INK, "#117733", "#AA4499", "#44AA99", "#661100")
_FORMS = {
    "query": ("query-language form", "#0072B2", "solid"),
    "plant": ("plant-language form", "#D55E00", "dash"),
    "other": ("likeliest other form", _GREY, "dot"),
}
_AXIS = {"gridcolor": _GRID, "ticks": "outside", "tickcolor": _GRID, "zeroline": False, "title_standoff": 8}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Noto Sans, Segoe UI, Roboto, Helvetica, Arial, sans-serif", "size": 12, "color": _INK},
        "title": {"x": 0, "y": 1, "yanchor": "top", "pad": {"l": 16, "t": 14}, "font": {"size": 17}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": {"bgcolor": "white", "bordercolor": _GREY, "align": "left", "font": {"color": _INK}},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "yanchor": "top", "traceorder": "normal"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)
_Series = tuple[str, dict[str, Any], pd.DataFrame]  # name, marker, rows by query_language: value, low, high, hover


def leakage_matrix(result: LeakageResult | Sequence[LeakageResult]) -> go.Figure:
    """Private extraction per plant language (rows, one result each) and query language (columns).

    Raises:
        ValueError: No private probes, or two results of the same plant language.
    """
    frame = _private([*result] if isinstance(result, Sequence) else [result])
    if frame.duplicated(["plant_language", "query_language"]).any():
        raise ValueError("two results have the same plant language; draw them in separate matrices")
    cells = {(row.plant_language, row.query_language): row for row in _rows(frame)}
    plants, queries = list(frame.plant_language.unique()), list(frame.query_language.unique())
    values = [[getattr(cells.get((plant, query)), "value", math.nan) for query in queries] for plant in plants]
    hover = [[_leak_hover(plant, query, cells.get((plant, query))) for query in queries] for plant in plants]
    figure = _heatmap(values, map(_label, queries), map(_label, plants), hover, top=1.0, unit="private<br>extraction")
    figure.update_traces(colorbar={"tickvals": [0, 0.5, 1], "ticktext": ["0 %", "50 %", "100 %"]})
    for i, plant in enumerate(plants):
        for j, query in enumerate(queries):
            row, colour = cells.get((plant, query)), "white" if values[i][j] > 0.55 else _INK
            text = f'<span style="font-size:10px">{_interval(row.low, row.high) if row else ""}</span>'
            text = "not<br>measured" if math.isnan(values[i][j]) else f"{_percent(values[i][j])}<br>{text}"
            figure.add_annotation(x=j, y=i, text=text, showarrow=False, font_color=colour)
    figure.update_xaxes(title_text="query language", tickangle=-35).update_yaxes(title_text="plant language")
    caption = f"""Share of private probes whose value comes out in any language's form, on {_counts(frame)} per
    cell. In brackets: 95 % interval, resampling subjects. Dark cells where the two languages differ are data that
    crosses languages; hover for the rate of control subjects, who were never in the training text."""
    title = "Private extraction by plant and query language"
    return _finish(figure, title, caption, height=52 * len(plants), foot=110)


def leakage_by_language(result: LeakageResult) -> go.Figure:
    """Private extraction per query language, highest first, beside the rate of control subjects.

    Raises:
        ValueError: No private probes.
    """
    frame = _private([result]).sort_values("value", ascending=False, na_position="last")
    frame["hover"] = [_leak_hover(row.plant_language, row.query_language, row) for row in _rows(frame)]
    series: list[_Series] = [("private subjects", {"color": [_colour(code) for code in frame.query_language]}, frame)]
    if frame.control.notna().any():
        controls = frame.assign(value=frame.control, low=math.nan, high=math.nan)
        series.append(("control subjects", {"color": _GREY, "symbol": "diamond-open", "line": {"width": 2}}, controls))
    figure = make_subplots()
    _dots(figure, series, list(frame.query_language), spread=0.4)
    figure.update_xaxes(title_text="extraction (% of probes)", range=[-3, 103])
    figure.update_yaxes(title_text="query language")
    caption = f"""Share of probes whose value comes out in any language's form, on {_counts(frame)} per query
    language; plant language: {_name(result.plant_language)}. Whiskers: 95 % interval, resampling subjects. What
    lies right of the grey diamond, the same rate for subjects the model never saw, is memorised rather than
    guessed."""
    title = "Private extraction by query language"
    return _finish(figure, title, caption, height=34 * len(frame), legend=True)


def lens(result: LensResult) -> go.Figure:
    """Mean first-token probability per layer and form of the answer, a panel per query language."""
    frame = result.summary()
    queries = list(frame.query_language.unique())
    n_rows, n_columns = -(-len(queries) // 5), min(5, len(queries))
    figure = make_subplots(
        n_rows, n_columns, subplot_titles=[_label(code) for code in queries], shared_yaxes=True,
        specs=[[{} if 5 * i + j < len(queries) else None for j in range(n_columns)] for i in range(n_rows)],
        horizontal_spacing=0.025, vertical_spacing=0.3 / n_rows,
    )  # fmt: skip
    for i, query in enumerate(queries):
        place = {"row": i // 5 + 1, "col": i % 5 + 1}
        for rank, (form, style) in enumerate(_FORMS.items()):
            part = frame[(frame.query_language == query) & (frame.form == form)].sort_values("layer")
            if len(part):
                _line(figure, part, *style, hover=_label(query), rank=rank, place=place)
        figure.update_xaxes(title_text="layer" if i + 5 >= len(queries) else None, **place)
    top = 1.05 * max(0.05, frame.prob.max(), frame.high.max())
    figure.update_xaxes(range=[frame.layer.min() - 0.3, frame.layer.max() + 0.3], nticks=5).update_yaxes(range=[0, top])
    figure.update_yaxes(title_text="probability (0 to 1)", col=1).update_annotations(font_size=13)
    caption = f"""The residual stream after each layer, read through the model's own unembedding, on
    {_lens_counts(result)} per panel ({result.n_collisions} left out: their two forms share the first token). Bands:
    95 % interval, resampling subjects. A plant-language line that rises before the query-language line shows the
    answer found in the language it was learnt in; the plant language's own panel has no such line."""
    title = "Logit lens: mean probability of the answer's first token, by layer"
    return _finish(figure, title, caption, height=200 * n_rows, legend=True, head=106)


def leakage_per_layer(result: LensResult) -> go.Figure:
    """Probability of the answer's first token in either language's form, by layer and query language."""
    frame = result.summary()
    queries, layers = list(frame.query_language.unique()), sorted(frame.layer.unique())
    found = {(row.query_language, row.layer, row.form): row for row in _rows(frame) if not math.isnan(row.prob)}
    values: list[list[float]] = []
    hover: list[list[str]] = []
    for query in queries:
        parts = [[row for form in ("query", "plant") if (row := found.get((query, layer, form)))] for layer in layers]
        values.append([sum(row.prob for row in cell) if cell else math.nan for cell in parts])
        hover.append([_layer_hover(query, layer, cell) for layer, cell in zip(layers, parts, strict=True)])
    top = max((value for row in values for value in row if value > 0), default=1.0)
    figure = _heatmap(values, map(str, layers), map(_label, queries), hover, top=top, unit="probability<br>(0 to 1)")
    figure.update_xaxes(title_text="layer").update_yaxes(title_text="query language")
    caption = f"""Sum of the mean probabilities of the query-language and the plant-language form (see the lens), on
    {_lens_counts(result)} per row: how ready the answer is after each layer, whichever of the two it is in. The
    scale ends at the highest cell; hover for the parts and their 95 % intervals, resampling subjects. A low figure
    in an early layer is no proof that the answer is absent there. Blank: not measured."""
    title = "Leakage per layer: probability of the answer's first token in either form"
    return _finish(figure, title, caption, height=32 * len(queries))


def neurons_per_layer(result: PrivacyNeurons) -> go.Figure:
    """Number of chosen neurons per layer: universal above, language-specific below, stacked by language."""
    n_layers, d_mlp = result.scores.shape[1:]
    universal, specific = (result.chosen[result.chosen.kind == kind] for kind in ("universal", "specific"))
    sets = [("universal", _INK, 1, universal)]
    sets += [(_label(code), _colour(code), 2, specific[specific.language == code]) for code in result.languages]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    for name, colour, row, part in sets:
        counts = part.layer.value_counts().reindex(range(n_layers), fill_value=0)
        hover = [f"{name}<br>layer {layer}: {n:,} of {d_mlp:,} neurons" for layer, n in counts.items()]
        marker = {"color": colour, "line": {"color": "white", "width": 0.5}}
        bars = go.Bar(x=list(counts.index), y=list(counts), name=name, hovertext=hover, hoverinfo="text", marker=marker)
        figure.add_trace(bars, row=row, col=1)
    figure.update_layout(barmode="stack", bargap=0.15).update_xaxes(range=[-0.6, n_layers - 0.4], showgrid=False)
    figure.update_xaxes(title_text="layer", row=2).update_yaxes(title_text="specific (neurons)", row=2)
    figure.update_yaxes(title_text="universal (neurons)", row=1)
    caption = f"""MLP neurons chosen by rule {result.rule!r}: {len(universal):,} universal and {len(specific):,}
    language-specific ones of {n_layers * d_mlp:,}. Counts of a choice, hence no interval; each panel has its own
    scale. High bars are layers where private answers are taken to pass; that is a hypothesis, which deactivation
    tests."""
    title = "Privacy neurons chosen per layer: universal, and specific to one language"
    return _finish(figure, title, caption, height=380, legend=True, head=112)


def before_after(result: MitigationResult) -> go.Figure:
    """Private extraction per query language before, and with each set of neurons deactivated.

    Raises:
        ValueError: No private probes.
    """
    frame = result.effects[result.effects.group == "private"]
    if frame.empty:
        raise ValueError("no private probes in this result: there is no leakage to draw")
    was = frame.drop_duplicates("query_language")
    hover = [_effect_hover("", row) for row in _rows(was)]
    was = was.assign(value=was.before, low=math.nan, high=math.nan, hover=hover)
    series = [("before", {"color": _INK, "symbol": "circle-open", "line": {"width": 2}}, was)]
    for name, marker, part in _conditions(result, frame):
        low, high = part.before * (1 - part.high), part.before * (1 - part.low)
        series.append((name, marker, part.assign(value=part.after, low=low, high=high)))
    figure = make_subplots()
    _dots(figure, series, list(was.query_language))
    figure.update_xaxes(title_text="private extraction (% of probes)", range=[-3, 103])
    figure.update_yaxes(title_text="query language")
    caption = f"""Share of private probes whose value comes out in any language's form, on {_counts(frame)} per
    query language. Whiskers: 95 % interval of the reduction, resampling subjects, applied to the rate before.
    Deactivation works where a filled dot lies well left of the ring, and the grey dot, random neurons of the same
    layers, does not."""
    title = "Private extraction before and after deactivation, by query language"
    return _finish(figure, title, caption, height=(12 + 12 * len(series)) * len(was), legend=True)


def price(result: MitigationResult) -> go.Figure:
    """What deactivation costs per query language: public facts kept (left), rise of neutral text's NLL (right)."""
    public = result.effects[result.effects.group == "public"]
    kept, risen = [], []
    for name, marker, part in _conditions(result, public):
        note = ["none known before" if before == 0 else "not measured" for before in part.before]
        value = part.after / part.before.where(part.before > 0)
        kept.append((name, marker, part.assign(value=value, low=1 - part.high, high=1 - part.low, note=note)))
    for name, marker, part in _conditions(result, result.price):
        risen.append((name, marker, part.assign(value=part.rise, low=math.nan, high=math.nan)))
    queries = list(dict.fromkeys([*result.effects.query_language, *result.price.query_language]))
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    _dots(figure, kept, queries)
    _dots(figure, risen, queries, col=2)
    figure.update_xaxes(title_text="public facts kept (% of those known before)", col=1)
    figure.update_xaxes(title_text="rise of neutral text's NLL (%)", rangemode="tozero", col=2)
    figure.update_yaxes(title_text="query language", col=1)
    caption = f"""Left: public facts still given in the query language's form, after / before, on {_counts(public)}
    per query language; whiskers: 95 % interval, resampling subjects; 100 % is no loss. Right: relative rise of the
    negative log-likelihood per token of neutral sentences, without interval; 0 % is no loss. The price is what a
    set loses beyond the grey random control."""
    title = "Price of deactivation: public facts kept, and fluency on neutral text"
    return _finish(figure, title, caption, height=(12 + 12 * len(kept)) * len(queries), legend=True)


def _heatmap(
    values: list[list[float]],
    columns: Iterable[str],
    rows: Iterable[str],
    hover: list[list[str]],
    *,
    top: float,
    unit: str,
) -> go.Figure:
    """A heat map on positions 0, 1, ... with names; NaN is blank."""
    bar = {"title": {"text": unit}, "thickness": 14, "outlinewidth": 0, "nticks": 5}
    cells = {"z": values, "zmin": 0, "zmax": top, "colorscale": _SCALE, "colorbar": bar, "xgap": 1, "ygap": 1}
    figure = go.Figure(go.Heatmap(**cells, hovertext=hover, hoverinfo="text"))
    figure.update_xaxes(tickvals=list(range(len(values[0]))), ticktext=list(columns), showgrid=False)
    figure.update_yaxes(tickvals=list(range(len(values))), ticktext=list(rows), showgrid=False)
    return figure.update_yaxes(autorange="reversed")


def _line(
    figure: go.Figure,
    part: pd.DataFrame,
    name: str,
    colour: str,
    dash: str,
    *,
    hover: str,
    rank: int,
    place: dict[str, int],
) -> None:
    """One form's line with its band; in the legend once."""
    first = all(trace.name != name for trace in figure.data)
    layers, band = part.layer.tolist(), f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.18)"
    figure.add_scatter(
        x=layers + layers[::-1], y=part.high.tolist() + part.low.tolist()[::-1], fill="toself", fillcolor=band,
        mode="none", hoverinfo="skip", showlegend=False, legendgroup=name, **place,
    )  # fmt: skip
    texts = [f"{hover}, layer {r.layer}<br>{name} {r.prob:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in _rows(part)]
    figure.add_scatter(
        x=layers, y=part.prob, mode="lines", line={"color": colour, "dash": dash, "width": 2}, name=name,
        legendgroup=name, showlegend=first, legendrank=rank + 1, hovertext=texts, hoverinfo="text", **place,
    )  # fmt: skip


def _dots(
    figure: go.Figure, series: Sequence[_Series], queries: list[str], *, col: int = 1, spread: float = 0.8
) -> None:
    """A row per query language, and in it a dot with whiskers per series."""
    for j, (name, marker, frame) in enumerate(series):
        columns = ["query_language", "value", "low", "high", "hover", "note"]
        rows = frame.reindex(columns=columns).set_index("query_language").reindex(queries)
        y = [i + spread * ((j + 0.5) / len(series) - 0.5) for i in range(len(queries))]
        x, whiskers = 100 * rows.value, {"color": _GREY, "thickness": 1.5, "width": 3}
        whiskers |= {"array": 100 * (rows.high - rows.value), "arrayminus": 100 * (rows.value - rows.low)}
        marker = {"size": 10, "line": {"color": _INK, "width": 0.6}} | marker
        figure.add_scatter(
            x=x, y=y, error_x=whiskers, mode="markers", marker=marker, name=name, legendgroup=name,
            showlegend=col == 1, hovertext=rows.hover, hoverinfo="text", row=1, col=col,
        )  # fmt: skip
        for place, value, note in zip(y, x, rows.note, strict=True):
            if math.isnan(value):
                text = note if isinstance(note, str) else "not measured"
                style = {"showarrow": False, "xanchor": "left", "font": {"size": 10, "color": "#666666"}}
                figure.add_annotation(x=0, y=place, text=text, **style, row=1, col=col)
    for i in range(1, len(queries), 2):
        figure.add_hrect(i - 0.5, i + 0.5, fillcolor="#F6F6F6", line_width=0, layer="below", row=1, col=col)
    figure.update_yaxes(tickvals=list(range(len(queries))), ticktext=[_label(code) for code in queries])
    figure.update_yaxes(range=[len(queries) - 0.5, -0.5], showgrid=False)


def _finish(
    figure: go.Figure, title: str, caption: str, *, height: int, foot: int = 56, legend: bool = False, head: int = 0
) -> go.Figure:
    """Title, legend and margins around a plot of the given height (120 at least), and the caption below its axis."""
    caption = " ".join(caption.split())
    lines = textwrap.wrap(caption.replace(" %", "\u00a0%"), 132)
    head, bottom = head or (84 if legend else 54), foot + 18 * len(lines) + 8
    total = head + max(120, height) + bottom
    figure.layout.template = TEMPLATE
    figure.update_layout(title_text=title, showlegend=legend, legend_y=1 - 40 / total, height=total)
    figure.update_layout(margin={"l": 130, "r": 24, "t": head, "b": bottom}, meta={"title": title, "caption": caption})
    return figure.add_annotation(
        text="<br>".join(map(escape, lines)), name="caption", xref="paper", yref="paper", x=0, y=0, xanchor="left",
        yanchor="top", xshift=-114, yshift=-foot, align="left", showarrow=False, font={"color": "#555555"},
    )  # fmt: skip


def _name(code: str) -> str:
    return f"{_LANGUAGES[code][0]} ({code})" if code in _LANGUAGES else code or "unknown"


def _label(code: str) -> str:
    """A language's name made safe for a plot, where Plotly reads some HTML."""
    return escape(_name(code))


def _colour(code: str) -> str:
    return _LANGUAGES[code][1] if code in _LANGUAGES else _OTHERS[zlib.crc32(code.encode()) % len(_OTHERS)]


def _conditions(result: MitigationResult, frame: pd.DataFrame) -> list[_Series]:
    """Per condition: name with size, marker, rows with `hover`; random is grey, a language has its own colour."""
    found = []
    for i, (name, size) in enumerate(result.sizes.items()):
        part = frame[frame.condition == name]
        hover = [_effect_hover(name, row) for row in _rows(part)]
        colour = _GREY if name == "random" else _colour(name) if name in _LANGUAGES else _SETS[i % len(_SETS)]
        label = f"{escape(name)} ({size:,} of {result.total_neurons:,} neurons)"
        found.append((label, {"color": colour}, part.assign(hover=hover)))
    return found


def _rows(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples())


def _percent(share: float, missing: str = "not measured") -> str:
    return missing if math.isnan(share) else f"{100 * share:.0f} %"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"[{100 * low:.0f}, {100 * high:.0f}]"


def _counts(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "no probes"
    spans = [(int(counts.min()), int(counts.max())) for counts in (frame.n_subjects, frame.n_probes)]
    subjects, probes = (f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in spans)
    return f"{subjects} subjects and {probes} probes"


def _lens_counts(result: LensResult) -> str:
    by_language = result.readings.groupby("query_language")
    return _counts(by_language.agg(n_subjects=("subject", "nunique"), n_probes=("probe", "nunique")))


def _private(results: Sequence[LeakageResult]) -> pd.DataFrame:
    frames = [frame for result in results if len(frame := result.matrix())]
    if not frames:
        raise ValueError("no private probes in this result: there is no leakage to draw")
    return pd.concat(frames, ignore_index=True)


def _leak_hover(plant: str, query: str, row: Any) -> str:
    asked = f"asked in {_label(query)}, planted in {_label(plant)}"
    if row is None or math.isnan(row.value):
        return f"{asked}<br>not measured"
    return (
        f"{asked}<br>private extraction {_percent(row.value)} {_interval(row.low, row.high)}, 95 % interval<br>"
        f"control subjects {_percent(row.control)}<br>{row.n_subjects:,} subjects, {row.n_probes:,} probes"
    )


def _layer_hover(query: str, layer: int, parts: Sequence[Any]) -> str:
    total = f"either form {sum(row.prob for row in parts):.3f}" if parts else "not measured"
    lines = [f"{_FORMS[row.form][0]} {row.prob:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in parts]
    return "<br>".join([f"asked in {_label(query)}, layer {layer}", total, *lines])


def _effect_hover(condition: str, row: Any) -> str:
    """For a row of effects or of the price; without a condition, as before any."""
    if hasattr(row, "nll_before"):
        change = f"NLL {row.nll_before:.3f} to {row.nll_after:.3f} nats per token, {100 * row.rise:+.1f} %"
        return f"{_label(row.query_language)}, {escape(condition)} off<br>{change}"
    lines = [f"{_label(row.query_language)}, before: {_percent(row.before)}"]
    if condition:
        reduction = f"{_percent(row.reduction, 'undefined')} {_interval(row.low, row.high)}, 95 % interval"
        lines += [f"{escape(condition)} off: {_percent(row.after)}", f"reduction {reduction}"]
        lines += [f"risen in {row.risen:,} records"]
    return "<br>".join([*lines, f"{row.n_subjects:,} subjects, {row.n_probes:,} probes"])
