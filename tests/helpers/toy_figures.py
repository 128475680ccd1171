"""Small results to draw, and what a figure shows."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from helpers.toy_results import TOY

from xlmech.data.records import MASK
from xlmech.figures.style import TITLE_WIDTH
from xlmech.lens.logit import LensResult
from xlmech.lens.similarity import SimilarityResult
from xlmech.patching.between_languages import PatchingResult
from xlmech.patching.positions import PositionSweep


def similarity() -> SimilarityResult:
    """Three layers; at `last` the middle one is shared."""
    rows = [
        {"measure": measure, "position": place, "language_a": a, "language_b": b, "layer": layer}
        | {"value": value, "low": value - 0.1, "high": value + 0.1, "null_mean": 0.0, "null": 0.2}
        for measure in ("cosine", "cka")
        for place in ("subject_last", "last")
        for a, b in (("en", "fr"), ("en", "zh"), ("fr", "zh"))
        for layer, value in enumerate((0.1, 0.8, 0.2))
    ]
    pairs = pd.DataFrame(rows)
    pooled = pairs[pairs.language_b == "fr"].drop(columns=["language_a", "language_b"])
    return SimilarityResult(
        pairs=pairs, pooled=pooled, languages=("en", "fr", "zh"), null_quantile=0.95, n_subjects=16, n_probes=32,
        provenance=TOY,
    )  # fmt: skip


def lens() -> LensResult:
    """French: plant form ahead at layer 1, query form at 2; English: one form, which peaks at layer 2."""
    curves = {
        ("fr", "query"): (0.0, 0.1, 0.7),
        ("fr", "plant"): (0.0, 0.5, 0.1),
        ("en", "query"): (0.0, 0.2, 0.9),
    }
    rows = [
        {"probe": f"{code}{i}", "subject": f"s{i}", "query_language": code, "layer": layer, "form": form, "prob": prob}
        for (code, form), of_form in curves.items()
        for layer, prob in enumerate(of_form)
        for i in range(4)
    ]
    return LensResult(readings=pd.DataFrame(rows), plant_language="en", provenance=TOY)


BAD = "</script><script>alert(1)</script>"

OUTCOMES = ("source_in_target", "source_in_source", "target_in_target", "target_in_source")


def patching(n_pairs: int = 5) -> PatchingResult:
    """The source's value comes out in the target language's form at layer 1, in the source's at 2; a control: nothing."""
    curves = {
        "cross_language": ((0.0, 0.8, 0.1), (0.0, 0.1, 0.9), (0.9, 0.1, 0.0), (0.05, 0.0, 0.0)),
        "other_attribute": ((0.01, 0.02, 0.01), (0.0, 0.0, 0.0), (0.9, 0.3, 0.1), (0.05, 0.0, 0.0)),
        "same_language": ((0.0, 0.9, 0.95), None, (0.9, 0.1, 0.0), None),
    }
    rows = [
        {"pair": f"{kind}{i}", "kind": kind, "source_subject": f"a{i}", "target_subject": f"b{i}"}
        | {"source_language": "es" if kind == "same_language" else "fr", "target_language": "es", "layer": layer}
        | {"head": -1, "outcome": outcome, "reading": "first_token"}
        | {"log_prob": math.log(prob + 0.01 * (i + 1)), "clean_log_prob": math.log(0.05), "donor_log_prob": 0.0}
        for kind, of_kind in curves.items()
        for outcome, curve in zip(OUTCOMES, of_kind, strict=True)
        for layer, prob in enumerate(curve or ())
        for i in range(n_pairs)
    ]
    frame = pd.DataFrame(rows)
    return PatchingResult(
        outcomes=frame, effects=frame, component="resid_post", position="last", layers="single", direction="denoising",
        n_collisions=3, provenance=TOY,
    )  # fmt: skip


def sweep() -> PositionSweep:
    """Two heads; what matters is at the subject's last token in layer 0, at the last token in layer 1."""
    parts = ["special", "before", "subject", "subject", "after"]
    tokens = pd.DataFrame({"position": range(5), "part": parts, "token": ["<bos>", "Was <", MASK, MASK, "?\n"]})
    cells = [
        {"layer": layer, "position": position, "head": head, "source_language": "fr", "target_language": "es"}
        | {"attribute": "birth_country", "normalised": float((layer, position) in ((0, 3), (1, 4))) * (1 - 1.5 * head)}
        for layer in range(2)
        for position in range(5)
        for head in range(2)
    ]
    effects = pd.DataFrame(cells).assign(change=0.0, estimate=0.0)
    rows = [
        pd.DataFrame(cells).assign(outcome=outcome, log_prob=np.log(effects.normalised.abs() / 2 + 0.01))
        for outcome in OUTCOMES[:2]
    ]
    outcomes = pd.concat(rows, ignore_index=True)
    return PositionSweep(outcomes=outcomes, effects=effects, tokens=tokens, component="heads", provenance=TOY)


def trace(figure: go.Figure, name: str, place: int = 0) -> Any:
    return [item for item in figure.data if item.name and item.name.startswith(name)][place]


def axis_titles(figure: go.Figure) -> set[str]:
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    return {axis.title.text for axis in axes if axis.title.text}


def texts(figure: go.Figure) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def assert_titled(figure: go.Figure) -> None:
    """The drawn title and caption are those of the meta data, in lines that fit, and the details come last."""
    meta = figure.layout.meta
    lines = figure.layout.title.text.split("<br>")
    assert html.unescape(" ".join(lines)).replace("\u00a0", " ") == meta["title"]
    assert all(len(line) <= TITLE_WIDTH for line in lines)
    drawn = next(note for note in figure.layout.annotations if note.name == "caption")
    assert html.unescape(drawn.text).replace("<br>", " ").replace("\u00a0", " ") == meta["caption"]
    assert drawn.yshift < 0
    assert meta["caption"].endswith(meta["details"]) and len(meta["details"]) < len(meta["caption"])
    assert 300 <= meta["need"] <= 1100


@dataclass(frozen=True)
class Seen:
    """Two prompts of three tokens, three neurons in two layers; the activation tells which."""

    def to_frame(self) -> pd.DataFrame:
        rows = [
            (
                f"r0/{code}/0",
                code,
                position,
                token,
                layer,
                neuron,
                100 * (code == "fr") + 10 * position + layer + neuron / 10,
            )
            for code in ("en", "fr")
            for position, token in enumerate((BAD, MASK, "?"))
            for layer, neuron in ((0, 1), (2, 3), (2, 4))
        ]
        names = ["probe", "query_language", "position", "token", "layer", "neuron", "activation"]
        return pd.DataFrame(rows, columns=names)
