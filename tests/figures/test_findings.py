from __future__ import annotations

import math

import pytest

from xlmech.figures import findings


@pytest.mark.parametrize(
    ("found", "asked", "text"),
    [
        (["en", "fr", "zh"], ["en", "fr", "zh"], "in all three languages"),
        (["en", "fr"], ["en", "fr"], "in both languages"),
        (["fr"], ["en", "fr"], "in French alone"),
        (["fr"], ["fr"], "in French"),
        ([], ["fr"], "in French"),
        (["en", "fr"], ["en", "fr", "zh"], "in 2 of 3 languages"),
        ([], ["en", "fr", "zh"], "in 0 of 3 languages"),
    ],
)
def test_in_languages(found: list[str], asked: list[str], text: str) -> None:
    assert findings.in_languages(found, asked) == text


def test_words_of_findings() -> None:
    assert findings.in_languages(["en", "zh"], ["en", "zh"], other=True) == "in both other languages"
    assert findings.in_none(["en", "fr", "zh"]) == "in any of three languages"
    assert findings.in_none(["en", "fr"]) == "in either language" and findings.in_none(["en"]) == "in English"
    assert (findings.spelled(10), findings.spelled(1300)) == ("ten", "1,300")
    assert findings.layer_runs([5]) == "layer 5" and findings.layer_runs([6, 5]) == "layers 5 and 6"
    assert findings.layer_runs([5, 6, 7, 9, 12]) == "layers 5 to 7, 9 and 12"
    assert findings.share_range([0.38, math.nan, 1.0]) == "38 to 100 %" and findings.share_range([0.5, 0.5]) == "50 %"
    assert findings.share_range([math.nan]) == "not measured"
    assert findings.with_bounds(0.36, 0.28, 0.44) == "36 % [28, 44]"
    assert findings.with_bounds(0.36, math.nan, math.nan) == "36 %"
