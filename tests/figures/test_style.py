from __future__ import annotations

from helpers.toy_figures import trace
from helpers.toy_results import growing, leakage

from xlmech import figures
from xlmech.figures import style, wording


def test_a_language_keeps_its_colour() -> None:
    dots = trace(figures.leakage_by_language(leakage({"fr": [1, 0], "en": [0, 0], "xx": [0, 0]})), "private")
    lines = figures.trade_off(growing())
    assert dots.marker.color[0] == style.colour("fr") and dots.marker.color[1] == trace(lines, "English").line.color
    assert len({style.colour(code) for code in style.LANGUAGES}) == 10
    assert dots.marker.color[2] == style.colour("xx") in style.OTHERS


def test_nothing_is_offered_that_uploads_the_data() -> None:
    assert {"sendChartToCloud", "sendDataToCloud"} <= set(style.TEMPLATE.layout.modebar.remove)


def test_languages_have_one_order_and_captions_even_lines() -> None:
    assert wording.ordered(["zh", "fr", "en", "zh", "ar"], "fr", "sw") == ["fr", "ar", "zh", "en"]
    assert style.wrapped("short") == ["short"]
    lines = style.wrapped("word " * 30)
    assert len(lines) == 2 and abs(len(lines[0]) - len(lines[1])) <= 5
    assert figures.language_name("fr") == "French (fr)" and figures.language_name("xx") == "xx"
