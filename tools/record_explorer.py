"""Record the explorer in JupyterLab on the demo model: `python tools/record_explorer.py` writes `figures/explorer.gif`.

Needs the packages of the browser test (`pip install "xlmech[dev]"`) and a Chromium. Prints how long an ablation took.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.lab import notebook_page  # noqa: E402

RECORD = "private-00-birth_country"
CELL = f"""
from xlmech import demo_records, explore, load_model

explore(load_model("demo"), demo_records(), languages=["en", "fr", "es", "de", "zh"], record="{RECORD}")
"""
WIDTH = 1000
"""Of the picture, px."""
HEIGHT = 1000
"""Of the widget's part that is shown, px."""
SECONDS = 2.2
"""For which each state is shown."""


class Recorder:
    """Takes a picture after each step."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.frames: list[Image.Image] = []

    def step(self, act: Callable[[], Any], wait: str = "") -> None:
        """Act, wait for a text, and take a picture of the widget."""
        act()
        if wait:
            self.page.get_by_text(wait).first.wait_for()
        self.page.wait_for_timeout(2500)
        box = self.page.locator(".jp-OutputArea-output .jupyter-widgets.widget-hbox:has(.widget-tab)").first
        taken = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
        self.frames.append(taken.crop((0, 0, taken.width, HEIGHT)))

    def save(self, path: Path) -> None:
        """Write the animated picture."""
        whole = []
        for frame in self.frames:
            scaled = frame.resize((WIDTH, round(HEIGHT * WIDTH / frame.width)), Image.Resampling.LANCZOS)
            whole.append(scaled.quantize(64))
        first, *others = whole
        options: dict[str, Any] = {"duration": round(1000 * SECONDS), "loop": 0, "optimize": True}
        options |= {"save_all": True, "append_images": others}
        first.save(path, **options)


def tab(page: Any, name: str) -> None:
    """Open a panel."""
    page.locator(".jupyter-widget-tab, .widget-tab").locator(".lm-TabBar-tab", has_text=name).first.click()


def click_cell(page: Any, right: float, up: float) -> None:
    """Click the visible heat map at shares of its width and height."""
    box = page.locator(".js-plotly-plot:visible:has(.heatmaplayer .hm) .nsewdrag").first.bounding_box()
    x, y = box["x"] + right * box["width"], box["y"] + (1 - up) * box["height"]
    page.mouse.move(x, y)
    page.mouse.click(x, y)


def main() -> None:
    """Record the layers, the flow, an ablation of four neurons, and the attention."""
    folder = Path(tempfile.mkdtemp())
    with notebook_page(folder, CELL, width=1500, height=1900) as page:
        page.locator(".jupyter-widgets .heatmaplayer .hm").first.wait_for()
        recorder = Recorder(page)
        for button in page.get_by_role("button", name="No", exact=True).all():
            button.click()  # JupyterLab asks whether it may show news
        recorder.step(lambda: None, "answers in")
        recorder.step(lambda: click_cell(page, 0.985, 14.5 / 18))
        recorder.step(lambda: tab(page, "Flow"), "Layer 14")
        recorder.step(lambda: click_cell(page, 0.985, 16.5 / 18), "patched: the model writes")
        recorder.step(lambda: tab(page, "Neurons"), "exact effect")
        ticks = page.locator(".widget-checkbox input[type=checkbox]:visible")
        for number in range(1, 5):
            recorder.step(lambda number=number: ticks.nth(number).check(), "with their cost in")  # type: ignore[misc]
            print(page.get_by_text("with their cost in").first.inner_text())
        recorder.step(lambda: tab(page, "Attention"))
        page.frame_locator("iframe").get_by_text("Head Selector").wait_for()
        recorder.step(lambda: None)
        recorder.save(ROOT / "figures" / "explorer.gif")
    print(f"figures/explorer.gif: {(ROOT / 'figures' / 'explorer.gif').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
