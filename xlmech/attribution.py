"""Neuron attribution: how much each MLP neuron adds to an answer, over probes and languages.

Three methods, computed in `xlmech.effects`: integrated gradients, gradient x activation, and exact ablation. Integrated
gradients move one layer's activation along the line from a baseline to its value, all other layers as they are; the engine
makes every (layer, quadrature node) a row of one batch. The default baseline is the mean activation at control prompts'
predicting positions: models with a norm after the MLP (Gemma 2 and 3, OLMo 2) hide any scaling of the activation, so that
from a zero baseline the integral does not converge; the completeness error shows it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from xlmech import metrics
from xlmech.backends import Backend, backend_of
from xlmech.effects import COMPONENT, Metric, Positions, exact_effects, gradient_x_activation, integrated_gradients
from xlmech.models import provenance
from xlmech.probes import Probe, ProbeSet
from xlmech.results import Result
from xlmech.runner import BATCH_SIZE, Recorder, encode_answer, encode_prompt, run_batched, run_forced

Method = Literal["integrated_gradients", "gradient_x_activation", "exact"]
Baseline = Literal["mean", "zero"]
TOP_PER_PROBE = 200
_COMPLETENESS_WARNING = 0.1


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributionResult(Result):
    """Attributions, never dense: running means per language, and each probe's top neurons.

    A probe's attribution is the mean over its answer tokens of what each neuron adds to the metric, divided by its maximum
    over neurons where means and shares are formed.

    Attributes:
        languages: Query languages, the order of `mean` and `share`.
        mean: (language, layer, neuron) mean over probes of the normalised attribution.
        share: (language, layer, neuron) share of probes in which it exceeds `threshold`.
        top: Each probe's top neurons: `probe`, `layer`, `neuron`, `effect` (in the metric's unit).
        completeness: `probe`, `layer`, `error`: |sum IG - (F(a) - F(b))| / |F(a) - F(b)|; empty for the other methods.
        threshold: tau of `share`.
        method: As called.
        baseline: As called.
        positions: As called.
        metric: As called.
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
    metric: str = "log_prob"

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
    metric: Metric = "log_prob",
    positions: Positions = "last",
    controls: ProbeSet | None = None,
    max_answer_tokens: int | None = None,
    threshold: float = 0.1,
    batch_size: int = BATCH_SIZE // 2,
    progress: bool = True,
) -> AttributionResult:
    """Attribute each probe's answer (in the query language's form) to MLP neurons.

    What it does not measure: what several neurons do together, and saturated answers (probability near 1), whose
    log-probability hardly moves whatever is removed (`log_odds` does).

    Args:
        model: Hooked model.
        probes: Whose answers to attribute.
        method: `integrated_gradients`; `gradient_x_activation` (one backward pass); or `exact`, which sets every neuron to its
            baseline in turn: a row per neuron and answer token, so for small models or few probes.
        baseline: `mean` over `controls`' predicting positions, `zero`, or a (layer, neuron) tensor. With gradient x
            activation, `zero` estimates to first order what zeroing a neuron takes away, `mean` what setting it to its mean does.
        nodes: Nodes of the integral inside the path; its two ends are used besides (Gauss-Lobatto).
        metric: Of each answer token: `log_prob` (nats), `prob`, `logit` or `log_odds` (nats).
        positions: `last`, each answer token's predicting position; or `all`, summed over the prompt's and answer's positions.
        controls: Prompts of the mean baseline; `probes` themselves by default.
        max_answer_tokens: Attribute only the first so many tokens of each answer.
        threshold: tau; a probe counts towards a neuron's share above this part of the probe's maximum.
        batch_size: Probes at a time, at first, of gradient x activation.
        progress: Whether to show a progress bar.

    Returns:
        AttributionResult.

    Raises:
        ValueError: No probes, an unknown method, metric or position, or NaN in an activation (names layer and probe).

    Source:
        Sundararajan et al. 2017, arXiv:1703.01365. Layer-wise with other layers as they are: Dai et al. 2022,
        arXiv:2104.08696. Mean baseline and Gauss-Lobatto nodes: this project.
    """
    _check(probes, method, metric, positions, nodes, threshold)
    backend = backend_of(model)
    base = (
        baseline if isinstance(baseline, torch.Tensor) else _baseline(backend, controls or probes, baseline, progress)
    )
    tally = _Tally(probes, backend, threshold)
    pairs = [_tokens(backend, probe, max_answer_tokens) for probe in probes]
    if method == "gradient_x_activation":

        def add(_: torch.Tensor, indices: list[int]) -> None:
            chosen = [pairs[index] for index in indices]
            batch = gradient_x_activation(backend, chosen, base, positions=positions, metric=metric)
            for index, scores in zip(indices, batch, strict=True):
                tally.add(index, scores / len(pairs[index][1]))

        sequences = [[*prompt, *answer] for prompt, answer in pairs]
        run_batched(sequences, add, batch_size=batch_size, progress="attribution" if progress else "")
    else:
        for index, (prompt, answer) in enumerate(tqdm(pairs, desc="attribution", disable=not progress, leave=False)):
            forced = run_forced(backend, prompt, answer, COMPONENT, what=f"probe {probes[index].id}")
            if method == "integrated_gradients":
                scores, errors = integrated_gradients(
                    backend, forced, base, nodes=nodes, positions=positions, metric=metric
                )
                tally.add(index, scores / len(answer), errors)
            else:
                effects = exact_effects(backend, forced, base, positions=positions, metric=metric)
                tally.add(index, effects.view_as(base) / len(answer))
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
        metric=metric,
        provenance=provenance(model),
    )
    _warn_if_incomplete(result)
    return result


def _check(probes: ProbeSet, method: str, metric: str, positions: str, nodes: int, threshold: float) -> None:
    if not len(probes):
        raise ValueError("no probes to attribute; see build_probes, and the filters applied to its result")
    given = {"method": (method, get_args(Method)), "metric": (metric, get_args(Metric))}
    for name, (value, choices) in (given | {"positions": (positions, get_args(Positions))}).items():
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; use {', '.join(map(repr, choices))}")
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
        self.top[index] = pd.DataFrame({"probe": probe.id, "layer": layers, "neuron": neurons, "effect": best.values})
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
