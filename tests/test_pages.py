from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest
from toy_results import leakage

from xlmech import figures, pages


def test_write_index_opens_offline_and_escapes(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    drawn = {
        "by_language": figures.leakage_by_language(leakage({bad: [1, 0], "en": [0, 0]}, plant=bad)),
        "plain": go.Figure(layout={"title": {"text": bad}}),
    }
    index = pages.write_index(drawn, tmp_path / "out", title="A & B", summary_html="<p>Summary</p>")
    assert sorted(path.name for path in index.parent.iterdir()) == [
        "by_language.html", "index.html", "plain.html", "plotly.min.js"
    ]  # fmt: skip
    text = index.read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1><p>Summary</p>" in text
    assert '<iframe src="by_language.html" title="Private extraction by query language"' in text
    assert '<a href="plain.html">&lt;script&gt;alert(1)&lt;/script&gt;</a>' in text
    for path in index.parent.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert bad not in page
        assert "https://cdn" not in page
    page = (index.parent / "by_language.html").read_text(encoding="utf-8")
    assert 'src="plotly.min.js"' in page and "<title>Private extraction by query language</title>" in page
    assert pages.write_index(drawn, tmp_path / "out", title="again") == index
    assert drawn["by_language"].layout.yaxis.ticktext[0] == "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>"


@pytest.mark.parametrize("name", ["index", "a/b", "..", "", "a b"])
def test_write_index_refuses_names_that_are_no_file_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use letters, digits"):
        pages.write_index({name: go.Figure()}, tmp_path / "out", title="x")
    assert not (tmp_path / "out").exists()
