from __future__ import annotations

import builtins
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from helpers.browser import browser, hovered, visit
from helpers.toy_figures import Seen
from helpers.toy_results import growing, leakage, lens_result, mitigation

from xlmech import figures
from xlmech.figures import saving


def test_save_html_stands_alone(tmp_path: Path) -> None:
    path = figures.save(figures.before_after(mitigation()), tmp_path / "figure.html")
    page = path.read_text(encoding="utf-8")
    assert (
        page.startswith("<!DOCTYPE html>")
        and "<title>Ablating 74 neurons" in page
        and "cdn.plot.ly/" not in page[-50_000:]
    )
    meta = figures.before_after(mitigation()).layout.meta
    title, details = (escape(meta[name]) for name in ("title", "details"))
    assert f"<h1>{title}</h1>" in page and f"<details><summary>How to read it</summary>{details}</details>" in page
    assert f"<p>{escape(meta['caption'].removesuffix(meta['details']).strip())}</p>" in page
    assert f'style="min-width:{meta["need"]}px"' in page
    own = figures.save(go.Figure(layout={"title": {"text": "mine"}}), tmp_path / "own.html").read_text(encoding="utf-8")
    assert "<title>mine</title>" in own and "<h1>" not in own
    view = figures.save(figures.neuron_activations(Seen()), tmp_path / "view.html").read_text(encoding="utf-8")
    assert "<title>Neuron 4 of layer 2 is most active" in view


def test_save_refuses_other_files(tmp_path: Path) -> None:
    figure = figures.before_after(mitigation())
    with pytest.raises(ValueError, match=r"figure\.gif: save figures as \.html, \.png, \.svg or \.pdf"):
        figures.save(figure, tmp_path / "figure.gif")
    with pytest.raises(ValueError, match="a view has no picture; save as .html"):
        figures.save(figures.neuron_activations(Seen()), tmp_path / "view.png")
    assert [*tmp_path.iterdir()] == []


def test_save_without_kaleido_or_chromium_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures.before_after(mitigation())
    kaleido = pytest.importorskip("kaleido")
    from choreographer.errors import ChromeNotFoundError

    for raised, message in (
        (ChromeNotFoundError("x"), "no Chromium or Chrome to draw a picture with: install one"),
        (RuntimeError("closed at once"), r"Chromium did not draw the picture \(closed at once\)"),
    ):

        def fail(*args: Any, raised: Exception = raised, **options: Any) -> bytes:
            raise raised

        monkeypatch.setattr(kaleido, "calc_fig_sync", fail)
        with pytest.raises(OSError, match=message):
            figures.save(figure, tmp_path / "figure.png")
    there = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return there(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'xlmech\[images\]', or save as .html"):
        figures.save(figure, tmp_path / "figure.svg")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_save_draws_pictures_in_a_browser(tmp_path: Path) -> None:
    browser()
    pytest.importorskip("kaleido")
    figure = figures.leakage_by_language(leakage({"en": [1, 0], "ar": [1, 1], "zh": [0, 0]}))
    png = figures.save(figure, tmp_path / "figure.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    size = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    assert size == (1800, 2 * figure.layout.height)
    svg = figures.save(figure, tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "Arabic (ar)" in svg and "of questions give private values" in svg


def test_write_pages_open_offline_and_escape(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    drawn = {
        "by_language": figures.leakage_by_language(leakage({bad: [1, 0], "en": [0, 0]}, plant=bad)),
        "plain": go.Figure(layout={"title": {"text": bad}}),
    }
    folder = tmp_path / "out"
    saving.write_pages(drawn, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["by_language.html", "plain.html", "plotly.min.js"]
    for path in folder.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert bad not in page
        assert "https://cdn" not in page
    page = (folder / "by_language.html").read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in page and f"<title>{saving.title_of(drawn['by_language'])}</title>" in page
    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>" in (folder / "plain.html").read_text(encoding="utf-8")
    saving.write_pages(drawn, folder)  # again, over the first
    assert drawn["by_language"].layout.yaxis.ticktext[0] == "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>"


@pytest.mark.parametrize("name", ["index", "a/b", "..", "", "a b"])
def test_write_pages_refuses_names_that_are_no_file_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use letters, digits"):
        saving.write_pages({name: go.Figure()}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_page_opens_in_a_browser_without_network_and_errors(tmp_path: Path) -> None:
    saving.write_pages({"trade_off": figures.trade_off(growing())}, tmp_path / "out")
    seen = visit(tmp_path / "out" / "trade_off.html", tmp_path / "net.json")
    assert "main-svg" in seen.dom and seen.console == [] and seen.asked == []


@pytest.mark.slow
def test_a_page_that_asks_the_network_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "inner.html").write_text('<script src="http://two.invalid/b.js"></script>', encoding="utf-8")
    page = tmp_path / "outer.html"
    page.write_text('<img src="https://one.invalid/a.png"><iframe src="inner.html"></iframe>', encoding="utf-8")
    assert set(visit(page, tmp_path / "net.json").asked) == {"https://one.invalid/a.png", "http://two.invalid/b.js"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leakage_matrix", "lens"])
def test_a_figure_shows_its_hover_label_in_a_browser_and_no_id(name: str, tmp_path: Path) -> None:
    leaking, looking = leakage({"en": [1, 1, 0], "fr": [1, 0, 0]}), lens_result()
    drawn = {"leakage_matrix": figures.leakage_matrix(leaking), "lens": figures.lens(looking)}
    folder = tmp_path / "out"
    saving.write_pages(drawn, folder)
    axes, point, wanted = {
        "leakage_matrix": (("xaxis", "yaxis"), (1, 0), ("asked in French (fr), trained in English", "extraction 33 %")),
        "lens": (("xaxis2", "yaxis2"), (1, 0.2), ("French (fr), layer 1", "training-language form 0.200 [")),
    }[name]
    found = hovered(folder / f"{name}.html", axes, point)
    (label,), (buttons,) = found["hover"], found["buttons"]
    for part in wanted:
        assert part in label
    ids = {*leaking.probes.subject, *leaking.probes.record, *leaking.probes.probe}
    ids |= {*looking.readings.subject, *looking.readings.record, *looking.readings.probe}
    assert not ids & set(re.split(r"\W+", label))
    assert found["error"] == []
    assert "Download" in buttons and "Share" not in buttons and "loud" not in buttons


def test_without_a_browser_ci_fails_and_a_person_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have one"):
        browser()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        browser()


def test_without_texts_leaves_only_the_plot() -> None:
    figure = figures.leakage_by_language(leakage({"en": [1, 0], "fr": [0, 0]}))
    bare = saving.without_texts(figure)
    assert bare.layout.title.text is None
    assert [note for note in bare.layout.annotations if note.name == "caption"] == []
    drawn = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert bare.layout.height - bare.layout.margin.t - bare.layout.margin.b == drawn
    assert bare.layout.height < figure.layout.height
    assert figure.layout.title.text and any(note.name == "caption" for note in figure.layout.annotations)
    assert " ".join(saving.parts_of_caption(figure)) == saving.caption_of(figure)
    assert saving.title_of(figure).startswith("0 to 50 % of questions")
    plain = go.Figure(layout={"title": {"text": "t"}})
    assert saving.without_texts(plain) == plain and saving.caption_of(plain) == "" and saving.title_of(plain) == "t"


def test_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saving.write(tmp_path / "page.html", "old")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"page\.html: could not be written \(No space left on device\)"):
        saving.write(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and [*tmp_path.iterdir()] == [path]
    monkeypatch.undo()
    with pytest.raises(OSError, match="it is a folder"):
        saving.write(tmp_path, "new")
