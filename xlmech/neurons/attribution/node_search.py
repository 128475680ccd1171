"""Search for the number of nodes that the integral of each layer needs.

The path through most layers is so smooth that one or two nodes give float rounding; the first and last layers need more. Prompts
of one kind need similar numbers, so that a search on one or a few prompts serves all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from xlmech.engine.batching import Forced
from xlmech.models.backends import Backend
from xlmech.neurons.attribution.effects import Metric, TokenPositions, integrated_gradients


def nodes_needed(
    backend: Backend,
    samples: Sequence[tuple[Forced, torch.Tensor]],
    *,
    tolerance: float,
    positions: TokenPositions,
    metric: Metric = "log_prob",
    counts: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16),
) -> list[int]:
    """Find few Gauss-Lobatto nodes per layer with which `integrated_gradients` reaches `tolerance` on every sample.

    A layer's error is the distance of its attributions from those with 1.5 times the largest count. The error of the whole is the
    norm of all layers' errors, relative to the norm of all their attributions. Other prompts than the samples may need more
    nodes: their completeness error shows it.

    Args:
        backend: The model.
        samples: Forced answers with their baselines.
        tolerance: Relative error.
        positions: As for `integrated_gradients`.
        metric: Of each token.
        counts: Numbers of nodes to choose from, in rising order.

    Returns:
        Nodes per layer; the largest count for all where even that does not reach the tolerance.

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

    wanted = attributed(max(counts) + max(counts) // 2)
    squared = torch.stack([_squared_errors(attributed(nodes), wanted) for nodes in counts])
    return _allotted(squared, counts, tolerance**2)


def _squared_errors(
    attributions: Sequence[torch.Tensor], references: Sequence[torch.Tensor]
) -> Float[torch.Tensor, "sample layer"]:
    """Compute the (sample, layer) share of each layer in the square of the relative error of the whole."""
    pairs = zip(attributions, references, strict=True)
    return torch.stack([((scores - wanted).norm(dim=1) / wanted.norm()) ** 2 for scores, wanted in pairs])


def _allotted(squared: Float[torch.Tensor, "count sample layer"], counts: Sequence[int], allowed: float) -> list[int]:
    """Return nodes per layer: begin with the fewest everywhere, and add where a node lowers the worst sample's error most."""
    layers, chosen = torch.arange(squared.shape[2]), torch.zeros(squared.shape[2], dtype=torch.long)
    number = torch.tensor(counts, dtype=squared.dtype)[:, None]
    while (total := squared[chosen, :, layers].sum(0)).max() > allowed and chosen.min() < len(counts) - 1:
        of_worst = squared[:, total.argmax()]
        gain = (of_worst[chosen, layers] - of_worst) / (number - number[chosen, 0])
        gain[torch.arange(len(counts))[:, None] <= chosen] = -torch.inf
        count, layer = divmod(int(gain.argmax()), len(layers))
        chosen[layer] = count
    return [counts[index] for index in chosen.tolist()]
