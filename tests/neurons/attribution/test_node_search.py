"""Nodes per layer: enough for the tolerance, and no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from xlmech.engine.batching import run_forced
from xlmech.models.backends import NEURON_HOOK, backend_of
from xlmech.neurons.attribution.effects import integrated_gradients
from xlmech.neurons.attribution.node_search import _allotted, nodes_needed


def test_the_fewest_nodes_within_the_tolerance(model: Any) -> None:
    backend = backend_of(model)
    forced = run_forced(backend, [2, 7, 8, 9, 11], [5, 6], NEURON_HOOK)
    base = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    wanted, _ = integrated_gradients(backend, forced, base, nodes=24, positions="last")

    def error(nodes: list[int]) -> float:
        found, _ = integrated_gradients(backend, forced, base, nodes=nodes, positions="last")
        return float((found - wanted).norm() / wanted.norm())

    # Between the errors of one node and of many, so that neither answers alone.
    tolerance = 0.9 * error([1] * backend.n_layers)
    nodes = nodes_needed(backend, [(forced, base)], tolerance=tolerance, positions="last", counts=(1, 2, 3, 4, 6))
    assert error(nodes) <= tolerance
    assert max(nodes) > 1
    loose = nodes_needed(backend, [(forced, base)], tolerance=100.0, positions="last", counts=(1, 2))
    assert loose == [1] * backend.n_layers
    never = nodes_needed(backend, [(forced, base)], tolerance=1e-30, positions="last", counts=(1, 2))
    assert never == [2] * backend.n_layers


def test_no_other_choice_is_much_cheaper() -> None:
    """Beside every choice there is, for errors that fall at different rates."""
    counts, generator = (1, 2, 3, 4, 6), torch.Generator().manual_seed(0)
    for _ in range(20):
        rates = 2 + 3 * torch.rand(3, 4, generator=generator, dtype=torch.float64)
        squared = torch.stack([10.0 ** (-rates * count) for count in counts])
        nodes = _allotted(squared, counts, 1e-8)
        enough = [
            sum(every)
            for every in itertools.product(counts, repeat=4)
            if squared[[counts.index(n) for n in every], :, range(4)].sum(0).max() <= 1e-8
        ]
        assert squared[[counts.index(n) for n in nodes], :, range(4)].sum(0).max() <= 1e-8
        assert sum(nodes) <= min(enough) + 2


@pytest.mark.parametrize(("tolerance", "counts", "n"), [(0.0, (1, 2), 1), (0.1, (), 1), (0.1, (1, 2), 0)])
def test_bad_requests(model: Any, tolerance: float, counts: tuple[int, ...], n: int) -> None:
    backend = backend_of(model)
    forced = run_forced(backend, [2, 7, 8], [5], NEURON_HOOK)
    samples = [(forced, torch.zeros(backend.n_layers, backend.d_mlp))] * n
    with pytest.raises(ValueError, match="nodes need a sample, counts to choose from and a positive tolerance"):
        nodes_needed(backend, samples, tolerance=tolerance, positions="last", counts=counts)
