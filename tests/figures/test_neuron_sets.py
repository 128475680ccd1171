from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.toy_figures import axis_titles, trace
from helpers.toy_results import neurons

from xlmech import figures
from xlmech.figures import style
from xlmech.neurons.privacy_neurons import PrivacyNeurons


def test_neurons_per_layer_counts() -> None:
    figure = figures.neurons_per_layer(neurons())
    assert list(trace(figure, "universal").y) == [1, 0, 2]
    assert list(trace(figure, "French").y) == [0, 1, 0]
    assert list(trace(figure, "English").y) == [0, 0, 0]
    assert trace(figure, "universal").hovertext[2] == "universal<br>layer 2: 2 of 8 neurons"
    assert axis_titles(figure) == {"layer", "universal (neurons)", "specific (neurons)"}
    assert figure.layout.barmode == "stack"
    assert "3 universal and 1 language-specific ones of 24" in figure.layout.meta["caption"]


def test_one_language_has_one_panel() -> None:
    rows = neurons().chosen.assign(kind="specific", language="en")
    result = replace(neurons(), languages=("en",), scores=neurons().scores[:1], chosen=rows)
    figure = figures.neurons_per_layer(result)
    assert [bar.name for bar in figure.data] == ["English (en)"] and list(figure.data[0].y) == [1, 1, 2]
    assert axis_titles(figure) == {"layer", "neurons"} and not figure.layout.showlegend
    assert "4 of 24, by probes in English (en) alone" in figure.layout.meta["caption"]
    assert "specific" not in figure.layout.meta["title"]


def scored(scores: dict[str, list[int]], *, d_mlp: int = 50) -> PrivacyNeurons:
    """Per language the flat indices of its neurons, strongest first; 3 layers."""
    table = torch.zeros(len(scores), 3, d_mlp)
    for row, indices in enumerate(scores.values()):
        for rank, index in enumerate(indices):
            table[row].view(-1)[index] = 1 - 0.01 * rank
    return replace(neurons(), languages=tuple(scores), scores=table)


def test_overlap_counts_exact_combinations() -> None:
    figure = figures.overlap(scored({"en": [0, 1, 2, 9], "fr": [0, 1, 7], "zh": [0, 60, 61]}), n_neurons=3)
    bars = figure.data[0]
    found = dict(zip([text.split("exactly<br>")[1] for text in bars.hovertext], bars.y, strict=True))
    assert found == {
        "Chinese (zh)": 2,
        "Chinese (zh)<br>English (en)<br>French (fr)": 1,
        "English (en)<br>French (fr)": 1,
        "English (en)": 1,
        "French (fr)": 1,
    }
    assert list(bars.y) == sorted(bars.y, reverse=True)
    assert (
        sum(count * (text.count("(")) for text, count in found.items()) == 9
    )  # three neurons in each of three languages
    dots = figure.data[-1]
    assert len(dots.x) == 1 + 3 + 2 + 1 + 1
    assert set(dots.marker.color) == {style.colour(code) for code in ("en", "fr", "zh")}
    assert list(figure.layout.yaxis2.ticktext) == ["Chinese (zh), 3", "English (en), 3", "French (fr), 3"]
    caption = figure.layout.meta["caption"]
    assert "The 3 MLP neurons" in caption and "of 150" in caption and "1 are in all languages" in caption
    assert "would share 0.06" in caption and "Not drawn" not in caption
    assert figure.layout.template == figures.TEMPLATE and axis_titles(figure) == {
        "neurons", "language, neurons", "exactly these languages"
    }  # fmt: skip


def test_overlap_takes_as_many_as_universal_ones_and_drops_what_has_no_score() -> None:
    figure = figures.overlap(scored({"en": [0, 1, 2, 3], "fr": [5]}))  # three universal neurons
    assert list(figure.layout.yaxis2.ticktext) == ["English (en), 3", "French (fr), 1"]


def test_overlap_draws_the_largest_and_counts_the_rest() -> None:
    codes = ["ar", "de", "en", "es", "fr"]
    every = [[code for bit, code in enumerate(codes) if number >> bit & 1] for number in range(1, 32)]
    members = {code: [index for index, group in enumerate(every) if code in group] for code in codes}
    figure = figures.overlap(scored(members), n_neurons=16)
    assert len(figure.data[0].x) == 24
    assert "Not drawn: 7 smaller combinations, 7 neurons together." in figure.layout.meta["caption"]


def test_overlap_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="two languages or more"):
        figures.overlap(scored({"en": [0]}))
    with pytest.raises(ValueError, match="n_neurons must be at least 1, got 0"):
        figures.overlap(scored({"en": [0], "fr": [1]}), n_neurons=0)
    with pytest.raises(ValueError, match="no neuron has a positive score"):
        figures.overlap(scored({"en": [], "fr": []}))
