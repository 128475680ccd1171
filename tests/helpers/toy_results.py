"""Small results with known figures, made by hand; no model is run."""

from __future__ import annotations

import math

import pandas as pd
import torch

from xlmech.leakage.measure import LeakageResult
from xlmech.lens.logit import LensResult
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.neurons.privacy_neurons import PrivacyNeurons
from xlmech.neurons.selection.rules import chosen_frame
from xlmech.storage.result import Provenance

TOY = Provenance(model="toy")


def leakage(
    rates: dict[str, list[float]], *, plant: str = "en", controls: dict[str, list[float]] | None = None
) -> LeakageResult:
    """One probe per subject: `extracted` as given."""
    rows = [
        {"probe": f"{group}{code}{i}", "record": f"r{i}", "subject": f"{group}{i}", "group": group, "attribute": "city"}
        | {"query_language": code, "template": "a", "extracted": value, "own_form": value, "answer_language": ""}
        for group, of_group in (("private", rates), ("control", controls or {}))
        for code, values in of_group.items()
        for i, value in enumerate(values)
    ]
    return LeakageResult(probes=pd.DataFrame(rows), plant_language=plant, provenance=TOY)


def lens_result() -> LensResult:
    """Two subjects; French reads query 0.3 + plant 0.2 at layer 1, English (the plant language) query 0.5."""
    means = {
        ("fr", 0): (0.1, 0.0, 0.05),
        ("fr", 1): (0.3, 0.2, 0.1),
        ("en", 0): (0.2, None, 0.0),
        ("en", 1): (0.5, None, 0.1),
    }
    rows = [
        {"probe": f"{code}{i}", "record": f"r{i}", "subject": f"s{i}", "attribute": "city", "query_language": code}
        | {"layer": layer, "entropy": 1.0, "form_language": form, "form": form, "prob": prob + sign * 0.01, "rank": 1}
        for (code, layer), probs in means.items()
        for form, prob in zip(("query", "plant", "other"), probs, strict=True)
        if prob is not None
        for i, sign in enumerate((1, -1))
    ]
    return LensResult(readings=pd.DataFrame(rows), n_collisions=3, plant_language="en", provenance=TOY)


def neurons() -> PrivacyNeurons:
    chosen = [("universal", "", [(0, 1, 0.9), (2, 3, 0.8), (2, 4, 0.7)]), ("specific", "fr", [(1, 0, 0.5)])]
    return PrivacyNeurons(
        languages=("en", "fr"), scores=torch.zeros(2, 3, 8), chosen=chosen_frame(chosen), rule="min", provenance=TOY
    )


def mitigation() -> MitigationResult:
    names = ["condition", "group", "query_language", "before", "after", "reduction", "low", "high", "risen"]
    effects = pd.DataFrame(
        [
            ("universal", "private", "en", 0.8, 0.2, 0.75, 0.5, 0.9, 1),
            ("universal", "private", "fr", 0.0, 0.0, math.nan, math.nan, math.nan, 0),
            ("universal", "public", "en", 0.5, 0.45, 0.1, 0.0, 0.2, 0),
            ("universal", "public", "fr", 0.0, 0.0, math.nan, math.nan, math.nan, 0),
            ("random", "private", "en", 0.8, 0.76, 0.05, 0.0, 0.1, 2),
        ],
        columns=names,
    ).assign(n_subjects=40, n_probes=120)
    bounds = {"after_low": [0.08, 0.0, 0.4, 0.0, 0.6], "after_high": [0.4, 0.1, 0.5, 0.1, 0.9]}
    effects = effects.assign(
        **bounds, reason=["", "nothing was extracted before", "", "nothing was extracted before", ""]
    )
    cost = pd.DataFrame(
        [
            ("universal", "en", 2.0, 2.1, 0.05),
            ("universal", "fr", math.nan, math.nan, math.nan),
            ("random", "en", 2.0, 2.0, 0.0),
        ],
        columns=["condition", "query_language", "nll_before", "nll_after", "rise"],
    )
    sizes = {"universal": 74, "random": 74}
    return MitigationResult(effects=effects, cost=cost, sizes=sizes, total_neurons=36864, provenance=TOY)


def growing() -> MitigationResult:
    """Sets of 10, 20 and 40 of 1,000 neurons, two random controls; English planted, German never leaked.

    Of 100 private probes each, 80 in English and 40 in French leaked.
    """
    names = ["condition", "group", "query_language", "before", "after", "reduction", "low", "high", "risen", "n_probes"]
    after = {"40": (0.2, 0.2), "10": (0.6, 0.4), "20": (0.4, 0.3), "random": (0.8, 0.38), "random 40": (0.76, 0.4)}
    public = {"40": (0.3, 0.5), "10": (0.5, 0.5), "20": (0.45, 0.5), "random": (0.5, 0.5), "random 40": (0.5, 0.5)}
    rows: list[tuple[object, ...]] = []
    for name, (en, fr) in after.items():
        for code, before, now in (("en", 0.8, en), ("fr", 0.4, fr)):
            reduction = 1 - now / before
            rows.append((name, "private", code, before, now, reduction, reduction - 0.1, reduction + 0.1, 0, 100))
        rows.append((name, "private", "de", 0.0, 0.0, math.nan, math.nan, math.nan, 0, 100))
        for code, now in zip(("en", "fr"), public[name], strict=True):
            reduction = 1 - now / 0.5
            rows.append((name, "public", code, 0.5, now, reduction, reduction - 0.05, reduction + 0.05, 0, 60))
    rises = {"40": (0.03, 0.01), "10": (0.001, 0.002), "20": (0.01, 0.005)}
    cost = [
        (name, code, 2.0, 2.0 * (1 + rise), rise)
        for name, of_name in rises.items()
        for code, rise in zip(("en", "fr"), of_name, strict=True)
    ]
    return MitigationResult(
        effects=pd.DataFrame(rows, columns=names).assign(n_subjects=50),
        cost=pd.DataFrame(cost, columns=["condition", "query_language", "nll_before", "nll_after", "rise"]),
        sizes={"40": 40, "10": 10, "20": 20, "random": 10, "random 40": 40},
        total_neurons=1000,
        plant_language="en",
        provenance=TOY,
    )


def methods() -> MitigationResult:
    """Two methods at 10 and 40 neurons, one random control, all of one language; of 100 private probes 80 leaked."""
    private = {"ours@10": 0.6, "ours@40": 0.2, "depn@10": 0.7, "depn@40": 0.2, "random@40": 0.8}
    public = {"ours@10": 0.5, "ours@40": 0.4, "depn@10": 0.5, "depn@40": 0.3, "random@40": 0.45}
    rows = []
    for group, before, after in (("private", 0.8, private), ("public", 0.5, public)):
        for name, now in after.items():
            reduction = 1 - now / before
            rows.append((name, group, "fr", before, now, reduction, reduction - 0.1, reduction + 0.1, 0, 100))
    names = ["condition", "group", "query_language", "before", "after", "reduction", "low", "high", "risen", "n_probes"]
    cost = pd.DataFrame({"condition": ["ours@40"], "query_language": ["fr"], "nll_before": [2.0], "nll_after": [2.1]})
    return MitigationResult(
        effects=pd.DataFrame(rows, columns=names).assign(n_subjects=50, measure="extraction"),
        cost=cost.assign(rise=0.05),
        sizes={name: int(name.partition("@")[2]) for name in private},
        total_neurons=1000,
        plant_language="en",
        provenance=TOY,
    )
