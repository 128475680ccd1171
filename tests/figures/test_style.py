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


def test_pale_colours_are_darkened_for_text() -> None:
    assert style.readable(style.INK) == style.INK and style.readable("rgba(0,0,0,0.5)") == "rgba(0,0,0,0.5)"
    assert style.readable("#000000") == "#000000"
    channels = [int(style.readable("#DDCC77")[i : i + 2], 16) for i in (1, 3, 5)]
    assert sum(w * c for w, c in zip((0.299, 0.587, 0.114), channels, strict=True)) / 255 < 0.51
