"""Select universal and language-specific neurons from scores by language. Runs no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float

from xlmech.options import LocateOptions, Rule


def candidates(
    mean: Float[torch.Tensor, "language layer neuron"],
    share: Float[torch.Tensor, "language layer neuron"],
    *,
    n_neurons: int,
    min_share: float,
) -> Bool[torch.Tensor, "language layer neuron"]:
    """Mark (language, layer, neuron) candidates: by share of probes, or among the `n_neurons` of largest mean.

    Args:
        mean: Mean attribution, less that of public facts if they are used; only neurons with a positive mean are candidates.
        share: Share of probes in which a neuron exceeds the threshold, less that of public facts alike.
        n_neurons: Number of candidates by mean, per language.
        min_share: Smallest share that makes a candidate.
    """
    mean = mean.masked_fill(mean.isnan(), -torch.inf)
    order = mean.flatten(1).topk(min(n_neurons, mean[0].numel()), dim=1).indices
    top = torch.zeros_like(mean.flatten(1), dtype=torch.bool).scatter_(1, order, True).view_as(mean)
    return (top | (share >= min_share)) & (mean > 0)


def select_universal(
    scores: Float[torch.Tensor, "language layer neuron"],
    *,
    rule: Rule,
    n_neurons: int,
    is_candidate: Bool[torch.Tensor, "language layer neuron"],
) -> list[tuple[int, int, float]]:
    """List (layer, neuron, score), best first: at most `n_neurons` universal neurons with a positive score.

    Rules `min` and `entropy` rank by the minimum over languages; `intersection` ranks the candidates of all languages by
    their mean.
    """
    if rule in ("min", "entropy"):
        return _top(scores.amin(0), n_neurons)
    if rule == "intersection":
        return _top(torch.where(is_candidate.all(0), scores.mean(0), -torch.inf), n_neurons)
    raise ValueError(f"unknown rule {rule!r}; use 'min', 'intersection' or 'entropy'")


def select_specific(
    scores: Float[torch.Tensor, "language layer neuron"],
    language: int,
    *,
    n_neurons: int,
    is_candidate: Bool[torch.Tensor, "language layer neuron"],
    rule: Rule = "min",
    max_entropy: float = LocateOptions().max_entropy,
) -> list[tuple[int, int, float]]:
    """List (layer, neuron, score), best first: one language's specific neurons, ranked by its score.

    These are candidates of this language alone. With rule `entropy` they are candidates with their highest score in this
    language, whose positive scores, divided by their sum over languages, have an entropy of at most `max_entropy` nats; they may
    be candidates of another language, with little of the score. Neither proves that ablation acts in this language only;
    `evaluate_mitigation` measures it.

    Source:
        Entropy over languages: LAPE (Tang et al. 2024, arXiv:2402.16438), there of activation probabilities.
    """
    if rule == "entropy":
        positive = scores.clamp_min(0)
        # Without a positive score the entropy is NaN, which no bound admits.
        entropy = torch.special.entr(positive / positive.sum(0)).sum(0)
        is_specific = is_candidate[language] & (scores.argmax(0) == language) & (entropy <= max_entropy)
    else:
        is_specific = is_candidate[language] & (is_candidate.sum(0) == 1)
    return _top(torch.where(is_specific, scores[language], -torch.inf), n_neurons)


def chosen_frame(rows: Iterable[tuple[str, str, Sequence[tuple[int, int, float]]]]) -> pd.DataFrame:
    """Make the frame of `PrivacyNeurons.chosen` from (kind, language, neurons)."""
    chosen = [(kind, language, *neuron) for kind, language, neurons in rows for neuron in neurons]
    return pd.DataFrame(chosen, columns=["kind", "language", "layer", "neuron", "score"])


def _top(scores: Float[torch.Tensor, "layer neuron"], k: int) -> list[tuple[int, int, float]]:
    ranked = scores.masked_fill(scores.isnan(), -torch.inf)  # NaN would rank first
    best = ranked.flatten().topk(min(k, scores.numel()))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(*divmod(index, scores.shape[1]), score) for index, score in pairs if score > 0]
