from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.toy_figures import axis_titles
from helpers.toy_results import neurons

from xlmech import figures
from xlmech.figures.marks import ROOM
from xlmech.neurons.privacy_neurons import PrivacyNeurons


def test_neurons_per_layer_counts() -> None:
    figure = figures.neurons_per_layer(neurons())
    (cells,) = figure.data
    np.testing.assert_allclose(cells.z, [[1, 0, 2], [0, 0, 0], [0, 1, 0]])
    assert list(figure.layout.yaxis.ticktext) == ["<b>universal</b>, 3", "English (en), 0", "French (fr), 1"]
    assert cells.hovertext[0][2] == "<b>universal</b><br>layer 2: 2 of 8 neurons"
    assert axis_titles(figure) == {"layer", "kind or language, neurons"} and cells.colorbar.title.text == "neurons"
    assert [note.text for note in figure.layout.annotations if note.name is None] == ["1", "2", "1"]
    assert "3 universal and 1 language-specific ones of 24" in figure.layout.meta["caption"]


def test_the_title_names_the_fewest_layers_with_half_of_the_neurons() -> None:
    shown = figures.neurons_per_layer(neurons()).layout.meta["title"]
    layers = neurons().chosen.query("kind == 'universal'").layer
    assert (layers == 2).mean() == pytest.approx(2 / 3)
    assert shown == "67 % of the 3 universal neurons lie in layer 2 of 3"
    rows = pd.DataFrame({"kind": "universal", "language": "", "layer": [0, 1, 1, 3, 4, 4, 5, 8], "neuron": range(8)})
    many = replace(neurons(), scores=torch.zeros(2, 9, 8), chosen=rows.assign(score=1.0))
    shown = figures.neurons_per_layer(many).layout.meta["title"]
    assert shown == "50 % of the 8 universal neurons lie in layers 3 to 5 of 9"
    none = replace(neurons(), chosen=neurons().chosen.iloc[:0])
    assert figures.neurons_per_layer(none).layout.meta["title"] == "No language-specific neurons were chosen"


def test_one_language_has_bars() -> None:
    rows = neurons().chosen.assign(kind="specific", language="en")
    result = replace(neurons(), languages=("en",), scores=neurons().scores[:1], chosen=rows)
    figure = figures.neurons_per_layer(result)
    assert [bar.name for bar in figure.data] == ["English (en)"] and list(figure.data[0].y) == [1, 1, 2]
    assert axis_titles(figure) == {"layer", "neurons"} and not figure.layout.showlegend
    assert "4 of 24 MLP neurons, by probes in English (en) alone" in figure.layout.meta["caption"]
    assert figure.layout.meta["title"] == "50 % of the 4 English (en) neurons lie in layer 2 of 3"


def scored(scores: dict[str, list[int]], *, d_mlp: int = 50) -> PrivacyNeurons:
    """Per language the flat indices of its neurons, strongest first; 3 layers."""
    table = torch.zeros(len(scores), 3, d_mlp)
    for row, indices in enumerate(scores.values()):
        for rank, index in enumerate(indices):
            table[row].view(-1)[index] = 1 - 0.01 * rank
    return replace(neurons(), languages=tuple(scores), scores=table)


def test_overlap_counts_what_two_languages_share() -> None:
    result = scored({"en": [0, 1, 2, 9], "fr": [0, 1, 7], "zh": [0, 60, 61]})
    figure = figures.overlap(result, n_neurons=3)
    (cells,) = figure.data
    sets = {"zh": {0, 60, 61}, "en": {0, 1, 2}, "fr": {0, 1, 7}}
    wanted = [[math.nan if a == b else len(sets[a] & sets[b]) for b in sets] for a in sets]
    np.testing.assert_allclose(np.array(cells.z, dtype=float), wanted)
    written = {(note.x, note.y): note.text for note in figure.layout.annotations if note.name is None}
    assert [written[i, i] for i in range(3)] == ["2", "1", "1"]  # of that language alone
    assert written[1, 2] == written[2, 1] == "2"
    assert (cells.zmin, cells.zmax) == (0, 2)
    assert list(cells.colorbar.tickvals) == [pytest.approx(9 / 150), 2]
    assert list(cells.colorbar.ticktext) == ["0.06 (chance)", "2"] and cells.colorbar.title.text == f"in both{ROOM}"
    assert cells.hovertext[1][2] == "English (en) and French (fr)<br>2 neurons in both, 0.06 by chance"
    assert cells.hovertext[0][0] == "2 of 3 neurons are Chinese (zh) alone"
    assert list(figure.layout.yaxis.ticktext) == ["Chinese (zh), 3", "English (en), 3", "French (fr), 3"]
    caption = figure.layout.meta["caption"]
    assert "The 3 MLP neurons" in caption and "of 150" in caption and "1 are in all languages" in caption
    assert "would share 0.06" in caption
    assert figure.layout.template == figures.TEMPLATE and axis_titles(figure) == {"language", "language, neurons"}


def test_the_title_counts_the_pairs_that_share_more_than_by_chance() -> None:
    rng = np.random.default_rng(0)
    chinese = (60 + rng.permutation(90)[:20]).tolist()
    alike = scored({"en": [*range(20)], "fr": [*range(10), *range(30, 40)], "zh": chinese})
    members = [set(np.argsort(-row)[:20].tolist()) for row in alike.scores.flatten(1).numpy()]
    random = [len(set(rng.permutation(150)[:20].tolist()) & set(range(20))) for _ in range(4000)]
    shared = [len(a & b) for a, b in itertools.combinations(members, 2)]
    assert [n for n in shared if n > np.quantile(random, 0.975)] == [10]
    shown = figures.overlap(alike, n_neurons=20).layout.meta["title"]
    assert shown == "1 of 3 pairs of languages share 10 of their 20 strongest neurons, more than by chance (2.7)"
    two = figures.overlap(scored({"en": [0, 1], "fr": [0, 1]}), n_neurons=2).layout.meta["title"]
    assert two == "English and French share 2 of their 2 strongest neurons; 0.027 by chance"
    apart = figures.overlap(scored({"en": [0, 1], "fr": [2, 3]}), n_neurons=2).layout.meta["title"]
    assert apart == "Languages share no more of their 2 strongest neurons than by chance"


def test_overlap_takes_as_many_as_universal_ones_and_drops_what_has_no_score() -> None:
    figure = figures.overlap(scored({"en": [0, 1, 2, 3], "fr": [5]}))  # three universal neurons
    assert list(figure.layout.yaxis.ticktext) == ["English (en), 3", "French (fr), 1"]


def test_overlap_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="two languages or more"):
        figures.overlap(scored({"en": [0]}))
    with pytest.raises(ValueError, match="n_neurons must be at least 1, got 0"):
        figures.overlap(scored({"en": [0], "fr": [1]}), n_neurons=0)
    with pytest.raises(ValueError, match="no neuron has a positive score"):
        figures.overlap(scored({"en": [], "fr": []}))
