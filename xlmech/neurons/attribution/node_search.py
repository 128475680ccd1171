"""How many nodes the integral of each layer needs: found once on a prompt, for attribution over many.

Layers differ: the path through most is so smooth that a node or two give float rounding, while the first and last layers need
more. What a layer needs is much alike for prompts of one kind: a search over one or a few prompts pays for all the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from xlmech.engine.batching import Forced
from xlmech.models.backends import Backend
from xlmech.neurons.attribution.effects import Metric, Where, integrated_gradients


def nodes_needed(
    backend: Backend,
    samples: Sequence[tuple[Forced, torch.Tensor]],
    *,
    tolerance: float,
    positions: Where,
    metric: Metric = "log_prob",
    counts: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16),
) -> list[int]:
    """Few Gauss-Lobatto nodes per layer that together reach `tolerance` on every sample, for `integrated_gradients`.

    A layer's error is the distance of its attributions from those of half as many nodes again as the most; that of the whole is
    the length of all layers' errors, relative to the length of all their attributions. Other prompts than the samples may need
    more: the completeness error tells, at no cost.

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

    wanted = attributed(max(counts) + max(counts) // 2)
    squared = torch.stack([_squared_errors(attributed(nodes), wanted) for nodes in counts])
    return _allotted(squared, counts, tolerance**2)


def _squared_errors(
    found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
) -> Float[torch.Tensor, "sample layer"]:
    """What each layer adds to the square of the relative error of the whole."""
    pairs = zip(found, wanted, strict=True)
    return torch.stack([((one - ref).norm(dim=1) / ref.norm()) ** 2 for one, ref in pairs])


def _allotted(squared: Float[torch.Tensor, "count sample layer"], counts: Sequence[int], allowed: float) -> list[int]:
    """Nodes per layer: from the fewest for all on, more where a node lowers the worst sample's error most."""
    layers, chosen = torch.arange(squared.shape[2]), torch.zeros(squared.shape[2], dtype=torch.long)
    number = torch.tensor(counts, dtype=squared.dtype)[:, None]
    while (total := squared[chosen, :, layers].sum(0)).max() > allowed and chosen.min() < len(counts) - 1:
        of_worst = squared[:, total.argmax()]
        gain = (of_worst[chosen, layers] - of_worst) / (number - number[chosen, 0])
        gain[torch.arange(len(counts))[:, None] <= chosen] = -torch.inf
        count, layer = divmod(int(gain.argmax()), len(layers))
        chosen[layer] = count
    return [counts[index] for index in chosen.tolist()]
