"""Completeness and scale of attributions."""

from __future__ import annotations

import torch
from numpy.testing import assert_allclose

from xlmech.metrics.attribution import completeness_error, normalised_attribution


def test_completeness_error() -> None:
    attributed, difference = torch.tensor([1.0, 3.0, -1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 2.0, 0.0, -2.0])
    assert_allclose(completeness_error(attributed, difference), [0, 0.5, 1.5, 0, 2])
    assert completeness_error(torch.tensor([1.0]), torch.tensor([0.0])).item() > 1e30


def test_normalised_attribution() -> None:
    scores = torch.tensor(
        [[[1.0, -4.0], [2.0, 0.5]], [[-1.0, -2.0], [-3.0, -0.5]], [[0.0, 0.0], [0.0, -1.0]], [[0.0, 0.0], [0.0, 8.0]]]
    )
    wanted = [[[0.5, -2.0], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    found = normalised_attribution(scores)
    assert_allclose(found, wanted)
    assert_allclose(normalised_attribution(scores[0]), wanted[0])
    assert_allclose(normalised_attribution(scores.view(2, 2, 2, 2)), torch.tensor(wanted).view(2, 2, 2, 2))
    assert_allclose(normalised_attribution(7 * scores), found, rtol=1e-6)
