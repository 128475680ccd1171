from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.io
import pytest
import torch
from helpers.toy_figures import TOY, assert_titled, lens, similarity

from xlmech import figures
from xlmech.figures import TEMPLATE
from xlmech.figures.style import GRID
from xlmech.lens.direct_logit import DirectLogitResult


def direct_logit() -> DirectLogitResult:
    rows = [
        {"probe": f"{code}{i}", "subject": f"s{i}", "query_language": code, "component": component, "layer": layer}
        | {"form": form, "centred": value + 0.01 * i}
        for code, sign in (("fr", 1), ("zh", -1))
        for component, layer, of_query in (("embed", -1, 0), ("attn_out", 0, 1), ("attn_out", 1, 2), ("mlp_out", 1, 3))
        for form, value in (("query", sign * of_query), ("plant", 0.5))
        for i in range(3)
    ]
    frame = pd.DataFrame(rows)
    return DirectLogitResult(contributions=frame, totals=frame, n_layers=2, n_collisions=7, provenance=TOY)


ALL: dict[str, tuple[Any, Any]] = {
    "similarity": (figures.similarity, similarity),
    "depths": (figures.depths, lens),
    "direct_logit": (figures.direct_logit, direct_logit),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_has_title_axes_and_caption(name: str) -> None:
    draw, make = ALL[name]
    default = plotly.io.templates.default
    figure = draw(make())
    assert plotly.io.templates.default == default
    assert figure.layout.template == TEMPLATE
    assert_titled(figure)
    titles = {axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()] if axis.title.text}
    assert "layer" in titles
    assert len(titles) >= 2
    caption = figure.layout.meta["caption"]
    assert "95 % interval" in caption
    assert "people" in caption
    # Everything can be drawn: the figure is valid JSON.
    assert figure.to_json()


def test_similarity_draws_the_mean_with_its_band_above_the_null() -> None:
    figure = figures.similarity(similarity())
    means = [trace for trace in figure.data if trace.name == "mean over pairs"]
    nulls = [trace for trace in figure.data if trace.name == "mismatched people (null)"]
    assert len(means) == len(nulls) == 4
    assert list(means[3].y) == [0.1, 0.8, 0.2]
    assert list(nulls[3].y) == [0.2] * 3
    assert "0.800 [0.700, 0.900]" in means[3].hovertext[1]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(bands[3].y) == pytest.approx([0.2, 0.9, 0.3, 0.1, 0.7, 0.0])
    pairs = [trace for trace in figure.data if trace.name == "one pair of languages"]
    assert len(pairs) == 12
    assert not figure.layout.showlegend
    labels = [note.text for note in figure.layout.annotations if note.name == "line"]
    assert sorted(labels) == ["mean over pairs", "mismatched people", "one pair of languages"]
    titles = [note.text for note in figure.layout.annotations]
    assert "linear CKA, last token (predicts the answer)" in titles
    assert "16 people and 32 questions" in figure.layout.meta["caption"]


def test_depths_puts_events_at_their_layers_a_panel_per_lens() -> None:
    raw = lens()
    figure = figures.depths([raw, replace(raw, lens="tuned")])
    found = {trace.name: trace for trace in figure.data[:3]}
    assert list(found["training-language form peaks"].x) == [1]
    assert list(found["query-language form overtakes it"].x) == [2]
    assert list(found["query-language form peaks"].x) == [2, 2]
    assert len(figure.data) == 6
    assert [note.text for note in figure.layout.annotations[:2]] == ["raw lens (resid_post)", "tuned lens (resid_post)"]
    assert (
        "probability there 0.500; happens in 100 % of resamples" in found["training-language form peaks"].hovertext[0]
    )
    with pytest.raises(ValueError, match="whole values were not read"):
        figures.depths(raw, reading="whole_value")


def test_depths_names_events_beside_their_marks_where_a_row_has_room() -> None:
    figure = figures.depths(lens())
    names = [trace.name for trace in figure.data]
    notes = {note.text: note for note in figure.layout.annotations if note.text in names}
    assert set(notes) == set(names) and not figure.layout.showlegend
    assert {round(note.y) for note in notes.values()} == {1} and notes[names[0]].font.color == figure.data[
        0
    ].marker.color
    assert [notes[name].x for name in names] == [1, 2, 2] and {note.xanchor for note in notes.values()} == {"right"}
    early = lens().readings.assign(layer=2 - lens().readings.layer)
    assert figures.depths(replace(lens(), readings=early)).layout.showlegend


def test_depths_without_overtaking_leaves_a_gap() -> None:
    frame = lens().readings
    frame = frame.assign(prob=frame.prob.where(frame.form == "plant", 0.0))
    figure = figures.depths(replace(lens(), readings=frame))
    tick = next(trace for trace in figure.data if trace.name.endswith("overtakes it"))
    assert math.isnan(tick.x[0])
    assert "layer none [none, none]" in tick.hovertext[0]


def test_direct_logit_is_a_heat_map_per_component() -> None:
    figure = figures.direct_logit(direct_logit())
    attention, mlp = figure.data
    torch.testing.assert_close(torch.tensor(attention.z), torch.tensor([[-1.5, -2.5], [0.5, 1.5]]), check_dtype=False)
    assert math.isnan(mlp.z[0][0])
    assert mlp.z[0][1] == pytest.approx(-3.5)
    assert list(mlp.y) == ["Chinese (zh)", "French (fr)"] and figure.layout.plot_bgcolor == GRID
    assert mlp.hovertext[0][0] == "not measured"
    assert "fr, mlp_out of layer 1<br>2.500" in mlp.hovertext[1][1]
    assert (mlp.zmin, mlp.zmax) == pytest.approx((-3.5, 3.5))
    query = figures.direct_logit(direct_logit(), form="query")
    assert query.data[1].z[1][1] == pytest.approx(3.01)
    assert "7 questions are left out" in query.layout.meta["caption"]
    for n, wanted in ((1, "1 question is left out"), (0, "")):
        caption = figures.direct_logit(replace(direct_logit(), n_collisions=n)).layout.meta["caption"]
        assert wanted in caption and ("left out" in caption) == bool(n)
    with pytest.raises(ValueError, match="unknown form 'other'; use 'plant', 'query', 'query - plant'"):
        figures.direct_logit(direct_logit(), form="other")


def test_titles_state_what_intervals_allow() -> None:
    result = similarity()
    part = result.pooled.query("measure == 'cosine' and position == 'last'")
    assert list(part.layer[part.low > part.null]) == [1]
    shown = figures.similarity(result).layout.meta["title"]
    assert shown == "In layer 1 languages share more than mismatched people (last token, cosine)"
    none = replace(result, pooled=result.pooled.assign(low=0.1))
    assert figures.similarity(none).layout.meta["title"].startswith("In no layer do languages share more")
    every = replace(result, pooled=result.pooled.assign(low=0.3))
    assert figures.similarity(every).layout.meta["title"].startswith("In every layer languages share more")


def test_titles_state_which_form_comes_first_and_which_layer_writes_it() -> None:
    found = lens().depths().set_index(["query_language", "event"])
    assert found.high["fr", "plant peak"] < found.low["fr", "query peak"]
    shown = figures.depths(lens()).layout.meta["title"]
    assert shown == "The training language's form peaks before the query language's in French"
    together = lens().readings.assign(prob=lens().readings.prob.where(lens().readings.layer == 2, 0.0))
    shown = figures.depths(replace(lens(), readings=together)).layout.meta["title"]
    assert shown == "No language's own form peaks later than the training language's beyond chance"
    result = direct_logit()
    terms = result.summary().query("form == 'query' and component != 'embed' and low > 0")
    best = terms.sort_values("value").drop_duplicates("query_language", keep="last")
    assert [(row.query_language, row.component, row.layer) for row in best.itertuples()] == [("fr", "mlp_out", 1)]
    shown = figures.direct_logit(result, form="query").layout.meta["title"]
    assert shown == "The MLP of layer 1 does most for the query language's form, in French alone"
