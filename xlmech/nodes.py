"""How many nodes the integral of each layer needs: found once on a prompt, for attribution over many.

Layers differ: the path through most is so smooth that a node or two give float rounding, while the first and last layers need
more. What a layer needs is much alike for prompts of one kind: a search over one or a few prompts pays for all the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xlmech.backends import Backend
from xlmech.effects import Metric, Where, integrated_gradients
from xlmech.runner import Forced


def nodes_needed(
    backend: Backend,
    samples: Sequence[tuple[Forced, torch.Tensor]],
    *,
    tolerance: float,
    positions: Where,
    metric: Metric = "log_prob",
    counts: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16),
) -> list[int]:
    """Smallest number of Gauss-Lobatto nodes per layer that reaches `tolerance` on every sample, for `integrated_gradients`.

    A layer's error is the distance of its attributions from those of half as many nodes again as the most, relative to the length
    of all layers' attributions together and to one over the square root of the number of layers: where every layer reaches
    `tolerance`, so does the whole. Other prompts than the samples may need more: the completeness error tells, at no cost.

    Args:
        backend: The model.
        samples: Forced answers with their baselines.
        tolerance: Relative error.
        positions: As for `integrated_gradients`.
        metric: Of each token.
        counts: Numbers of nodes to choose from, in rising order.

    Returns:
        Nodes per layer, the most where that does not reach the tolerance either.

    Raises:
        ValueError: No samples, no counts, or a tolerance that is not positive.
    """
    if not samples or not counts or not tolerance > 0:
        raise ValueError(
            f"nodes need a sample, counts to choose from and a positive tolerance, got {len(samples)} samples, "
            f"{len(counts)} counts and {tolerance}"
        )

    def attributed(nodes: int) -> list[torch.Tensor]:
        return [
            integrated_gradients(backend, forced, base, nodes=nodes, positions=positions, metric=metric)[0]
            for forced, base in samples
        ]

    most = max(counts)
    wanted, found = attributed(most + most // 2), [most] * backend.n_layers
    for nodes in counts[:-1]:
        pairs = zip(attributed(nodes), wanted, strict=True)
        errors = torch.stack([(one - ref).norm(dim=1) / ref.norm() for one, ref in pairs])
        enough = (errors.amax(0) * backend.n_layers**0.5 <= tolerance).tolist()
        found = [min(old, nodes) if good else old for old, good in zip(found, enough, strict=True)]
        if all(enough):
            break
    return found
