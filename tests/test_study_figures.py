"""Figures of benchmarks and studies: their data, axes and what their titles state."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.toy_figures import assert_titled, axis_titles

ANALYSES = Path(__file__).parents[1] / "analyses"
sys.path[:0] = [str(ANALYSES / "benchmarks"), str(ANALYSES)]

import drawing  # noqa: E402
import information_flow  # noqa: E402
import outputs  # noqa: E402


def row(work: str, ratio: float, ends: tuple[float, float]) -> dict[str, object]:
    times = {"seconds_ours": 1.0, "seconds_peer": ratio, "runs": 5}
    return {
        "work": work,
        "model": "toy, planted",
        "peer": "a loop",
        "ratio": ratio,
        "ratio_lowest_highest": [*ends],
    } | times


def test_speed_is_bars_on_a_logarithmic_axis() -> None:
    figure = drawing.speed(
        [row("lens", 1.2, (0.9, 1.4)), row("patching", 50.0, (40, 60)), row("ablation", 9.0, (8, 10))]
    )
    assert_titled(figure)
    (bars,) = figure.data
    assert list(bars.x) == [50, 9, 1.2] and bars.orientation == "h" and figure.layout.xaxis.type == "log"
    np.testing.assert_allclose(bars.error_x.array, [10, 1, 0.2])
    np.testing.assert_allclose(bars.error_x.arrayminus, [10, 1, 0.3])
    assert bars.marker.color[2] != bars.marker.color[0]
    assert axis_titles(figure) == {"times as fast as the peer (ratio of medians)"}
    assert figure.layout.meta["title"] == "Faster than the peer in 2 of 3 works: 1.2 to 50 times"
    assert [note.text for note in figure.layout.annotations if note.name is None] == ["50 x", "9 x", "1.2 x"]


def test_growth_states_the_steepest_power() -> None:
    rows = [
        {"work": work, "axis": axis, "value": value, "seconds": 0.1 * value**power, "peak_mb": 20.0}
        for work, power in (("attribution", 0.9), ("leakage", 0.5))
        for axis, values in (("prompts", (4, 16, 64)), ("layers", (2, 4)))
        for value in values
    ]
    figure = drawing.growth(rows)
    assert_titled(figure)
    assert drawing.slope(rows, "attribution", "prompts") == pytest.approx(0.9)
    assert figure.layout.meta["title"].startswith(
        "Seconds grow at most with the power 0.90 of what grows (attribution over "
    )
    assert axis_titles(figure) == {"prompts", "layers", "processor seconds", "peak beyond<br>the model (MB)"}
    assert {note.text for note in figure.layout.annotations if note.name == "line"} == {"attribution", "leakage"}


def test_scaling_draws_what_was_measured() -> None:
    found = {
        "overhead": [
            {"way": way, "leakage": 2 * s, "attribution": 2 * s} for way, s in (("plain", 1.0), ("ray2", 0.6))
        ],
        "growth": [{"probes": n, "seconds": 0.002 * n, "peak_mb": 600.0} for n in (1000, 10_000)],
    }
    figure = drawing.scaling(found)
    assert_titled(figure)
    wanted = "2 actors on Ray take 0.60 of the time of one process; a probe takes 2 ms of 1,000, 2 of 10,000"
    assert figure.layout.meta["title"] == wanted
    assert axis_titles(figure) == {"seconds / seconds in one go", "probes", "ms per probe"}
    with pytest.raises(ValueError, match="holds none of overhead, growth and models"):
        drawing.scaling({})


def curves(lines: dict[str, list[float]], *, spread: float = 0.05) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "plant_language": code,
                "line": line,
                "layer": layer,
                "value": value,
                "low": value - spread,
                "high": value + spread,
            }
            for code in ("en", "fr")
            for line, values in lines.items()
            for layer, value in enumerate(values)
        ]
    )


def test_titles_of_the_study_of_flow() -> None:
    shared = information_flow.similarity_title(curves({"same person": [0.1, 0.5, 0.6, 0.1], "null": [0.2] * 4}))
    assert shared == "In layers 1 and 2 languages share more than mismatched people, in every copy of the model"
    patched = curves({"private source_in_target": [0.0, 0.1], "private source_in_source": [0.3, 0.9]})
    wanted = "up to 0.10 [0.05, 0.15] in the target's form and 0.90 [0.85, 0.95] in the source's"
    assert information_flow.patching_title(patched) == f"Patched, private values come with probability {wanted}"
    lens = information_flow.lens_title(curves({"plant": [0.0, 0.5, 0.1], "query": [0.0, 0.1, 0.6]}))
    assert lens == "The training language's form is likeliest in an earlier layer than the query's in 2 of 2 copies"


def test_leakage_by_training_language_is_a_matrix_with_intervals() -> None:
    index = pd.MultiIndex.from_product([["fr", "en"], ["en", "fr", "zh"]], names=["plant", "query"])
    rates = pd.DataFrame({"private_value": [0.5, 1.0, 0.1, 0.9, 0.4, 0.3], "control": 0.1}, index=index)
    rates = rates.assign(private_low=rates.private_value - 0.15, private_high=rates.private_value.clip(upper=0.9) + 0.1)
    figure = outputs.training_matrix(rates)
    assert_titled(figure)
    np.testing.assert_allclose(figure.data[0].z, [[1.0, 0.5, 0.1], [0.4, 0.9, 0.3]])
    assert axis_titles(figure) == {"query language", "training language"}
    assert list(figure.layout.xaxis.ticktext) == ["French (fr)", "English (en)", "Chinese (zh)"]
    assert "50 %<br>" in next(note.text for note in figure.layout.annotations if (note.x, note.y) == (1, 0))
    off = rates[[plant != query for plant, query in rates.index]]
    assert (off.private_low > off.control).sum() == 3
    assert figure.layout.meta["title"].startswith("Private data cross languages: 3 of 4 cells off the diagonal")
    none = outputs.training_matrix(rates.assign(control=0.9)).layout.meta["title"]
    assert none == "Outside the training language no cell lies above control people's rate"
