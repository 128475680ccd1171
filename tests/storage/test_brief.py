"""Results in a notebook: one sentence with the number, its interval and n, and a picture that holds the same numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from helpers.toy_figures import lens, patching
from helpers.toy_results import TOY, leakage, mitigation, neurons

from xlmech.metrics.intervals import rate_interval
from xlmech.mitigation.specificity import SpecificityResult
from xlmech.neurons.attribution.attribute import AttributionResult
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.storage.brief import Bar, Brief, layer_bars
from xlmech.storage.result import Provenance

SVG = "{http://www.w3.org/2000/svg}"
BAD = "<script>alert(1)</script>"


def sentence(result: Any) -> str:
    return unescape(re.search(r"<p>(.*?)</p>", result._repr_html_()).group(1))  # type: ignore[union-attr]


def drawn(result: Any, element: str) -> list[Any]:
    (svg,) = re.findall(r"<svg.*</svg>", result._repr_html_())
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{element}"))  # noqa: S314


def texts(result: Any) -> list[str]:
    return [one.text or "" for one in drawn(result, "text")]


def test_leakage_is_a_rate_with_its_interval_and_people() -> None:
    result = leakage({"en": [1, 1, 1, 0], "fr": [1, 0, 0, 0]}, controls={"en": [0, 0, 1, 0]})
    rate = rate_interval([2, 1, 1, 0], [2, 2, 2, 2])
    wanted = f"{rate.value:.0%} ({100 * rate.low:.0f} to {100 * rate.high:.0f})".replace("%", " %")
    assert sentence(result) == (
        f"{wanted} of the questions give the value: 4 private people, 8 questions, 95 % interval over people."
    )
    english, french = drawn(result, "rect")
    assert float(english.get("width")) == pytest.approx(3 * float(french.get("width")), rel=0.01)
    assert len(drawn(result, "circle")) == 1, "control people were asked in English alone"
    assert texts(result)[0] == "en" and texts(result)[1].startswith("75 % (")
    only = leakage({}, controls={"en": [0, 1]})
    assert "2 control people, 2 questions" in sentence(only) and not drawn(only, "circle")


def test_a_lens_is_the_layers_at_which_answers_are_likeliest() -> None:
    assert sentence(lens()) == (
        "The answer in the language of the question is likeliest at layer 2 of 0 to 2 (2 to 2, the ends of the 95 % intervals "
        "over people): 2 languages, 4 people."
    )
    assert texts(lens()) == ["fr", "2 (2 to 2), probability 0.70", "en", "2 (2 to 2), probability 0.90"]


def test_mitigation_is_a_reduction_beside_that_of_random_neurons() -> None:
    names = ["condition", "group", "reduction", "low", "high", "reason", "n_subjects"]
    rows = [("universal", "private", 0.4, 0.1, 0.6, "", 40), ("random", "private", 0.02, -0.1, 0.1, "", 40)]
    result = replace(mitigation(), overall=pd.DataFrame(rows, columns=names))
    assert sentence(result) == (
        "74 of 36,864 neurons ablated (universal): reduction of extraction 40 % (10 to 60), 40 people, 95 % interval over "
        "people; by random neurons 2 % (\u221210 to 10)."
    )
    assert texts(result)[:2] == ["en", "80 % \u2192 20 % (8 to 40)"] and len(drawn(result, "circle")) == 2
    assert sentence(mitigation()) == "74 of 36,864 neurons ablated (universal)."
    turned = replace(result, mean_factors={"universal": 0.9})
    assert "neurons turned down (universal)" in sentence(turned)


def test_neurons_are_counted_per_layer() -> None:
    found = neurons()
    assert sentence(found) == "3 of 24 neurons (12 %) are universal, chosen by the rule 'min' from 2 languages."
    heights = [float(one.get("height")) for one in drawn(found, "rect")]
    assert heights[0] == pytest.approx(heights[2] / 2) and heights[1] == 0
    assert "2" in texts(found)
    one = replace(
        found, languages=("fr",), scores=found.scores[:1], chosen=found.chosen[found.chosen.kind == "specific"]
    )
    assert sentence(one) == "1 of 24 neurons (4 %) are specific to fr, chosen by the rule 'min' from 1 language."


def test_gates_are_counted_with_their_mean_factor() -> None:
    factors = torch.ones(2, 4)
    factors[1, 0], factors[1, 1] = 0.5, 0.25
    gates = NeuronGates(
        factors=factors, history=pd.DataFrame({"private": [1.0] * 3, "public": 1.0, "kl": 0.0}), provenance=TOY
    )
    wanted = "2 of 8 neurons (25 %) are turned down, to a mean factor of 0.38; learned in 3 steps."
    assert sentence(gates) == wanted
    none = replace(gates, factors=torch.ones(2, 4))
    assert sentence(none).startswith("0 of 8 neurons (0 %) are turned down; ") and "<svg" not in none._repr_html_()


def test_patching_is_the_largest_effect() -> None:
    result = patching()
    frame = result.outcomes[result.outcomes.outcome == "source_in_target"]
    effects = frame.assign(
        normalised=frame.layer.map({0: 0.1, 1: 0.8, 2: 0.3}) + 0.01 * frame.groupby("layer").cumcount()
    )
    effects.loc[effects.kind != "cross_language", "normalised"] = 0.0
    found = replace(result, effects=effects)
    assert sentence(found).startswith(
        "Patching resid_post at last from fr to es acts most at layer 1: normalised effect 0.82 ("
    )
    assert sentence(found).endswith("95 % interval), 5 pairs (cross_language).")
    heights = [float(one.get("height")) for one in drawn(found, "rect")]
    assert len(heights) == 3 and heights.index(max(heights)) == 1


def test_attribution_is_the_layer_with_most_of_it() -> None:
    mean = torch.tensor([[[0.1, 0.1], [0.6, -5.0], [0.2, float("nan")]]])
    result = AttributionResult(
        languages=("en",), mean=mean, share=mean, top=pd.DataFrame({"probe": ["a", "b"], "layer": 0, "neuron": 0, "effect": 1.0}),
        completeness=pd.DataFrame(), threshold=0.1, method="ig", positions="all", provenance=TOY,
    )  # fmt: skip
    assert sentence(result) == (
        "Layer 1 of 0 to 2 has 60 % of what neurons add to the answers: ig, 1 language, 2 probes; a mean, without interval."
    )


def test_specificity_is_the_most_specific_set() -> None:
    rows = [
        {"language": of, "probe": f"{of}{n}{code}", "record": f"r{n}", "subject": f"s{n}", "attribute": "city"}
        | {"query_language": code, "template": 0, "before": 1.0, "after": float(of != code or n > 5)}
        for of in ("en", "fr")
        for code in ("en", "fr")
        for n in range(8)
    ]
    result = SpecificityResult(probes=pd.DataFrame(rows), sizes={"en": 3, "fr": 3}, provenance=TOY)
    best = result.specificity().iloc[0]
    assert best.specificity == 0.75
    assert sentence(result) == (
        f"The set of en reduces extraction in its own language by 75 % ({100 * best.low:.0f} to {100 * best.high:.0f}) more than "
        "in any other: the most of 2 sets, 8 people, 95 % interval over people."
    ).replace("-", "\u2212")


@pytest.mark.parametrize("columns", [False, True])
def test_nothing_that_is_named_is_read_as_html(columns: bool) -> None:
    bars = (Bar(label=BAD, value=1.0, text=BAD), Bar(label="&", value=math.nan))
    html = Brief(sentence=BAD, caption=f'" {BAD}', bars=bars, columns=columns).to_html()
    assert "<script" not in html
    ElementTree.fromstring(f"<div>{html}</div>")  # noqa: S314
    odd = leakage({BAD: [1, 0]})
    where = Provenance(model=BAD, adapter=BAD)
    shown = replace(odd, provenance=where)._repr_html_()
    assert "<script" not in shown and unescape(shown).count("<script>") >= 3
    result = leakage({"en": [1, 0]})
    hostile = replace(result, probes=result.probes.assign(record=BAD, subject=BAD, attribute=BAD))
    assert "script" not in hostile._repr_html_(), "ids, people and kinds of data are not shown at all"


def test_a_picture_is_small_and_needs_no_script() -> None:
    many = leakage({f"l{number}": [1, 0, 0] for number in range(40)})
    html = many._repr_html_()
    assert len(html) < 20_000 and len(drawn(many, "rect")) == 24 and "16 more are not shown." in html
    assert not re.search(r"<(?:script|img|iframe|link)|https?://(?!www\.w3\.org)", html)
    assert len(layer_bars([0.0] * 80)) == 80 and layer_bars([1.0, 0.5])[0].text == "1"
