"""Neuron attribution: how much each MLP neuron adds to an answer, by integrated gradients or gradient x activation.

Integrated gradients move one layer's activation at the predicting position along the line from a baseline to its value,
all other layers as they are. The engine makes that one batch: the prompt's keys and values are shared, and every
(layer, quadrature node) is a row that runs the last token only. The default baseline is the mean activation at control
prompts' predicting positions: models with a norm after the MLP (Gemma 2 and 3, OLMo 2) hide any scaling of the
activation, so that from a zero baseline the integral does not converge; the completeness error shows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from tqdm.auto import tqdm

from xlmech import metrics
from xlmech.backends import Backend, backend_of
from xlmech.models import provenance
from xlmech.probes import Probe, ProbeSet
from xlmech.readout import token_log_prob
from xlmech.results import Result
from xlmech.runner import (
    BATCH_SIZE,
    Forced,
    Recorder,
    encode_answer,
    encode_prompt,
    replace_rows,
    run_batched,
    run_forced,
    run_rows,
)

Method = Literal["integrated_gradients", "gradient_x_activation"]
Baseline = Literal["mean", "zero"]
Positions = Literal["last", "all"]
COMPONENT = "mlp.hook_post"
TOP_PER_PROBE = 200
_COMPLETENESS_WARNING = 0.1


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributionResult(Result):
    """Attributions, never dense: running means per language, and each probe's top neurons.

    A probe's attribution is the mean over its answer tokens of what each neuron adds to the log-probability (nats), divided
    by its maximum over neurons where means and shares are formed.

    Attributes:
        languages: Query languages, the order of `mean` and `share`.
        mean: (language, layer, neuron) mean over probes of the normalised attribution.
        share: (language, layer, neuron) share of probes in which it exceeds `threshold`.
        top: Each probe's top neurons: `probe`, `layer`, `neuron`, `nats`.
        completeness: `probe`, `layer`, `error`: |sum IG - (F(a) - F(b))| / |F(a) - F(b)|; empty for gradient x activation.
        threshold: tau of `share`.
        method: As called.
        baseline: As called.
        positions: As called.
    """

    kind: ClassVar[str] = "attribution"
    languages: tuple[str, ...]
    mean: torch.Tensor
    share: torch.Tensor
    top: pd.DataFrame
    completeness: pd.DataFrame
    threshold: float
    method: str
    baseline: str
    positions: str

    def to_frame(self) -> pd.DataFrame:
        """Each probe's top neurons."""
        return self.top


def attribute_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    method: Method = "integrated_gradients",
    baseline: Baseline | Float[torch.Tensor, "layer neuron"] = "mean",
    nodes: int = 4,
    positions: Positions = "last",
    controls: ProbeSet | None = None,
    max_answer_tokens: int | None = None,
    threshold: float = 0.1,
    batch_size: int = BATCH_SIZE // 2,
    progress: bool = True,
) -> AttributionResult:
    """Attribute each probe's answer (in the query language's form) to MLP neurons, as log-probability in nats.

    What it does not measure: what several neurons do together, and saturated answers (probability near 1), whose
    log-probability hardly moves whatever is removed.

    Args:
        model: Hooked model.
        probes: Whose answers to attribute.
        method: `integrated_gradients` (positions `last` only) or `gradient_x_activation` (one backward pass).
        baseline: `mean` over `controls`' predicting positions, `zero`, or a (layer, neuron) tensor. With gradient x
            activation, `zero` estimates to first order what zeroing a neuron takes away, `mean` what setting it to its mean does.
        nodes: Gauss-Legendre nodes of the integral.
        positions: `last`, the predicting position; or `all`, summed over the prompt's and answer's positions.
        controls: Prompts of the mean baseline; `probes` themselves by default.
        max_answer_tokens: Attribute only the first so many tokens of each answer.
        threshold: tau; a probe counts towards a neuron's share above this part of the probe's maximum.
        batch_size: Probes at a time, at first, of gradient x activation.
        progress: Whether to show a progress bar.

    Returns:
        AttributionResult.

    Raises:
        ValueError: No probes, an unknown method, or integrated gradients at positions `all`.

    Source:
        Sundararajan et al. 2017, arXiv:1703.01365. Layer-wise with other layers as they are: Dai et al. 2022,
        arXiv:2104.08696. Mean baseline and Gauss-Legendre nodes: this project.
    """
    _check(probes, method, positions, nodes, threshold)
    backend = backend_of(model)
    base = (
        baseline if isinstance(baseline, torch.Tensor) else _baseline(backend, controls or probes, baseline, progress)
    )
    tally = _Tally(probes, backend, threshold)
    pairs = [_tokens(backend, probe, max_answer_tokens) for probe in probes]
    if method == "integrated_gradients":
        for index, (prompt, answer) in enumerate(tqdm(pairs, desc="attribution", disable=not progress, leave=False)):
            tally.add(index, *_integrated(backend, run_forced(backend, prompt, answer, COMPONENT), base, nodes))
    else:

        def add(_: torch.Tensor, indices: list[int]) -> None:
            batch = _gradient_x_activation(backend, [pairs[index] for index in indices], base, positions)
            for index, scores in zip(indices, batch, strict=True):
                tally.add(index, scores)

        sequences = [[*prompt, *answer] for prompt, answer in pairs]
        run_batched(sequences, add, batch_size=batch_size, progress="attribution" if progress else "")
    result = AttributionResult(
        languages=probes.languages,
        mean=tally.mean,
        share=tally.share,
        top=pd.concat([tally.top[index] for index in range(len(probes))], ignore_index=True),
        completeness=pd.DataFrame(tally.errors, columns=["probe", "layer", "error"]),
        threshold=threshold,
        method=method,
        baseline=baseline if isinstance(baseline, str) else "given",
        positions=positions,
        provenance=provenance(model),
    )
    _warn_if_incomplete(result)
    return result


def _check(probes: ProbeSet, method: str, positions: str, nodes: int, threshold: float) -> None:
    if not len(probes):
        raise ValueError("no probes to attribute; see build_probes, and the filters applied to its result")
    if method not in ("integrated_gradients", "gradient_x_activation"):
        raise ValueError(f"unknown method {method!r}; use 'integrated_gradients' or 'gradient_x_activation'")
    if positions not in ("last", "all"):
        raise ValueError(f"unknown positions {positions!r}; use 'last' or 'all'")
    if method == "integrated_gradients" and positions == "all":
        raise ValueError(
            "integrated gradients are computed at positions='last'; for 'all' use method='gradient_x_activation'"
        )
    if nodes < 1 or not 0 < threshold < 1:
        raise ValueError(f"nodes must be at least 1 and threshold between 0 and 1, got {nodes} and {threshold}")


def _tokens(backend: Backend, probe: Probe, max_answer_tokens: int | None) -> tuple[list[int], list[int]]:
    answer = encode_answer(backend, probe.answers[probe.query_language], what=f"the answer of {probe.id}")[
        :max_answer_tokens
    ]
    return encode_prompt(backend, probe.prompt, room=len(answer), what=f"probe {probe.id}"), answer


@torch.no_grad()
def _baseline(backend: Backend, probes: ProbeSet, kind: str, progress: bool) -> torch.Tensor:
    """(layer, neuron) baseline activation."""
    total = torch.zeros(backend.n_layers, backend.d_mlp, device=backend.device, dtype=_exact(backend))
    if kind == "zero":
        return total
    if kind != "mean":
        raise ValueError(f"unknown baseline {kind!r}; use 'mean', 'zero' or a (layer, neuron) tensor")
    recorder = Recorder(backend, COMPONENT)

    def add(tokens: torch.Tensor, _: list[int]) -> None:
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        total.add_(torch.stack([kept[:, -1].sum(0) for kept in recorder.kept]))

    prompts = [encode_prompt(backend, probe.prompt, what=f"probe {probe.id}") for probe in probes]
    run_batched(prompts, add, progress="baseline" if progress else "")
    return total / len(prompts)


def _integrated(
    backend: Backend, forced: Forced, base: torch.Tensor, nodes: int
) -> tuple[Float[torch.Tensor, "layer neuron"], Float[torch.Tensor, " layer"]]:
    """Mean over the answer's tokens of integrated gradients, and the completeness error per layer of that mean."""
    places, weights = _gauss_legendre(nodes, base)
    total = torch.zeros_like(base)
    difference = torch.zeros(backend.n_layers, device=base.device, dtype=base.dtype)
    for number, (position, token) in enumerate(forced.predicting):
        step = forced.activations[:, position].to(base.dtype) - base
        # Row 0 of each layer is the baseline itself, for completeness; the others are the nodes.
        values = (base[:, None] + places[:, None] * step[:, None]).requires_grad_()
        scores = _row_scores(backend, forced, position, token, values)
        (gradient,) = torch.autograd.grad(scores[:, 1:].sum(), values)
        total += step * einsum(gradient, weights, "layer node neuron, node -> layer neuron")
        difference += forced.log_probs[number].to(base.dtype) - scores[:, 0].detach()
    n_tokens = len(forced.tokens) - forced.n_prompt
    errors = metrics.completeness_error(total.sum(1), difference)
    return total / n_tokens, errors


def _row_scores(
    backend: Backend, forced: Forced, position: int, token: int, values: Float[torch.Tensor, "layer variant neuron"]
) -> Float[torch.Tensor, "layer variant"]:
    """Log-probability of `token` with one layer's activation at `position` replaced, per (layer, variant)."""
    n_rows = values.shape[0] * values.shape[1]
    hidden = run_rows(backend, forced, position, replace_rows(backend, COMPONENT, values), n_rows)
    targets = torch.full((n_rows,), token, device=hidden.device)
    return token_log_prob(hidden, backend.unembed, targets, **backend.readout).view(values.shape[:2])


def _gauss_legendre(nodes: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in [0, 1], a 0 in front, and weights (0 for that one)."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return (
        torch.tensor([0.0, *((places + 1) / 2)], dtype=like.dtype, device=like.device),
        torch.tensor([0.0, *(weights / 2)], dtype=like.dtype, device=like.device),
    )


def _gradient_x_activation(
    backend: Backend, pairs: Sequence[tuple[list[int], list[int]]], base: torch.Tensor, positions: Positions
) -> Float[torch.Tensor, "pair layer neuron"]:
    """(activation - base) * gradient of the answer tokens' mean log-probability, summed over positions.

    `pairs` are (prompt, answer) of one common length; rows of a batch do not touch each other, so that one backward pass
    serves them all.
    """
    places = [
        (row, len(prompt) - 1 + number) for row, (prompt, answer) in enumerate(pairs) for number in range(len(answer))
    ]
    numbers = torch.tensor([number for _, answer in pairs for number in range(len(answer))])
    rows, columns = torch.tensor(places, device=backend.device).T
    targets = torch.tensor([token for _, answer in pairs for token in answer], device=backend.device)
    shares = torch.tensor([1 / len(answer) for _, answer in pairs for _ in answer], device=backend.device)
    with torch.enable_grad():
        hidden, kept = _with_graph(backend, torch.tensor([[*prompt, *answer] for prompt, answer in pairs]))
        scores = shares * token_log_prob(hidden[rows, columns], backend.unembed, targets, **backend.readout)
        if positions == "all":
            gradients = torch.autograd.grad(scores.sum(), kept)
            parts = zip(kept, gradients, base, strict=True)
            return torch.stack([((value.detach() - start) * slope).sum(1) for value, slope, start in parts], dim=1)
        # At `last`, a token's score moves through the activation at its own predicting position only.
        total = torch.zeros(len(pairs), *base.shape, dtype=base.dtype, device=base.device)
        for number in range(int(numbers.max()) + 1):
            these = numbers == number
            gradients = torch.autograd.grad(scores[these].sum(), kept, retain_graph=True)
            row, column = rows[these], columns[these]
            for layer, (value, slope, start) in enumerate(zip(kept, gradients, base, strict=True)):
                total[row, layer] += (value.detach()[row, column] - start) * slope[row, column]
        return total


def _with_graph(backend: Backend, tokens: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Final hidden states of `tokens`, and the activations of every layer that they can be differentiated by."""
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001 (TransformerLens passes it by name)
        kept.append(value if kept else value.requires_grad_())  # layer 0 starts the graph; later ones are in it
        return kept[-1]

    with backend.hooks([(backend.hook_name(COMPONENT, layer), keep) for layer in range(backend.n_layers)]):
        hidden, _ = backend.hidden(tokens)
    return hidden, kept


def _exact(backend: Backend) -> torch.dtype:
    return torch.promote_types(backend.unembed.dtype, torch.float32)


class _Tally:
    """Running means and shares per language, and each probe's top neurons."""

    def __init__(self, probes: ProbeSet, backend: Backend, threshold: float) -> None:
        self.probes, self.languages, self.threshold = probes, probes.languages, threshold
        shape = (len(self.languages), backend.n_layers, backend.d_mlp)
        self._sum, self._above = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        self._count = torch.zeros(len(self.languages), 1, 1, dtype=torch.float64)
        self.top: dict[int, pd.DataFrame] = {}
        self.errors: list[tuple[str, int, float]] = []

    def add(self, index: int, scores: torch.Tensor, errors: torch.Tensor | None = None) -> None:
        scores, probe = scores.detach().float().cpu(), self.probes[index]
        normalised, language = metrics.normalised_attribution(scores), self.languages.index(probe.query_language)
        self._sum[language] += normalised
        self._above[language] += normalised > self.threshold
        self._count[language] += 1
        best = scores.flatten().topk(min(TOP_PER_PROBE, scores.numel()))
        layers, neurons = best.indices // scores.shape[1], best.indices % scores.shape[1]
        self.top[index] = pd.DataFrame({"probe": probe.id, "layer": layers, "neuron": neurons, "nats": best.values})
        if errors is not None:
            self.errors += [(probe.id, layer, float(error)) for layer, error in enumerate(errors)]

    @property
    def mean(self) -> torch.Tensor:
        return (self._sum / self._count).float()

    @property
    def share(self) -> torch.Tensor:
        return (self._above / self._count).float()


def _warn_if_incomplete(result: AttributionResult) -> None:
    median = result.completeness.error.median() if len(result.completeness) else 0.0
    if median > _COMPLETENESS_WARNING:
        warnings.warn(
            f"integrated gradients are incomplete: the median completeness error is {median:.2f}. With baseline "
            f"{result.baseline!r} this is what a norm after the MLP does (Gemma 2 and 3, OLMo 2): it hides any scaling of the "
            "activations, so the path from zero does not converge. Use baseline='mean', or more nodes.",
            stacklevel=3,
        )
