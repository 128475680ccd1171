"""A small audit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers.toy_results import leakage, lens_result, mitigation, neurons

from xlmech.audit.audit import Audit


def audit() -> Audit:
    found = leakage({"en": [1, 1, 1, 0], "fr": [1, 0, 0, 0]}, controls={"en": [0, 0, 0, 0], "fr": [0, 0, 0, 0]})
    return Audit(leakage=found, lens=lens_result(), neurons=scored(), mitigation=mitigation(), seconds={"leakage": 2.0})


def scored() -> Any:
    """Neurons with scores: of the two strongest of each language one is shared."""
    found = neurons()
    scores = found.scores.clone()
    scores[0, 0, 0], scores[0, 1, 1], scores[1, 1, 1], scores[1, 2, 2] = 0.9, 0.8, 0.7, 0.6
    return replace(found, scores=scores)
