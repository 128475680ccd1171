"""Draw the demo's figures, its report and the README's pictures from `figures/demo/results`: `python tools/demo_figures.py`.

Runs no model. Pictures need a Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from xlmech import figures
from xlmech.audit.audit import Audit
from xlmech.audit.publish import publish

FIGURES = Path(__file__).parent.parent / "figures"


def main() -> None:
    """Draw all of them."""
    audit = Audit.load(FIGURES / "demo" / "results")
    report = publish(audit, FIGURES / "demo")
    figures.save(figures.before_after(audit.mitigation), FIGURES / "before_after.png")
    if audit.lens is not None:
        figures.save(figures.lens(audit.lens), FIGURES / "lens.png")
    screenshot(report, FIGURES / "report.png")


def screenshot(page: Path, path: Path, *, width: int = 1200, height: int = 1010) -> None:
    """Save the top of a page as a PNG."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise OSError("no Chromium or Chrome to draw a picture with: install one (apt install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    command = [browser, *flags, "--virtual-time-budget=20000", f"--screenshot={path}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


if __name__ == "__main__":
    main()
