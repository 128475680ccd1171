"""Attribution by the equal-step sums of earlier work, and how many texts keep a neuron: what its recipes choose by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from xlmech import metrics
from xlmech.backends import backend_of
from xlmech.effects import COMPONENT, Metric, Quadrature, integrated_gradients
from xlmech.probes import Probe
from xlmech.runner import encode_answer, encode_prompt, run_forced


@dataclass(frozen=True)
class Votes:
    """(neuron,) over all layers: share of texts that keep a neuron, and mean normalised attribution."""

    share: NDArray[np.float64]
    mean: NDArray[np.float64]


def count_votes(
    model: Any,
    texts: Iterable[Probe],
    keeps: Callable[[torch.Tensor], torch.Tensor],
    *,
    metric: Metric,
    rule: Quadrature,
    steps: int,
    max_answer_tokens: int | None,
    progress: bool,
    signed: bool = True,
) -> Votes:
    """Attribute each text's answer from zero, at the positions that predict its tokens, and count who keeps what.

    `keeps` takes (neuron,) attributions, or their sizes unless `signed`, as parts of the text's largest.
    """
    backend, n_texts = backend_of(model), 0
    exact = torch.promote_types(backend.unembed.dtype, torch.float32)
    zero = torch.zeros(backend.n_layers, backend.d_mlp, dtype=exact, device=backend.device)
    kept = total = torch.zeros(zero.numel(), dtype=torch.float64)
    for probe in tqdm(texts, desc="attribution", disable=not progress, leave=False):
        what = f"probe {probe.id}"
        answer = encode_answer(backend, probe.answers[probe.query_language], what=what)[:max_answer_tokens]
        prompt = encode_prompt(backend, probe.prompt, room=len(answer), what=what)
        forced = run_forced(backend, prompt, answer, COMPONENT, what=what)
        scores, _ = integrated_gradients(backend, forced, zero, nodes=steps, positions="last", metric=metric, rule=rule)
        part = metrics.normalised_attribution(scores if signed else scores.abs()).flatten().cpu().double()
        kept, total, n_texts = kept + keeps(part), total + part, n_texts + 1
    return Votes(share=(kept / n_texts).numpy(), mean=(total / n_texts).numpy())
