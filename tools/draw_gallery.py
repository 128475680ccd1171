"""Draw the gallery of the documentation, one example of every figure: `python tools/draw_gallery.py`.

Writes `docs/gallery.md`, `docs/gallery/<name>.html` (all read one `plotly.min.js`) and `docs/img/gallery/<name>.png`. Runs no
model: the results are those of the demo and of the studies, and where none is saved, invented ones from the tests. Pictures need
a Chromium.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools"), str(ROOT / "analyses")]

from demo_figures import screenshot  # noqa: E402
from headline_tables import loaded, merged  # noqa: E402
from helpers import toy_figures, toy_results  # noqa: E402

from xlmech import LeakageResult, figures  # noqa: E402
from xlmech.audit.audit import Audit  # noqa: E402
from xlmech.data.records import MASK  # noqa: E402
from xlmech.figures import saving  # noqa: E402
from xlmech.lens.direct_logit import DirectLogitResult  # noqa: E402
from xlmech.lens.logit import LensResult  # noqa: E402
from xlmech.lens.similarity import SimilarityResult  # noqa: E402
from xlmech.mitigation.evaluate import MitigationResult  # noqa: E402
from xlmech.patching.between_languages import PatchingResult  # noqa: E402

DOCS, RESULTS = ROOT / "docs", ROOT / "analyses" / "results"
PICTURES, PAGES = DOCS / "img" / "gallery", DOCS / "gallery"
FLOW = RESULTS / "information_flow" / "en"
DEMO, INVENTED = "the demo's saved results", "**invented numbers**, as the tests use them"
HEIGHTS = {"attention": 940, "neuron_activations": 260}
"""Of views, px."""
WIDTH, SCALES, MOST_BYTES = 900, (0.55, 0.42, 0.36, 0.3), 60_000


@dataclass(frozen=True, kw_only=True)
class Example:
    """A figure of the gallery.

    Attributes:
        section: Heading that it stands under.
        of: What it is drawn from.
        draw: Draws it.
    """

    section: str
    of: str
    draw: Callable[[], go.Figure | figures.View]


def demo() -> Audit:
    """Load the demo's results."""
    return Audit.load(ROOT / "figures" / "demo" / "results")


def specific() -> Any:
    """Invent how each language's neurons act in every language."""
    rows = [
        {"language": one, "query_language": query, "before": 0.8, "after": 0.8 - share, "reduction": share / 0.8}
        | {"low": share / 0.8 - 0.2, "high": min(1.0, share / 0.8 + 0.15), "reason": "", "risen": 0}
        for i, one in enumerate(("en", "fr", "zh", "ar"))
        for j, query in enumerate(("en", "fr", "zh", "ar"))
        for share in (0.6 - 0.05 * i if i == j else 0.2 - 0.08 * abs(i - j),)
    ]
    frame = pd.DataFrame(rows).assign(n_subjects=16, n_probes=32)
    sizes = dict.fromkeys(("en", "fr", "zh", "ar"), 40)
    return SimpleNamespace(matrix=lambda: frame, sizes=sizes, mean_factors={}, plant_language="en")


def direct_logit() -> DirectLogitResult:
    """Invent terms of layers."""
    rows = [
        {"probe": f"{code}{i}", "subject": f"s{i}", "query_language": code, "component": component, "layer": layer}
        | {"form": form, "centred": (layer / 11) ** 3 * size * (1 + 0.1 * i) * (1 if form == "query" else -0.6)}
        for code in ("fr", "zh", "ar")
        for component, size in (("attn_out", 1.0), ("mlp_out", 2.5))
        for layer in range(12)
        for form in ("query", "plant")
        for i in range(4)
    ]
    frame = pd.DataFrame(rows)
    return DirectLogitResult(contributions=frame, totals=frame, n_layers=12, n_collisions=0, provenance=toy_results.TOY)


def everywhere() -> LensResult:
    """Invent readings at all positions."""
    rows = [
        {"probe": f"{code}{i}", "record": f"r{i}", "subject": f"s{i}", "attribute": "city", "query_language": code}
        | {"layer": layer, "position": position, "form": "query", "form_language": code, "rank": 1}
        | {"prob": max(0.0, (layer - start) / 12) * 0.5 ** (7 - position) * (1 - 0.05 * i)}
        for code, start in (("en", 4), ("fr", 6), ("zh", 8))
        for layer in range(12)
        for position in range(8)
        for i in range(4)
    ]
    return LensResult(readings=pd.DataFrame(rows), plant_language="en", positions="all", provenance=toy_results.TOY)


def trace() -> Any:
    """Invent the attention of two heads on one prompt."""
    texts = ["<bos>", "In", " which", " city", " does", MASK, MASK, " live", "?"]
    part = ["special", *["before"] * 4, *["subject"] * 2, *["after"] * 2]
    tokens = pd.DataFrame({"query_language": "en", "position": range(9), "part": part, "token": texts})
    rows = [
        (layer, head, to, at, (3.0 if at == liked else 1.0) / (to + 1 + 2 * (liked <= to)))
        for layer, head, liked in ((9, 2, 6), (11, 0, 3))
        for to in range(9)
        for at in range(to + 1)
    ]
    frame = pd.DataFrame(rows, columns=["layer", "head", "destination", "source", "weight"]).assign(query_language="en")
    return SimpleNamespace(attention=frame, tokens=tokens, languages=("en",))


def activations() -> Any:
    """Invent the activations of three neurons on one prompt."""
    texts = ["In", " which", " city", " does", MASK, MASK, " live", "?"]
    rows = [
        ("r0/en/0", "en", position, token, layer, neuron, 2.5 * math.exp(-abs(position - peak)) - 0.3)
        for position, token in enumerate(texts)
        for layer, neuron, peak in ((9, 1042, 5), (11, 87, 7), (12, 892, 2))
    ]
    names = ["probe", "query_language", "position", "token", "layer", "neuron", "activation"]
    return SimpleNamespace(to_frame=lambda: pd.DataFrame(rows, columns=names))


def matrix() -> go.Figure:
    """Draw the leakage of the three copies of the demo's model."""
    folders = [RESULTS / "headline" / code / "before" for code in ("en", "fr", "zh")]
    return figures.leakage_matrix([LeakageResult.load(folder) for folder in folders])


def methods() -> go.Figure:
    """Draw the methods of the study of the headline."""
    return figures.dose_response(merged(loaded(RESULTS / "headline" / "en")))


LEAK, INSIDE, NEURONS, EFFECTS, TOKENS = (
    "Does it leak?", "Where inside?", "Which neurons?", "What does ablation do?", "Single prompts",
)  # fmt: skip
HEADLINE, STUDY = "the results of `analyses/headline.py`", "the results of `analyses/information_flow.py`"
EXAMPLES: dict[str, Example] = {
    "leakage_by_language": Example(section=LEAK, of=DEMO, draw=lambda: figures.leakage_by_language(demo().leakage)),
    "leakage_matrix": Example(section=LEAK, of=HEADLINE, draw=matrix),
    "lens": Example(section=INSIDE, of=DEMO, draw=lambda: figures.lens(demo().lens)),
    "leakage_per_layer": Example(section=INSIDE, of=DEMO, draw=lambda: figures.leakage_per_layer(demo().lens)),
    "lens_positions": Example(section=INSIDE, of=INVENTED, draw=lambda: figures.lens_positions(everywhere())),
    "depths": Example(section=INSIDE, of=STUDY, draw=lambda: figures.depths(LensResult.load(FLOW / "lens"))),
    "direct_logit": Example(section=INSIDE, of=INVENTED, draw=lambda: figures.direct_logit(direct_logit())),
    "similarity": Example(
        section=INSIDE, of=STUDY, draw=lambda: figures.similarity(SimilarityResult.load(FLOW / "similarity"))
    ),
    "patching": Example(
        section=INSIDE, of=STUDY, draw=lambda: figures.patching(PatchingResult.load(FLOW / "patching_private"))
    ),
    "patching_positions": Example(
        section=INSIDE, of=INVENTED, draw=lambda: figures.patching_positions(toy_figures.sweep())
    ),
    "neurons_per_layer": Example(section=NEURONS, of=DEMO, draw=lambda: figures.neurons_per_layer(demo().neurons)),
    "overlap": Example(section=NEURONS, of=DEMO, draw=lambda: figures.overlap(demo().neurons)),
    "before_after": Example(section=EFFECTS, of=DEMO, draw=lambda: figures.before_after(demo().mitigation)),
    "cost": Example(section=EFFECTS, of=DEMO, draw=lambda: figures.cost(demo().mitigation)),
    "specificity": Example(section=EFFECTS, of=INVENTED, draw=lambda: figures.specificity(specific())),
    "trade_off": Example(
        section=EFFECTS,
        of="the results of `analyses/trade_off.py`",
        draw=lambda: figures.trade_off(MitigationResult.load(RESULTS / "trade_off")),
    ),
    "dose_response": Example(section=EFFECTS, of=HEADLINE, draw=methods),
    "attention": Example(section=TOKENS, of=INVENTED, draw=lambda: figures.attention(trace(), "en")),
    "leaking_tokens": Example(section=TOKENS, of=INVENTED, draw=lambda: figures.leaking_tokens(toy_figures.sweep())),
    "neuron_activations": Example(section=TOKENS, of=INVENTED, draw=lambda: figures.neuron_activations(activations())),
}

_HEAD = """<!-- Written by tools/draw_gallery.py. -->
# Gallery

Every figure of [`xlmech.figures`](api/figures.md), each with what it was drawn from. A picture opens the interactive figure, with
its caption and hover labels. Titles are computed from the data.
"""


def main(names: list[str]) -> None:
    """Save all figures, or those named, and write the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    PAGES.mkdir(parents=True, exist_ok=True)
    script = PAGES / "plotly.min.js"
    if not script.is_symlink():
        script.symlink_to(Path("../../figures/demo/plotly.min.js"))
    drawn = {name: example.draw() for name, example in EXAMPLES.items()}
    for name in names or EXAMPLES:
        save(name, drawn[name])
    saving.write(DOCS / "gallery.md", page({name: title_of(one) for name, one in drawn.items()}))


def title_of(drawn: go.Figure | figures.View) -> str:
    """Return what is found."""
    return drawn.title if isinstance(drawn, figures.View) else saving.title_of(drawn)


def save(name: str, drawn: go.Figure | figures.View) -> None:
    """Save one figure as a page and as a picture."""
    if isinstance(drawn, figures.View):
        # A view's script is megabytes: only its picture is kept.
        with tempfile.TemporaryDirectory() as folder:
            whole = figures.save(drawn, Path(folder) / "view.html")
            screenshot(whole, PICTURES / f"{name}.png", width=760, height=HEIGHTS.get(name, 220))
        return
    saving.write(PAGES / f"{name}.html", saving.page_of(drawn, plotlyjs="plotly.min.js"))
    for scale in SCALES:
        picture = figures.save(drawn, PICTURES / f"{name}.png", width=WIDTH, scale=scale)
        if picture.stat().st_size < MOST_BYTES:
            break


def page(titles: dict[str, str]) -> str:
    """Write the page."""
    lines, section = [_HEAD], ""
    for name, example in EXAMPLES.items():
        if example.section != section:
            section = example.section
            lines.append(f"## {section}\n")
        picture = f"![{titles[name]}](img/gallery/{name}.png)"
        shown = f"[{picture}](gallery/{name}.html)" if (PAGES / f"{name}.html").exists() else picture
        lines.append(f"### [`{name}`](api/figures.md#xlmech.figures.{name})\n\n{shown}\n\nDrawn from {example.of}.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
