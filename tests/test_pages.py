from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
import pytest
from toy_results import growing, leakage, lens_result

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


_PROBE = """<script>
const lines = [];
addEventListener("error", event => lines.push("error: " + event.message));
addEventListener("load", () => {
  const plot = document.querySelector(".js-plotly-plot"), [x, y] = AXES.map(axis => plot._fullLayout[axis]);
  const area = plot.querySelector(`.draglayer .${x._id}${y._id} .nsewdrag`), box = plot.getBoundingClientRect();
  const at = {clientX: box.left + x._offset + x.c2p(POINT[0]), clientY: box.top + y._offset + y.c2p(POINT[1])};
  area.dispatchEvent(new MouseEvent("mousemove", {bubbles: true, ...at}));
  setTimeout(() => {
    lines.push("hover: " + Array.from(plot.querySelectorAll(".hoverlayer text"), node => node.textContent).join("|"));
    lines.push("buttons: " + Array.from(plot.querySelectorAll(".modebar-btn"), node => node.dataset.title).join("|"));
    const kept = document.body.appendChild(document.createElement("pre"));
    kept.id = "found";
    kept.textContent = JSON.stringify(lines);
  }, 1000);
});
</script>"""


class Visit(NamedTuple):
    """The DOM after the page's scripts ran, the console's lines, and what the page asked the network for."""

    dom: str
    console: list[str]
    asked: list[str]


def visit(page: Path, log: Path) -> Visit:
    """Open a page where no host name resolves; what the browser asks for on its own account is left out."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path to open the pages in")
    command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,6000", "--dump-dom"]
    command += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={log.parent / 'profile'}", f"--log-net-log={log}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, encoding="utf-8")
    events = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    asked = [event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, [url for url in asked if not url.startswith(("file:", "data:", "blob:"))])


def hovered(page: Path, axes: tuple[str, str], point: tuple[float, float]) -> dict[str, list[str]]:
    """What a figure's page shows with the mouse at a point of its axes, given in data units."""
    probe = _PROBE.replace("AXES", json.dumps(axes)).replace("POINT", json.dumps(point))
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
    seen = visit(probed, page.with_name("net.json"))
    assert seen.console == [] and seen.asked == []
    match = re.search(r'<pre id="found">(.*?)</pre>', seen.dom, re.DOTALL)
    assert match, "the page's scripts did not run to their end"
    found: dict[str, list[str]] = {"error": [], "hover": [], "buttons": []}
    for line in json.loads(unescape(match[1])):
        kind, _, rest = line.partition(": ")
        found[kind].append(rest)
    return found


@pytest.mark.slow
def test_the_index_opens_in_a_browser_without_network_and_errors(tmp_path: Path) -> None:
    drawn = {
        "leakage_matrix": figures.leakage_matrix(leakage({"en": [1, 0], "fr": [0, 0]})),
        "lens": figures.lens(lens_result()),
        "trade_off": figures.trade_off(growing()),
    }
    index = pages.write_index(drawn, tmp_path / "out", title="Audit")
    probed = index.with_name("probed.html")
    # Frames of files may not be read from outside, so each tells how much it drew.
    tell = "<script>addEventListener('load', () => console.log('drawn', document.querySelectorAll('.main-svg').length))</script>"
    for name in drawn:
        page = index.with_name(f"{name}.html")
        page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{tell}</body>"), encoding="utf-8")
    probed.write_text(index.read_text(encoding="utf-8").replace('loading="lazy"', ""), encoding="utf-8")
    seen = visit(probed, tmp_path / "net.json")
    assert seen.dom.count("<iframe") == 3
    assert len(seen.console) == 3 and all(re.search(r'"drawn [1-9]', line) for line in seen.console), seen.console
    assert seen.asked == []


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
    folder = pages.write_index(drawn, tmp_path / "out", title="Audit").parent
    axes, point, wanted = {
        "leakage_matrix": (("xaxis", "yaxis"), (1, 0), ("asked in French (fr), planted in English", "extraction 33 %")),
        "lens": (("xaxis2", "yaxis2"), (1, 0.2), ("French (fr), layer 1", "plant-language form 0.200 [")),
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
