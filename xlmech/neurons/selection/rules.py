"""The selection rules: how scores by language become universal and language-specific neurons. Runs no model."""

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
    """(language, layer, neuron) whether a neuron is a language's candidate: by share of probes, or among the top k by mean.

    Args:
        mean: Mean attribution, with the public facts' subtracted where they are to be; only positive ones are candidates.
        share: Share of probes in which a neuron stands out, with the public facts' subtracted alike.
        n_neurons: A language's candidates by mean.
        min_share: From this share of probes on.
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
    """(layer, neuron, score), best first: at most `n_neurons` with a positive score.

    Rules `min` and `entropy` rank by the minimum over languages; `intersection` ranks every language's common candidates by
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
    """(layer, neuron, score), best first: one language's own neurons, ranked by its score.

    Own are a language's candidates that no other language has. With rule `entropy` they are its candidates whose score is
    highest in it, and whose positive scores, divided by their sum over languages, have an entropy of at most `max_entropy`
    nats: another language may have them among its candidates, with little of the score. Neither proves that deactivation acts
    in that language only; `evaluate_mitigation` tells.

    Source:
        Entropy over languages: LAPE (Tang et al. 2024, arXiv:2402.16438), there of activation probabilities.
    """
    if rule == "entropy":
        positive = scores.clamp_min(0)
        # Without a positive score the entropy is NaN, and no bound holds.
        entropy = torch.special.entr(positive / positive.sum(0)).sum(0)
        own = is_candidate[language] & (scores.argmax(0) == language) & (entropy <= max_entropy)
    else:
        own = is_candidate[language] & (is_candidate.sum(0) == 1)
    return _top(torch.where(own, scores[language], -torch.inf), n_neurons)


def chosen_frame(rows: Iterable[tuple[str, str, Sequence[tuple[int, int, float]]]]) -> pd.DataFrame:
    """The frame of `PrivacyNeurons.chosen` from (kind, language, neurons)."""
    found = [(kind, language, *neuron) for kind, language, neurons in rows for neuron in neurons]
    return pd.DataFrame(found, columns=["kind", "language", "layer", "neuron", "score"])


def _top(scores: Float[torch.Tensor, "layer neuron"], k: int) -> list[tuple[int, int, float]]:
    ranked = scores.masked_fill(scores.isnan(), -torch.inf)  # NaN would rank first
    found = ranked.flatten().topk(min(k, scores.numel()))
    return [
        (index // scores.shape[1], index % scores.shape[1], score)
        for index, score in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        if score > 0
    ]
