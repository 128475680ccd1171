"""Attributions made by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from xlmech.neurons.attribution.attribute import AttributionResult
from xlmech.storage.result import Provenance

CODES = ("en", "fr")


BIG = (1, 7)
"""The neuron with every probe's largest attribution, by which the others are divided."""


def made(effects: dict[tuple[int, int], list[float]], *, templates: int = 1, codes: tuple[str, ...] = CODES) -> Any:
    """Five subjects, each asked in every language with every template; `effects` per subject (and template, in turn)."""
    rows, probes = [], []
    for subject in range(5):
        for template in range(templates):
            for code in codes:
                probe = f"{subject}/{code}/{template}"
                probes.append((probe, str(subject), code, template))
                rows.append((probe, *BIG, 2.0))
                rows += [
                    (probe, *neuron, 2 * of[subject * templates + template])
                    for neuron, of in effects.items()
                    if of[subject * templates + template] is not None
                ]
    return AttributionResult(
        languages=codes, mean=torch.zeros(len(codes), 2, 8), share=torch.zeros(len(codes), 2, 8),
        top=pd.DataFrame(rows, columns=["probe", "layer", "neuron", "effect"]), completeness=pd.DataFrame(),
        probes=pd.DataFrame(probes, columns=["probe", "subject", "query_language", "template"]), threshold=0.1,
        method="exact", positions="all", provenance=Provenance(model="tiny"),
    )  # fmt: skip
