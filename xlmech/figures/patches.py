"""Activation patching: whose value is given in which language's form, by layer; by layer and position."""

from __future__ import annotations

from html import escape, unescape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xlmech.checks import check_choice
from xlmech.figures.findings import layer_runs, spelled
from xlmech.figures.line_labels import label_lines, panel_to_label, with_room
from xlmech.figures.marks import ROOM, cells, line_with_band, lines_on_top, panels
from xlmech.figures.style import BLUE, DIVERGING, GREY, GRID, INK, ORANGE, SCALE, finish
from xlmech.figures.wording import language_name, left_out, plain, ranged, rows_of, token_texts, with_interval

if TYPE_CHECKING:
    from xlmech.patching.between_languages import PatchingResult
    from xlmech.patching.positions import PositionSweep

_OUTCOMES = {
    "source_in_target": ("source's value, target language's form", BLUE, "solid"),
    "source_in_source": ("source's value, source language's form", ORANGE, "solid"),
    "target_in_target": ("target's value, target language's form", INK, "dot"),
    "target_in_source": ("target's value, source language's form", GREY, "dot"),
}
_KINDS = {"cross_language": "", "same_language": "same language", "other_attribute": "source of another attribute"}
_POSITIONS = {
    "last": "the last token", "subject_last": "the subject's last token", "subject": "the subject's tokens", "all": "all tokens",
}  # fmt: skip
_READINGS = {"first_token": "answer's first token", "whole_value": "whole answer"}


def patching(
    result: PatchingResult, *, reading: Literal["first_token", "whole_value"] = "first_token", head: int | None = None
) -> go.Figure:
    """Draw the mean probability of each outcome by patched layer, a panel per pair of languages and per control condition.

    Args:
        result: What to draw.
        reading: First tokens or whole values.
        head: Which head's, if each was patched on its own.

    Raises:
        ValueError: The result has no such reading; a head is needed and not given, or does not exist.
    """
    frame = result.summary(reading=reading)
    heads = sorted(frame["head"].unique())
    if (head if head is not None else -1) not in heads:
        raise ValueError(f"no head {head} in this result; it has {', '.join(map(str, heads))} (give head=)")
    frame = frame[frame["head"] == (-1 if head is None else head)]
    frame = frame.rename(columns={"prob": "value", "prob_low": "low", "prob_high": "high"})
    keys = ["kind", "source_language", "target_language"]
    parts = [part for kind in _KINDS for _, part in frame[frame.kind == kind].groupby(keys, sort=False)]
    figure, places = panels([_panel_title(part) for part in parts], 3, gap=0.35, x_title="patched layer")
    for part, place in zip(parts, places, strict=True):
        for rank, (outcome, (name, colour, dash)) in enumerate(_OUTCOMES.items(), start=1):
            line = part[part.outcome == outcome].sort_values("layer")
            if len(line):
                hover = [
                    f"layer {r.layer}, {name}<br>{with_interval(r.value, r.low, r.high)}"
                    f"<br>change {r.change:+.3f}, {r.change_log_prob:+.2f} nats"
                    for r in rows_of(line)
                ]
                line_with_band(
                    figure, line, name, colour, dash=dash, hover=hover, rank=rank, place=place, alpha=0.13, width=3
                )
    figure.update_xaxes(range=[frame.layer.min() - 0.3, frame.layer.max() + 0.3], nticks=8)
    figure.update_yaxes(range=[0, 1.05 * max(0.05, frame.value.max(), frame.high.max())])
    figure.update_yaxes(title_text="probability (0 to 1)", col=1)
    lines_on_top(figure)
    caption, details = _caption(result, frame, reading)
    names = {name: colour for name, colour, _ in _OUTCOMES.values()}
    height, columns = 230 * places[-1]["row"], places[min(2, len(places) - 1)]["col"]
    # Names are long: they stand on the right of a few panels, or in the empty place of the last row.
    few = len(places) < 3
    room = with_room(places) if few else with_room(places)[-1:] if places[-1]["col"] < columns else []
    panel = panel_to_label(figure, names, room, height=height)
    finish(
        figure, _given(frame), caption, details=details, height=height, legend=panel is None,
        head=128 if panel is None else 96, right=250 if panel is not None and few else 24,
        need=150 + 210 * columns + (226 if panel is not None and few else 0),
    )  # fmt: skip
    return figure if panel is None else label_lines(figure, names, panel=panel)


def _given(frame: pd.DataFrame) -> str:
    """State at which layers the source's value comes in which language's form, and in how many directions."""
    cross = frame[frame.kind == "cross_language"]
    if cross.empty:
        return "Patching within one language: no value crosses languages here"
    n = cross.groupby(["source_language", "target_language"]).ngroups
    said = []
    for outcome, form in (("source_in_target", "the target's form"), ("source_in_source", "the source's form")):
        clear = cross[(cross.outcome == outcome) & (cross.change_low > CLEAR)]
        found = clear.groupby(["source_language", "target_language"]).ngroups
        if found:
            of_all = (
                "" if n == 1 else f" in {found} of {n} directions" if found < n else f" in all {spelled(n)} directions"
            )
            said.append(f"{form}{of_all} ({layer_runs(clear.layer)})")
    if not said:
        return "Patched into another language's run, the source's value is given in no language's form beyond chance"
    return f"The source's value comes in {', and in '.join(said)}"


CLEAR = 0.05
"""Rise of a probability beyond which, by the interval's lower end, a title says that a value comes."""


def _panel_title(part: pd.DataFrame) -> str:
    kind, source, target = part[["kind", "source_language", "target_language"]].iloc[0]
    languages = f"{' + '.join(map(language_name, source.split('+')))} → {language_name(target)}"
    return "<br>".join(filter(None, [escape(languages), _KINDS[kind]]))


def _caption(result: PatchingResult, frame: pd.DataFrame, reading: str) -> tuple[str, str]:
    runs = {
        "denoising": "The target's prompt is run with the source's activation",
        "noising": "The source's prompt is run with the target's activation",
    }[result.direction]
    layers = "one layer at a time" if result.layers == "single" else "from that layer through the last"
    controls = ""
    if set(frame.kind) - {"cross_language"}:
        controls = """Control conditions: source and target in one language, with one form for both; and a third person asked
        for another attribute, whose activation tells nothing of the value followed."""
    caption = f"""Blue: a layer that holds the fact independently of any language; orange: one that holds the word already. On
    {ranged(frame.n_pairs, "pair", "pairs")} of people per panel; bands: 95 % interval over pairs of people."""
    shared = left_out(result.n_collisions, "pair", "pairs", "forms of two outcomes share the first token")
    details = f"""{runs} ({result.component} at {_POSITIONS[result.position]}), {layers}; mean probability of the
    {_READINGS[reading]}. {shared} A value
    comes where its probability rises by more than {CLEAR:g}, by the lower end of the interval. {controls}"""
    return caption, details


def patching_positions(
    result: PositionSweep,
    *,
    value: Literal["normalised", "source_in_target", "source_in_source", "target_in_target"] = "normalised",
) -> go.Figure:
    """Draw a heat map of one pair: every layer and token of the target's prompt patched in turn.

    Args:
        result: What to draw; of heads, the strongest of each layer and position.
        value: `normalised` effect (0: nothing, 1: answers as the source does), or an outcome's probability.

    Raises:
        ValueError: The result has no such outcome.
    """
    check_choice("outcome", value, ("normalised", *result.outcomes.outcome.unique()))
    if value == "normalised":
        frame = result.effects.assign(value=result.effects.normalised)
        name, unit = "normalised effect", "effect"
        meaning = """Change of the log-odds of the source's value against the target's (in any form), as a share of the
        difference of the two runs: 0, nothing changes; 1, the answer is as in the source's run"""
    else:
        frame = result.outcomes[result.outcomes.outcome == value]
        frame = frame.assign(value=np.exp(frame.log_prob))
        name, unit = f"probability of the {_OUTCOMES[value][0]}", "prob."
        meaning = name
    strongest = frame.loc[frame.value.abs().sort_values(kind="stable").index]
    strongest = strongest.drop_duplicates(["layer", "position"], keep="last")
    tokens = result.tokens.sort_values("position")
    layers = sorted(strongest.layer.unique())
    table = strongest.pivot_table(index="layer", columns="position", values="value", dropna=False).loc[layers]
    values = table.reindex(columns=tokens.position).to_numpy()
    labels = []
    for position, part, text in zip(tokens.position, tokens.part, token_texts(tokens), strict=True):
        shown = escape(text.replace(" ", "\u00a0")) or "∅"
        labels.append(text if part == "subject" else f"{position}: {shown}")
    hover = [
        [f"layer {layer}, {label}<br>{name}: {cell:.3f}" for label, cell in zip(labels, row, strict=True)]
        for layer, row in zip(layers, values, strict=True)
    ]
    scale: Any = DIVERGING if value == "normalised" else SCALE
    if value == "normalised":
        top = max(1.0, float(np.nanmax(np.abs(values)))) if not np.isnan(values).all() else 1.0
        low = -top
    else:
        top = max(0.05, float(np.nanmax(values)))
        low = 0.0
    figure = go.Figure(
        cells(values.tolist(), hover, low=low, high=top, title=f"{unit}{ROOM}", scale=scale)
    ).update_layout(plot_bgcolor=GRID)
    figure.update_yaxes(title_text="patched layer", tickvals=list(range(len(layers))), ticktext=layers, showgrid=False)
    figure.update_xaxes(title_text="token of the target's prompt", showgrid=False, tickangle=-60)
    figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=labels)
    for edge in np.flatnonzero(tokens.part.to_numpy()[1:] != tokens.part.to_numpy()[:-1]):
        figure.add_vline(edge + 0.5, line_color=INK, line_width=1)
    source, target, attribute = result.effects[["source_language", "target_language", "attribute"]].iloc[0]
    caption = f"""Cells high on the scale: where the source's activation turns the answer. One pair ({language_name(source)}
    source, {language_name(target)} target; {plain(attribute)}), so there is no interval."""
    details = f"""Patched: {result.component}. {meaning}. Lines separate the tokens before, of and after the subject, whose
    text is not shown; the source's tokens correspond to the target's by their relative position before, in and after it. Grey:
    not defined."""
    title = _strongest(values, labels, layers, name)
    return finish(
        figure, title, caption, details=details, height=20 * len(layers), foot=130, left=70, need=170 + 26 * len(tokens)
    )


def _strongest(values: Any, labels: list[str], layers: list[int], name: str) -> str:
    """State which cell of the one pair is strongest."""
    if np.isnan(values).all():
        return "One pair: the effect is not defined in any cell"
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    token = labels[column].replace("\u00a0", " ").replace(": ", " ", 1)
    return f"One pair: the {name} is largest at layer {layers[row]}, {unescape('token ' + token)} ({values[row, column]:.2f})"
