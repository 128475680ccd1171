from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.browser import visit
from helpers.toy_figures import BAD, Seen, sweep

from xlmech import figures
from xlmech.audit.trace import RecordTrace
from xlmech.data.records import MASK
from xlmech.figures import style, token_views


def shown(view: figures.View) -> dict[str, Any]:
    """What a view is drawn from."""
    call = str(view).rpartition("CircuitsVis.render(")[2]
    found: dict[str, Any] = json.loads(call[call.index("{") : call.rindex("}") + 1])
    return found


def all_shown(view: figures.View) -> list[dict[str, Any]]:
    """What each row of a view is drawn from."""
    calls = re.findall(
        r'CircuitsVis.render\(\s*"circuits-vis-[\w-]+",\s*CircuitsVis.ColoredTokens,(.*?)\n\s*\)', view.html, re.S
    )
    return [json.loads(call) for call in calls]


def test_neuron_activations_are_rows_of_coloured_tokens_by_one_script_that_loads_nothing() -> None:
    view = figures.neuron_activations(Seen())
    html = view._repr_html_()
    rows = all_shown(view)
    assert (
        html == str(view) == view.html and "unpkg.com" not in html and html.count("</script>") == 1 and len(rows) == 6
    )
    assert len(html) < 1.2 * len(str(figures.leaking_tokens(sweep())))
    assert all(row["tokens"] == [escape(BAD), "[subject 1/1]", "?"] for row in rows)
    assert [row["values"] for row in rows[:3]] == [[0.1, 10.1, 20.1], [2.3, 12.3, 22.3], [2.4, 12.4, 22.4]]
    assert rows[3]["values"] == [100, 110, 120]
    np.testing.assert_allclose([row["maxValue"] for row in rows], [120.1, 122.3, 122.4] * 2)
    assert all(row["minValue"] == -row["maxValue"] for row in rows)
    assert {(row["negativeColor"], row["positiveColor"]) for row in rows} == {(style.ORANGE, style.BLUE)}
    for text in ("Prompt 1, English (en)", "Prompt 2, French (fr)", "layer 2, neuron 4 (122)"):
        assert text in html
    assert view.title == "Neuron 4 of layer 2 is most active, 122, at “?”" and len(repr(view)) < 700
    assert "3 neurons over 2 prompts" in view.caption and "no interval" in view.caption
    assert escape(view.title) in html and escape(view.caption) in html
    french = figures.neuron_activations(Seen(), languages=["fr"])
    assert len(all_shown(french)) == 3 and "3 neurons over 1 prompt," in french.caption
    with pytest.raises(ValueError, match="unknown language 'es'; use 'en', 'fr'"):
        figures.neuron_activations(Seen(), languages=["es"])


def test_the_mask_is_the_records_own() -> None:
    assert token_views.MASK == MASK


def test_leaking_tokens_take_the_largest_effect_over_layers() -> None:
    call = str(figures.leaking_tokens(sweep())).rpartition("CircuitsVis.render(")[2]
    assert "ColoredTokens" in call and "subject 2/2" in call
    assert "0.0, 0.0, 0.0, 1.0, 1.0" in call
    assert shown(figures.leaking_tokens(sweep(), layer=1))["values"] == [0, 0, 0, 0, 1]
    view = figures.leaking_tokens(sweep())
    assert view.title == "Most of the leak passes through “[subject 2/2]” (1.00 of the way)"
    assert "the largest over all layers" in view.caption and "no interval" in view.caption
    assert f"linear-gradient(to right,{style.ORANGE},#fff,{style.BLUE})" in view.html
    none = replace(sweep(), effects=sweep().effects.assign(normalised=0.0))
    assert figures.leaking_tokens(none).title == "The leak passes through no single token of this prompt"
    with pytest.raises(ValueError, match="no layer 9 in this sweep; it has 0 to"):
        figures.leaking_tokens(sweep(), layer=9)


@pytest.mark.slow
def test_a_view_shows_tokens_in_a_browser_and_no_script_of_theirs(tmp_path: Path) -> None:
    path = figures.save(figures.neuron_activations(Seen()), tmp_path / "view.html")
    found = visit(path, tmp_path / "net.json")
    assert [line for line in found.console if "WebGL" not in line] == [] and found.asked == []
    text = found.dom[found.dom.index('class="colored-tokens"') : found.dom.index("<script crossorigin")]
    assert text.count('class="colored-tokens"') == 6
    assert "<script" not in text
    shown_text = unescape(text).replace("\u00a0", " ")
    assert "[subject 1/1]" in shown_text and BAD in shown_text


def test_attention_is_a_circuitsvis_view() -> None:
    tokens = pd.DataFrame(
        {
            "query_language": "fr",
            "position": range(3),
            "part": ["special", "subject", "after"],
            "token": ["<s>", MASK, "?"],
        }
    )
    attention = pd.DataFrame(
        {"query_language": "fr", "layer": 4, "head": 1, "destination": [0, 1, 1, 2, 2, 2], "source": [0, 0, 1, 0, 1, 2]}
    ).assign(weight=[1.0, 0.25, 0.75, 0.125, 0.5, 0.375])
    trace = object.__new__(RecordTrace)
    for name, value in (("attention", attention), ("tokens", tokens), ("languages", ("fr",))):
        object.__setattr__(trace, name, value)
    view = figures.attention(trace, "fr")
    assert view.title == "From the last token, head L4H1 looks most at “[subject 1/1]” (0.50), of 1 head on one prompt"
    assert "no interval" in view.caption and "1 head on one prompt" in view.caption
    drawn = shown(view)
    assert (drawn["maxValue"], drawn["positiveColor"]) == (
        0.8,
        style.BLUE,
    )  # a weight on another than the first token ends it
    page = str(view)
    assert "0.8 and more" in page
    assert "L4H1" in page
    assert "subject 1/1" in page
    assert "0.125, 0.5, 0.375" in page
    with pytest.raises(ValueError, match="unknown language 'es'; use 'fr'"):
        figures.attention(trace, "es")
