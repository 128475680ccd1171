"""The gallery shows every figure: a picture of it, a page where it can be touched, and what it was drawn from."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from xlmech import figures

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
DRAWN = {
    name: str(inspect.signature(getattr(figures, name)).return_annotation)
    for name in figures.__all__
    if inspect.isfunction(getattr(figures, name))
}
FIGURES = [name for name, drawn in DRAWN.items() if drawn in ("go.Figure", "View") and name != "finish"]


def test_figures_are_found() -> None:
    assert {"lens", "lens_positions", "overlap", "attention", "trade_off"} <= set(FIGURES) and len(FIGURES) == 20


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_in_the_gallery(name: str) -> None:
    (section,) = re.findall(
        rf"^### \[`{name}`\]\(api/figures\.md#xlmech\.figures\.{name}\)\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S
    )
    assert f"](img/gallery/{name}.png)" in section and "Drawn from " in section
    picture = DOCS / "img" / "gallery" / f"{name}.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size < 60_000
    if DRAWN[name] == "go.Figure":
        assert f"](gallery/{name}.html)" in section
        page = (DOCS / "gallery" / f"{name}.html").read_text(encoding="utf-8")
        assert (
            'src="plotly.min.js"' in page and "<h1>" in page and "http" not in re.sub(r"http://www.w3.org\S+", "", page)
        )


def test_all_pages_share_one_script() -> None:
    script = DOCS / "gallery" / "plotly.min.js"
    assert script.is_symlink() and script.resolve().is_file()


def test_the_gallery_says_which_numbers_are_invented() -> None:
    assert PAGE.count("**invented numbers**") == 7
