"""Neuron attribution: how much each MLP neuron adds to an answer, over probes and languages.

Three methods, computed in `xlmech.effects`: integrated gradients, gradient x activation, and exact ablation. Integrated
gradients move one layer's activation along the line from a baseline to its value, all other layers as they are; the engine
makes every (layer, quadrature node) a row of one batch. The default baseline is the mean activation at control prompts'
predicting positions: models with a norm after the MLP (Gemma 2 and 3, OLMo 2) hide any scaling of the activation, so that
from a zero baseline the integral does not converge; the completeness error shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from xlmech.answers import answer_log_probs
from xlmech.backends import Backend, backend_of
from xlmech.baselines import mean_baseline, warn_if_incomplete, zero_baseline
from xlmech.effects import (
    COMPONENT,
    Metric,
    Positions,
    Where,
    exact_effects,
    gradient_x_activation,
    integrated_gradients,
)
from xlmech.models import model_name, provenance
from xlmech.neurons import NeuronSet
from xlmech.positions import subject_tokens
from xlmech.probes import Probe, ProbeSet
from xlmech.results import Result
from xlmech.runner import BATCH_SIZE, encode_answer, encode_prompt, run_batched, run_forced
from xlmech.tally import Tally

Method = Literal["integrated_gradients", "gradient_x_activation", "exact"]
Baseline = Literal["mean", "zero"]
MetricChoice = Literal["auto", "log_prob", "prob", "logit", "log_odds"]
SATURATED = 0.99
"""Mean token probability (geometric, over an answer's tokens) above which metric `auto` takes log-odds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributionResult(Result):
    """Attributions, never dense: running means per language, and each probe's top neurons.

    A probe's attribution is the mean over its answer tokens of what each neuron adds to the metric, divided by its maximum
    over neurons where means and shares are formed: probes attributed by different metrics then weigh the same.

    Attributes:
        languages: Query languages, the order of `mean` and `share`.
        mean: (language, layer, neuron) mean over probes of the normalised attribution.
        share: (language, layer, neuron) share of probes in which it exceeds `threshold`.
        top: Each probe's top neurons, and those of `track`: `probe`, `layer`, `neuron`, `effect` (in the unit of the probe's
            metric).
        completeness: `probe`, `layer`, `error`: |sum IG - (F(a) - F(b))| / |F(a) - F(b)|; empty for the other methods.
        threshold: tau of `share`.
        method: As called.
        baseline: As called.
        positions: As called.
        metric: As called.
        saturated: Ids of the probes that metric `auto` attributed by log-odds, the others by log-probability.
        probes: One row per probe: `probe`, `subject` (a hash), `query_language`, `template`; empty where an earlier version
            saved the result.
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
    saturated: tuple[str, ...] = ()
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)

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
    metric: MetricChoice = "log_prob",
    positions: Positions = "last",
    controls: ProbeSet | None = None,
    max_answer_tokens: int | None = None,
    threshold: float = 0.1,
    track: NeuronSet | None = None,
    batch_size: int = BATCH_SIZE // 2,
    progress: bool = True,
) -> AttributionResult:
    """Attribute each probe's answer (in the query language's form) to MLP neurons.

    What it does not measure: what several neurons do together, and saturated answers (probability near 1), whose
    log-probability hardly moves whatever is removed. Log-odds move; metric `auto` takes them where an answer's mean token
    probability exceeds `SATURATED`, and the result says for which probes.

    Args:
        model: Hooked model.
        probes: Whose answers to attribute.
        method: `integrated_gradients`; `gradient_x_activation` (one backward pass); or `exact`, which sets every neuron to its
            baseline in turn: a row per neuron and answer token, so for small models or few probes.
        baseline: `mean` over `controls`' predicting positions, `zero`, or a (layer, neuron) tensor. With gradient x
            activation, `zero` estimates to first order what zeroing a neuron takes away, `mean` what setting it to its mean does.
        nodes: Nodes of the integral inside the path; its two ends are used besides (Gauss-Lobatto).
        metric: Of each answer token: `log_prob` (nats), `prob`, `logit` or `log_odds` (nats); or `auto`, `log_odds` for
            saturated answers and `log_prob` for others.
        positions: Whose activations are attributed: `last`, each answer token's predicting position; `subject`, the tokens of
            the subject's name in the prompt, where facts are looked up (Meng et al. 2022, arXiv:2202.05262); or `all`, the
            prompt's and answer's, where deactivation acts. Those of several positions are summed; the baseline is the same.
        controls: Prompts of the mean baseline; `probes` themselves by default.
        max_answer_tokens: Attribute only the first so many tokens of each answer.
        threshold: tau; a probe counts towards a neuron's share above this part of the probe's maximum.
        track: Neurons whose effect is kept for every probe, beside its top ones, for `selection_stability`.
        batch_size: Probes at a time, at first, of gradient x activation.
        progress: Whether to show a progress bar.

    Returns:
        AttributionResult.

    Raises:
        ValueError: No probes, an unknown method, metric or position, a number out of range, a baseline of another shape, tracked
            neurons of another model, NaN in an activation (names layer and probe); with positions `subject`, a tokenizer
            without offsets or a subject that no token holds.

    Source:
        Sundararajan et al. 2017, arXiv:1703.01365. Layer-wise with other layers as they are: Dai et al. 2022,
        arXiv:2104.08696. Mean baseline and Gauss-Lobatto nodes: this project.
    """
    check_request(probes, method, metric, positions, nodes, threshold, max_answer_tokens)
    backend = backend_of(model)
    pairs = [encode_probe(backend, probe, max_answer_tokens) for probe in probes]
    where = [_where(backend, probe, positions) for probe in probes]
    base = _baseline(backend, baseline, controls or probes, progress)
    saturated = _saturated(backend, pairs, progress) if metric == "auto" else []
    metric_of: list[Metric] = ["log_prob" if metric == "auto" else metric] * len(pairs)
    for index in saturated:
        metric_of[index] = "log_odds"
    if track is not None:
        track.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    tally = Tally(probes, backend, threshold, track)
    if method == "gradient_x_activation":
        _by_gradient(backend, pairs, base, metric_of, where, batch_size, progress, tally)
    else:
        for index, (prompt, answer) in enumerate(tqdm(pairs, desc="attribution", disable=not progress, leave=False)):
            forced = run_forced(backend, prompt, answer, COMPONENT, what=f"probe {probes[index].id}")
            options: Any = {"positions": where[index], "metric": metric_of[index]}
            if method == "integrated_gradients":
                scores, errors = integrated_gradients(backend, forced, base, nodes=nodes, **options)
                tally.add(index, scores / len(answer), errors)
            else:
                scores = exact_effects(backend, forced, base, **options).view_as(base)
                tally.add(index, scores / len(answer))
    result = AttributionResult(
        languages=probes.languages,
        mean=tally.mean,
        share=tally.share,
        top=tally.top,
        completeness=tally.completeness,
        threshold=threshold,
        method=method,
        baseline=baseline if isinstance(baseline, str) else "given",
        positions=positions,
        metric=metric,
        saturated=tuple(probes[index].id for index in saturated),
        probes=tally.probes,
        provenance=provenance(model),
    )
    remedy = "Use baseline='mean', or more nodes."
    warn_if_incomplete(result.completeness.error.tolist(), result.baseline, remedy=remedy, stacklevel=2)
    return result


def check_request(
    probes: ProbeSet,
    method: str,
    metric: str,
    positions: str,
    nodes: int,
    threshold: float,
    max_answer_tokens: int | None,
) -> None:
    """Raise ValueError unless `attribute_neurons` can be asked for this."""
    if not len(probes):
        raise ValueError("no probes to attribute; see build_probes, and the filters applied to its result")
    given = {"method": (method, get_args(Method)), "metric": (metric, get_args(MetricChoice))}
    for name, (value, choices) in (given | {"positions": (positions, get_args(Positions))}).items():
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; use {', '.join(map(repr, choices))}")
    if nodes < 1 or not 0 < threshold < 1:
        raise ValueError(f"nodes must be at least 1 and threshold between 0 and 1, got {nodes} and {threshold}")
    if max_answer_tokens is not None and max_answer_tokens < 1:
        raise ValueError(f"max_answer_tokens must be at least 1, or None for whole answers; got {max_answer_tokens}")


def encode_probe(backend: Backend, probe: Probe, max_answer_tokens: int | None = None) -> tuple[list[int], list[int]]:
    """Token ids of a probe's prompt, and of its answer in the query language's form, cut after `max_answer_tokens`.

    Raises:
        ValueError: The model cannot take one of them (names the probe).
    """
    answer = encode_answer(backend, probe.answers[probe.query_language], what=f"the answer of {probe.id}")[
        :max_answer_tokens
    ]
    return encode_prompt(backend, probe.prompt, room=len(answer), what=f"probe {probe.id}"), answer


def _where(backend: Backend, probe: Probe, positions: Positions) -> Where:
    """The same, but for the subject's: their range in the probe's prompt."""
    return subject_tokens(backend, probe) if positions == "subject" else positions


def _saturated(backend: Backend, pairs: Sequence[tuple[list[int], list[int]]], progress: bool) -> list[int]:
    """Indices of the (prompt, answer) pairs whose answer's mean token probability exceeds `SATURATED`."""
    prompts, answers = [prompt for prompt, _ in pairs], [[answer] for _, answer in pairs]
    found = answer_log_probs(backend, prompts, answers, progress="saturated answers" if progress else "")
    limits = [len(answer) * math.log(SATURATED) for _, answer in pairs]
    return [index for index, (score, limit) in enumerate(zip(found, limits, strict=True)) if float(score) > limit]


def _baseline(
    backend: Backend, given: str | Float[torch.Tensor, "layer neuron"], probes: ProbeSet, progress: bool
) -> Float[torch.Tensor, "layer neuron"]:
    if isinstance(given, torch.Tensor):
        wanted = (backend.n_layers, backend.d_mlp)
        if tuple(given.shape) != wanted:
            raise ValueError(f"a baseline must be of shape (layer, neuron) {wanted}, got {tuple(given.shape)}")
        return given.to(backend.device)
    if given == "zero":
        return zero_baseline(backend)
    if given != "mean":
        raise ValueError(f"unknown baseline {given!r}; use 'mean', 'zero' or a (layer, neuron) tensor")
    return mean_baseline(backend, [probe.prompt for probe in probes], progress=progress)


def _by_gradient(
    backend: Backend,
    pairs: Sequence[tuple[list[int], list[int]]],
    base: torch.Tensor,
    metric_of: Sequence[Metric],
    where: Sequence[Where],
    batch_size: int,
    progress: bool,
    tally: Tally,
) -> None:
    """Gradient x activation in batches of pairs of equal length and one metric."""
    for metric in dict.fromkeys(metric_of):
        same = [index for index, other in enumerate(metric_of) if other == metric]

        def add(_: torch.Tensor, numbers: list[int], metric: Metric = metric, same: list[int] = same) -> None:
            chosen = [pairs[same[number]] for number in numbers]
            own = [where[same[number]] for number in numbers]
            spans = [span for span in own if isinstance(span, range)]
            everywhere: Any = spans or own[0]  # ranges for all of the probes, or one word
            batch = gradient_x_activation(backend, chosen, base, positions=everywhere, metric=metric)
            for number, (_prompt, answer), scores in zip(numbers, chosen, batch, strict=True):
                tally.add(same[number], scores / len(answer))

        sequences = [[*pairs[index][0], *pairs[index][1]] for index in same]
        run_batched(sequences, add, batch_size=batch_size, progress="attribution" if progress else "")
