"""Attribute answers to MLP neurons, over probes and languages.

`gradient_x_activation` and `exact` estimate an intervention: how far the answer's score falls under `ablate` of this neuron
alone, at the same positions and with the same replacement. Exact attribution runs that intervention; gradient x activation is
its first order. Integrated gradients answer another question: how the effect of moving a layer from a baseline is divided among
its neurons, with all other layers unchanged. Models with a norm after the MLP (Gemma 2 and 3, OLMo 2) hide any scaling of a whole
layer's activations, so that this integral does not converge from a zero baseline. The completeness error shows it, and the
default baseline is the mean over control people's prompts. The methods are in `effects` and `gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.checks import check_choice
from xlmech.data.probes import ProbeSet
from xlmech.data.records import subject_hash
from xlmech.engine.batching import BATCH_SIZE
from xlmech.execution.resume import in_order, run_task
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import model_name, provenance
from xlmech.models.tokens import EncodedProbe, encode_probe, warn_of_straddling
from xlmech.neurons.ablation import check_values
from xlmech.neurons.attribution.accumulator import merge_attributions
from xlmech.neurons.attribution.baselines import warn_if_incomplete, zero_baseline
from xlmech.neurons.attribution.brief import attribution_brief
from xlmech.neurons.attribution.task import AttributionTask, MeanActivationTask, SaturationTask
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import AttributeOptions
from xlmech.storage.result import Result

Replacement = Literal["zero", "mean"]
SATURATED = 0.99
"""Mean token probability (geometric, over an answer's tokens) above which metric `auto` takes log-odds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributionResult(Result):
    """Attributions: means per language, and each probe's top neurons.

    A probe's attribution is the mean over its answer tokens of the neuron's effect on the metric. In means and shares it is
    divided by its maximum over neurons, so that probes of different metrics weigh the same.

    Attributes:
        languages: Query languages, the order of `mean` and `share`.
        mean: (language, layer, neuron) mean over probes of the normalised attribution.
        share: (language, layer, neuron) share of probes in which it exceeds `threshold`.
        top: Each probe's top neurons, and those of `track`: `probe`, `layer`, `neuron`, `effect` (in the unit of the
            probe's metric).
        completeness: `probe`, `layer`, `error`: |sum IG - (F(a) - F(b))| / |F(a) - F(b)|; empty for the other methods.
        threshold: tau of `share`.
        method: Attribution method.
        mode: Replacement in the intervention that is estimated, `zero` or `mean`; "" for integrated gradients.
        baseline: Where the path of integrated gradients starts, `mean`, `zero` or `given`; "" for the other methods.
        positions: Positions attributed.
        metric: Metric of each answer token.
        saturated: Ids of the probes that metric `auto` attributed by log-odds, the others by log-probability.
        probes: One row per probe: `probe`, `subject` (a hash), `query_language`, `template`; empty where an earlier version
            saved the result.
        failed: Ids of probes that failed every time and are left out; only in work by shards.
    """

    kind: ClassVar[str] = "attribution"
    _brief = attribution_brief
    languages: tuple[str, ...]
    mean: torch.Tensor
    share: torch.Tensor
    top: pd.DataFrame
    completeness: pd.DataFrame
    threshold: float
    method: str
    positions: str
    mode: str = ""
    baseline: str = ""
    metric: str = "auto"
    saturated: tuple[str, ...] = ()
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
    failed: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return each probe's top neurons."""
        return self.top


def attribute_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    options: AttributeOptions = AttributeOptions(),
    mode: Replacement = "zero",
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    baseline_probes: ProbeSet | None = None,
    baseline_values: Float[torch.Tensor, "layer neuron"] | None = None,
    track: NeuronSet | None = None,
    batch_size: int = BATCH_SIZE // 2,
    progress: bool = True,
) -> AttributionResult:
    """Attribute each probe's answer (in the query language's form) to MLP neurons.

    By default a neuron's attribution estimates the loss of the answer, in the unit of the metric and per answer token, while
    `ablate` holds this neuron at zero, at all positions. With `mode="mean"` and `values` it estimates the loss under
    `ablate(..., mode="mean", values=values)`. `exact` runs that intervention, neuron by neuron. Gradient x activation takes one
    backward pass per batch; `docs/explanation/method.md` measures how well it ranks neurons. For values far from the
    activations the first order is not enough: use `exact`.

    Attribution does not measure what several neurons do together. The log-probability of a saturated answer (probability near
    1) hardly changes under any ablation. Metric `auto` therefore takes log-odds if an answer's mean token probability exceeds
    `SATURATED`, and the result lists these probes.

    Args:
        model: Hooked model.
        probes: Probes whose answers are attributed.
        options: Method, positions, metric and baseline. `exact` takes a row per neuron and answer, so it is for small models or
            few probes. `integrated_gradients` add up, over a layer, to the loss when the whole layer moves to the baseline; they
            take a pass per node and layer. Positions are those at which the intervention acts: `all` as `ablate` does;
            `subject`, the tokens of the subject's name in the prompt, at which facts are looked up (Meng et al. 2022,
            arXiv:2202.05262); or `last`, for each answer token its predicting position alone. Attributions of several positions
            are summed.
        mode: Replacement in the intervention that is estimated: `zero`, or `mean`, which is `values`. Not of integrated
            gradients.
        values: (layer, neuron) activations of mode `mean`; see `activation_moments`.
        baseline_probes: Probes over which baseline `mean` of integrated gradients is taken, at the positions attributed: control
            people, whom the model never saw. The mean over the attributed probes would hide what they share.
        baseline_values: (layer, neuron) baseline of integrated gradients, in place of `options.baseline`.
        track: Neurons whose effect is kept for every probe, in addition to its top neurons, for `selection_stability`.
        batch_size: Probes at a time, at first, of gradient x activation.
        progress: Whether to show a progress bar.

    Returns:
        AttributionResult.

    Raises:
        ValueError: No probes, an unknown mode, values or a baseline of another shape or of another method, a mean baseline
            without probes, tracked neurons of another model, NaN in an activation (names layer and probe); with positions
            `subject`, a tokenizer without offsets or a subject that no token holds.

    Source:
        Sundararajan et al. 2017, arXiv:1703.01365. Layer-wise with other layers as they are: Dai et al. 2022,
        arXiv:2104.08696. Gradient x activation as a first-order estimate of ablation: Molchanov et al. 2017, arXiv:1611.06440.
        Mean baseline and Gauss-Lobatto nodes: this project.
    """
    if not len(probes):
        raise ValueError("no probes to attribute; see build_probes, and the filters applied to its result")
    backend, metric = backend_of(model), options.metric
    if track is not None:
        track.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    baseline, base = replacement_of(backend, options, mode, values, baseline_values)
    encode = partial(
        encode_probe, backend, max_answer_tokens=options.max_answer_tokens, subject=options.positions == "subject"
    )
    encoded = [encode(probe) for probe in probes]
    warn_of_straddling([item.n_straddling for item in encoded])
    if base is None:
        baseline_task = MeanActivationTask(positions=options.positions, progress=progress)
        base = _mean(backend, [encode(probe) for probe in check_baseline_probes(baseline_probes)], baseline_task)
    saturated = saturated_probes(backend, encoded, progress=progress) if metric == "auto" else frozenset()
    task = AttributionTask(
        method=options.method, base=base.cpu(), is_mean=baseline == "mean", nodes=options.nodes,
        positions=options.positions, metric="log_prob" if metric == "auto" else metric, saturated=saturated,
        whole_vocabulary=options.whole_vocabulary, threshold=options.threshold, track=track, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    outputs = run_task(backend, task, [replace(item, group=item.probe.query_language) for item in encoded])
    merged = merge_attributions(outputs, probes.languages)
    order = [probe.id for probe in probes]
    result = AttributionResult(
        languages=probes.languages,
        mean=merged["mean"],
        share=merged["share"],
        top=in_order(merged["top"], "probe", order),
        completeness=in_order(merged["completeness"], "probe", order),
        threshold=options.threshold,
        method=options.method,
        mode="" if baseline else mode,
        baseline=baseline,
        positions=options.positions,
        metric=metric,
        saturated=tuple(probe for probe in order if probe in saturated),
        probes=_described(probes, outputs.failed),
        failed=outputs.failed,
        provenance=provenance(model),
    )
    remedy = "Use baseline='mean', or more nodes."
    warn_if_incomplete(result.completeness.error.tolist(), baseline, remedy=remedy, stacklevel=2)
    return result


def saturated_probes(backend: Backend, encoded: Sequence[EncodedProbe], *, progress: bool = False) -> frozenset[str]:
    """Return the ids of probes whose answer's mean token probability exceeds `SATURATED`."""
    outputs = run_task(backend, SaturationTask(limit=SATURATED, progress=progress), encoded)
    frame = pd.concat([output["probes"] for output in outputs])
    return frozenset(frame.probe[frame.saturated])


def replacement_of(
    backend: Backend,
    options: AttributeOptions,
    mode: Replacement = "zero",
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    baseline_values: Float[torch.Tensor, "layer neuron"] | None = None,
) -> tuple[str, Float[torch.Tensor, "layer neuron"] | None]:
    """Return the activations that replace the neurons'; arguments as of `attribute_neurons`.

    Returns:
        Name of the baseline of integrated gradients, "" for the other methods; and (layer, neuron) activations, None for a mean
        that is still to be computed.
    """
    check_choice("mode", mode, Replacement)
    zero = zero_baseline(backend)
    if options.method != "integrated_gradients":
        if baseline_values is not None:
            raise ValueError(
                f"baseline_values are of integrated gradients only: {options.method} estimates an ablation; give the "
                "replacement by mode='mean' and values="
            )
        if (mode == "mean") != (values is not None):
            raise ValueError("mode='mean' replaces by values=, which no other mode takes; see activation_moments")
        return "", zero if values is None else check_values(backend, "values", values).to(zero)
    if mode != "zero" or values is not None:
        raise ValueError("mode and values are of an intervention; integrated gradients take a baseline in their place")
    if baseline_values is not None:
        return "given", check_values(backend, "baseline_values", baseline_values).to(zero)
    return options.baseline, zero if options.baseline == "zero" else None


def check_baseline_probes(probes: ProbeSet | None) -> ProbeSet:
    """Return the probes of a mean baseline.

    Raises:
        ValueError: There are none.
    """
    if not probes:
        raise ValueError(
            "integrated gradients start from the mean activation over control people's prompts, and there are no such probes: "
            "give some (invented people will do, see invent_controls), or take baseline='zero' (in a config locate.baseline)"
        )
    return probes


def _mean(
    backend: Backend, encoded: Sequence[EncodedProbe], task: MeanActivationTask
) -> Float[torch.Tensor, "layer neuron"]:
    """Compute the mean activation over control probes, at the positions attributed."""
    total, n = torch.zeros((), dtype=torch.float64), 0
    for output in run_task(backend, task, encoded):
        total, n = total + output["sum"], n + int(output["n"])
    return (total / n).to(zero_baseline(backend))


def _described(probes: ProbeSet, failed: tuple[str, ...]) -> pd.DataFrame:
    """Make a frame of one row per probe that was attributed."""
    rows = [
        (probe.id, subject_hash(probe.record.subject), probe.query_language, probe.template)
        for probe in probes
        if probe.id not in failed
    ]
    return pd.DataFrame(rows, columns=["probe", "subject", "query_language", "template"])
