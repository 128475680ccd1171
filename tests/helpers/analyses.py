"""Every analysis that runs in shards, whether two results are the same, and items of a task that runs no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from helpers.people import person

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.leakage.measure import measure_leakage
from xlmech.lens.logit import logit_lens
from xlmech.neurons.attribution.attribute import attribute_neurons
from xlmech.options import AttributeOptions
from xlmech.patching.between_languages import patch_languages
from xlmech.storage.result import Result


def same(one: Any, other: Any, *, exactly: bool = True) -> None:
    """Two results hold the same frames and tensors."""
    for name, value in vars(one).items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, getattr(other, name), check_exact=exactly, rtol=1e-4, atol=1e-6)
        elif isinstance(value, torch.Tensor):
            close = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-4, "atol": 1e-6}
            torch.testing.assert_close(value, getattr(other, name), **close, equal_nan=True)
        elif name != "provenance":
            assert value == getattr(other, name), name


def analyses(model: Any, probes: ProbeSet) -> Iterator[Result]:
    yield measure_leakage(model, probes, measures=["extraction", "exposure"], progress=False)
    countries = probes.filter(attributes=["birth_country"])
    yield logit_lens(model, countries, whole_values=True, progress=False)
    pairs = build_probes([person(number) for number in range(4)], ["fr", "es"], templates=[0]).pairs(
        source="fr", target="es"
    )
    yield patch_languages(model, pairs, whole_values=True, progress=False)
    yield attribute_neurons(model, probes, progress=False)
    path = AttributeOptions(method="integrated_gradients", positions="last", nodes=8)
    french = probes.filter(languages=["fr"])
    yield attribute_neurons(model, french, options=path, baseline_probes=probes, progress=False)


@dataclass(frozen=True, kw_only=True)
class Letter:
    """An item."""

    id: str
    length: int = 0
    group: str = ""


def letters(text: str) -> tuple[Letter, ...]:
    return tuple(Letter(id=letter) for letter in text)
