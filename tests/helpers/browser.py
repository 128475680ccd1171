"""A page in a real browser: what it shows, says on the console, and asks the network for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROBE = """<script>
const lines = [];
addEventListener("error", event => lines.push("error: " + event.message));
addEventListener("load", () => {
  const plot = document.querySelector(PLOT), [x, y] = AXES.map(axis => plot._fullLayout[axis]);
  plot.scrollIntoView();
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


def browser() -> str:
    """Chromium's path; without one the test is skipped, but on CI it fails, where nobody would notice."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        missing = "no chromium, chromium-browser or google-chrome on the path to open the pages in"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{missing}; CI must have one (apt-get install chromium)")
        pytest.skip(missing)
    return found


def visit(page: Path, log: Path, *, width: int = 1000, height: int = 6000) -> Visit:
    """Open a page where no host name resolves; what the browser asks for on its own account is left out."""
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},{height}",
        "--dump-dom",
    ]
    command += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={log.parent / 'profile'}", f"--log-net-log={log}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, encoding="utf-8")
    events = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    asked = [event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, [url for url in asked if not url.startswith(("file:", "data:", "blob:"))])


@contextmanager
def opened(page: Path, *, width: int = 1300, dark: bool = False) -> Iterator[Any]:
    """A page to click in, in the reader's colours; no error and nothing on the console, no network."""
    sync_api = pytest.importorskip("playwright.sync_api")
    said: list[str] = []
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox", "--disable-gpu"])
        scheme = "dark" if dark else "light"
        context = chromium.new_context(viewport={"width": width, "height": 1200}, color_scheme=scheme)
        context.set_default_timeout(120_000)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        tab.goto(page.as_uri())
        yield tab
        chromium.close()
    assert said == []


def hovered(
    page: Path, axes: tuple[str, str], point: tuple[float, float], *, plot: str = ".js-plotly-plot"
) -> dict[str, list[str]]:
    """What a figure shows with the mouse at a point of its axes, given in data units; no error, no network."""
    probe = (
        PROBE.replace("AXES", json.dumps(axes)).replace("POINT", json.dumps(point)).replace("PLOT", json.dumps(plot))
    )
    seen = visit(with_script(page, probe), page.with_name("net.json"))
    assert seen.console == [] and seen.asked == []
    match = re.search(r'<pre id="found">(.*?)</pre>', seen.dom, re.DOTALL)
    assert match, "the page's scripts did not run to their end"
    found: dict[str, list[str]] = {"error": [], "hover": [], "buttons": []}
    for line in json.loads(unescape(match[1])):
        kind, _, rest = line.partition(": ")
        found[kind].append(rest)
    return found


def with_script(page: Path, script: str) -> Path:
    """A copy of a page with a script at its end."""
    probed = page.with_name("probed.html")
    before, _, after = page.read_text(encoding="utf-8").rpartition("</body>")
    probed.write_text(f"{before}{script}</body>{after}", encoding="utf-8")
    return probed
