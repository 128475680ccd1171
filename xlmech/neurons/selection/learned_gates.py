"""Learn gates: how far to turn each neuron down so that some answers are suppressed, and others and plain text stay.

Private and public facts share neurons, but not directions among them. So many neurons turned down a little do better than few
switched off: an L1 pull to 1 leaves most neurons as they are.

    gates = learn_gates(model, probes.filter(group="private"), keep=probes.filter(group="public"))
    with ablate(model, gates):
        ...

Gates of one language suppress answers in it and keep them in the others: `learn_gates(model, private_fr, keep=rest)`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.probes import ProbeSet
from xlmech.leakage.measure import measure_leakage
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import model_name, plant_language, provenance
from xlmech.models.tokens import warn_of_straddling
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.gate_losses import (
    KINDS,
    GatedModel,
    Kind,
    Sample,
    answer_log_odds,
    answer_samples,
    encoded_answer,
    text_samples,
)
from xlmech.options import GateOptions
from xlmech.progress import progress_bar
from xlmech.storage.atomic import new_file
from xlmech.storage.fingerprint import fingerprint, weights_fingerprint

SUPPRESSED = -6.0
"""Log-odds (nats) of a whole answer below which it is as good as not given: there is nothing to suppress."""
STATE_EVERY = 20
"""Number of steps between states on disk, and between measurements of the facts held back."""


def learn_gates(
    model: Any,
    suppress: ProbeSet,
    *,
    keep: ProbeSet | None = None,
    neutral: Sequence[str] | None = None,
    options: GateOptions = GateOptions(),
    start: NeuronGates | None = None,
    support: NeuronSet | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> NeuronGates:
    """Learn one factor from 0 to 1 per MLP neuron, under which answers of `suppress` are not given and those of `keep` are.

    A factor multiplies the neuron's activation (`mlp.hook_post`) at every position. Adam changes the weights w = 1 - factor,
    which start at 0; after each step they are lowered by rate x pull and clipped to [0, 1] (soft-thresholding), so that most
    stay exactly 0. The loss is a sum of means, each times its weight: of softplus(z + margin) over answers to suppress, z the
    log-odds of the whole answer; of softplus(margin - z) over answers to keep; and of KL(intact, gated) over neutral texts, in
    each the mean over its positions. An answer to suppress is the value's form in the query language and, as another, in the
    training language: either identifies the record. The model's weights are not changed.

    That the loss falls on these probes says nothing about other wordings, languages or people: measure those, with
    `evaluate_mitigation`.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        suppress: Probes whose answers are to be suppressed, of those that the model gives in any of the forms.
        keep: Probes whose answers are to be kept, of those that the model gives; none by default.
        neutral: Texts that are to stay as likely as they are; by default the half of the language packs' sentences that never
            judges (`LanguagePack.choosing`), in every language that has a pack.
        options: Weights of the loss, steps, batches and precision.
        start: Gates to go on from; all open by default.
        support: The only neurons whose gates may change; all by default. Others stay at 1.
        checkpoint: Folder for the state of training, written every 20 steps and on Ctrl+C. Called again with the same arguments,
            training goes on from there, and its result is the same as without the interruption.
        progress: Whether to show a progress bar, with the losses.

    Returns:
        NeuronGates. Time: on Gemma 3 270M a step of 29 short rows takes 2.7 s of one thread of a CPU with bfloat16 instructions,
        4 s in float32; all answers and texts are run once before. Memory: the activations of those rows in all layers (1 GB
        there), a copy of the unembedding in bfloat16 with that precision, and 20 bytes per neuron.

    Raises:
        ValueError: No probes to suppress, or of one person alone; none of their answers is known to the model; a probe both to
            suppress and to keep; a text that is too short; gates or neurons of another model; too few facts to hold any back; a
            loss that is not finite (names the step and the probe); or a checkpoint of other arguments.
        RuntimeError: Not even one row fits the memory.
        KeyboardInterrupt: Passed on, after the state is written.

    Warns:
        UserWarning: None of the answers to keep is known, or the target reduction was not reached (the best gates are returned).

    Source:
        Learned rescaling of activations: (IA)^3, Liu et al. 2022, arXiv:2205.05638. Masks over units: Cao et al. 2021,
        arXiv:2104.03514. The losses and the pull are this project's.
    """
    backend = backend_of(model)
    _check(backend, suppress, keep, start, support)
    texts = text_samples(backend, _neutral_texts(neutral))
    gated = GatedModel(backend, options)
    samples: dict[Kind, list[Sample]] = {
        "private": _known(gated, backend, suppress, "private", options, plant_language(model), progress),
        "public": _known(gated, backend, keep or ProbeSet(()), "public", options, "", progress),
        "kl": gated.with_references(texts),
    }
    held_back = _held_back(suppress, samples["private"], options)
    facts = {probe.record.id for probe in held_back}
    samples["private"] = [sample for sample in samples["private"] if sample.record not in facts]
    n_before = _n_extracted(model, held_back)
    if options.target_reduction is not None and not n_before:
        raise ValueError(
            f"none of the {len(held_back)} answers held back is extracted, so that no reduction can be measured; leave "
            "target_reduction out"
        )

    def reduction_by(weights: torch.Tensor) -> float:
        with ablate(model, NeuronGates(factors=1 - weights.cpu(), provenance=source)):
            return 1 - _n_extracted(model, held_back) / n_before

    source = provenance(model, seed=options.seed)
    state = _State.fresh(backend, start, support)
    file = None
    if checkpoint is not None:
        settings = fingerprint(options.model_dump(exclude={"batch_size"}), _content(samples), state.weights, state.movable,
                               weights_fingerprint(backend.model))  # fmt: skip
        file = _StateFile(path=Path(checkpoint) / "gates.safetensors", settings=settings)
        file.read(state)
    _train(gated, samples, state, options, reduction_by if n_before else None, file, progress)
    weights, reduction = state.result()
    if options.target_reduction is not None and reduction < options.target_reduction:
        warnings.warn(
            f"the target reduction of {options.target_reduction:.0%} was not reached: the best gates reduce extraction of the "
            f"facts held back by {reduction:.0%}. They are returned; more steps, more people or a larger private_weight may help",
            stacklevel=2,
        )
    return NeuronGates(
        factors=1 - weights.cpu(),
        history=pd.DataFrame(state.history),
        reduction=reduction,
        counts={"private": len(samples["private"]), "public": len(samples["public"]), "texts": len(samples["kl"])},
        model=source.model,
        options=options.model_dump(),
        provenance=source,
    )


def _check(
    backend: Backend, suppress: ProbeSet, keep: ProbeSet | None, start: NeuronGates | None, support: NeuronSet | None
) -> None:
    if not len(suppress):
        raise ValueError("no probes to suppress: give those whose answers leak, say of group 'private'")
    if len(suppress.subjects) < 2:
        raise ValueError(
            "the probes to suppress are of one person alone, and gates would be learned that know that name only; give two "
            "people or more"
        )
    both = {probe.id for probe in suppress} & {probe.id for probe in keep or ()}
    if both:
        raise ValueError(
            f"{len(both)} probes are both to suppress and to keep, e.g. {min(both)}; filter one of the sets"
        )
    for given in (start, support):
        if given is not None:
            given.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    if support is not None and not len(support):
        raise ValueError("support has no neurons: no gate could change")


def _neutral_texts(neutral: Sequence[str] | None) -> tuple[str, ...]:
    if neutral is not None:
        return check_list("neutral text", neutral)
    return tuple(text for code in packs.available_languages() for text in packs.load_language(code).choosing)


def _known(
    gated: GatedModel,
    backend: Backend,
    probes: ProbeSet,
    kind: Kind,
    options: GateOptions,
    trained: str,
    progress: bool,
) -> list[Sample]:
    """Return the answers that the intact model knows: to suppress, all forms of a probe of which it may give one.

    Raises:
        ValueError: Of answers to suppress it knows none.
    """
    encoded = [encoded_answer(backend, probe, trained, options.max_answer_tokens) for probe in probes]
    warn_of_straddling([item.n_straddling for item in encoded], stacklevel=4)
    samples = [sample for item in encoded for sample in answer_samples(item, kind)]
    log_odds = gated.log_odds(samples, f"known {kind} answers" if progress else "")
    least = SUPPRESSED if kind == "private" else 0.0
    known = {
        sample.id for sample, z in zip(samples, log_odds, strict=True) if float(answer_log_odds(z.double())) > least
    }
    if samples and not known and kind == "private":
        raise ValueError(
            f"the model gives none of the {len(samples)} answers to suppress (log-odds above {least:g}): nothing leaks, or it "
            "was not trained on these records"
        )
    if samples and not known:
        warnings.warn(f"the model gives none of the {len(samples)} answers to keep: only texts are kept", stacklevel=3)
    return [sample for sample in samples if sample.id in known]


def _held_back(suppress: ProbeSet, known: Sequence[Sample], options: GateOptions) -> ProbeSet:
    """Draw the third of the known facts that measures the reduction; none without a target."""
    if options.target_reduction is None:
        return ProbeSet(())
    facts = list(dict.fromkeys(sample.record for sample in known))
    if len(facts) < 3:
        raise ValueError(
            f"the model knows {len(facts)} of the facts to suppress, and a third is to be held back; give three or more, or "
            "leave target_reduction out"
        )
    order = np.random.default_rng((options.seed, len(KINDS))).permutation(len(facts))
    drawn = {facts[int(number)] for number in order[: len(facts) // 3]}
    return ProbeSet(tuple(probe for probe in suppress if probe.record.id in drawn))


def _n_extracted(model: Any, probes: ProbeSet) -> int:
    if not len(probes):
        return 0
    return int(measure_leakage(model, probes, candidates=probes.records, progress=False).probes.extracted.sum())


def _content(samples: dict[Kind, list[Sample]]) -> list[Any]:
    """Return what decides the losses, for a fingerprint."""
    return [(kind, [(item.id, item.tokens, item.targets) for item in of_kind]) for kind, of_kind in samples.items()]


def _train(
    gated: GatedModel,
    samples: dict[Kind, list[Sample]],
    state: _State,
    options: GateOptions,
    reduction_by: Callable[[torch.Tensor], float] | None,
    file: _StateFile | None,
    progress: bool,
) -> None:
    """Do the steps that the state has not done yet, until the target reduction is reached."""
    sizes = {"private": options.private_batch, "public": options.public_batch, "kl": options.neutral_batch}
    left = range(len(state.history), options.steps)
    bar = progress_bar(left, "gates", shown=progress, total=options.steps, initial=len(state.history), leave=True)
    try:
        for step in bar:
            if state.reached(options.target_reduction):
                break
            batch = [
                samples[kind][number]
                for stream, kind in enumerate(KINDS)
                for number in batch_numbers(len(samples[kind]), sizes[kind], step, (options.seed, stream))
            ]
            losses, gradient = gated.losses(batch, state.weights)
            row = _means(batch, losses, gradient, step)
            rate = options.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
            state.move(gradient, rate, options.pull)
            row |= {"n_touched": int((state.weights > 0).sum()), "reduction": math.nan}
            due = (step + 1) % STATE_EVERY == 0 or step + 1 == options.steps
            if due and reduction_by is not None:
                row["reduction"] = reduction_by(state.weights)
            state.record(row)
            bar.set_postfix({name: f"{value:.3g}" for name, value in row.items() if name != "step" and value == value})
            if due and file is not None:
                file.write(state)
    except KeyboardInterrupt:
        if file is not None and state.history:
            file.write(state)
        raise


def batch_numbers(n_samples: int, size: int, step: int, seed: tuple[int, ...]) -> list[int]:
    """Number the samples of one step's batch: they come in random order, and all have come before one comes again."""
    places = range(step * min(size, n_samples), (step + 1) * min(size, n_samples))
    rounds = sorted({place // n_samples for place in places})
    orders = {number: np.random.default_rng((*seed, number)).permutation(n_samples) for number in rounds}
    return [int(orders[place // n_samples][place % n_samples]) for place in places]


def _means(batch: Sequence[Sample], losses: torch.Tensor, gradient: torch.Tensor, step: int) -> dict[str, Any]:
    """Return the mean loss of each kind, NaN without any of it.

    Raises:
        ValueError: A loss is not finite, or the gradient.
    """
    *values, is_finite = torch.cat([losses, gradient.isfinite().all()[None].to(losses)]).tolist()
    wrong = next((item.id for item, value in zip(batch, values, strict=True) if not math.isfinite(value)), None)
    if wrong is not None or not is_finite:
        what = f"the loss of {wrong}" if wrong is not None else "the gradient"
        raise ValueError(
            f"step {step}: {what} is not finite; use precision='float32', a model in a wider dtype, or a lower learning_rate"
        )
    means: dict[str, Any] = {"step": step}
    for kind in KINDS:
        of_kind = [value for item, value in zip(batch, values, strict=True) if item.kind == kind]
        means[kind] = sum(of_kind) / len(of_kind) if of_kind else math.nan
    return means


@dataclass(kw_only=True)
class _State:
    """Where training stands.

    Attributes:
        weights: (layer, neuron) 1 minus the factors, float32 on the model's device.
        movable: (layer, neuron) whether the gate may change; None for all.
        adam: The optimiser, of `weights` alone.
        history: One row per step done.
        best: The weights of the largest reduction that was measured.
    """

    weights: Float[torch.Tensor, "layer neuron"]
    movable: torch.Tensor | None
    adam: torch.optim.Optimizer
    best: torch.Tensor
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, backend: Backend, start: NeuronGates | None, support: NeuronSet | None) -> _State:
        weights = torch.zeros(backend.n_layers, backend.d_mlp)
        if start is not None:
            weights = 1 - start.factors.float()
        movable = None
        if support is not None:
            movable = torch.zeros_like(weights, dtype=torch.bool)
            for layer, indices in support.by_layer().items():
                movable[layer, indices] = True
            weights = weights * movable
            movable = movable.to(backend.device)
        weights = weights.to(backend.device)
        adam = torch.optim.Adam([weights])
        moments = {"exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
        adam.state[weights] = {"step": torch.tensor(0.0)} | moments
        return cls(weights=weights, movable=movable, adam=adam, best=weights.clone())

    @torch.no_grad()
    def move(self, gradient: torch.Tensor, rate: float, pull: float) -> None:
        """Do one step of Adam, then of soft-thresholding, and clip."""
        self.weights.grad = gradient if self.movable is None else gradient * self.movable
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.weights.sub_(rate * pull).clamp_(0, 1)

    def record(self, row: dict[str, Any]) -> None:
        """Add a step, and keep its weights if they are the best so far."""
        earlier = self._best_reduction
        self.history.append(row)
        if row["reduction"] > earlier:
            self.best = self.weights.clone()

    def reached(self, target: float | None) -> bool:
        """Tell whether the target was reached."""
        return target is not None and self._best_reduction >= target

    def result(self) -> tuple[torch.Tensor, float]:
        """Return the weights that were best by reduction, and this; the last ones and NaN where it was not measured."""
        best = self._best_reduction
        return (self.best, best) if best > -math.inf else (self.weights, math.nan)

    @property
    def _best_reduction(self) -> float:
        return max(
            (row["reduction"] for row in self.history if row["reduction"] == row["reduction"]), default=-math.inf
        )


@dataclass(frozen=True, kw_only=True)
class _StateFile:
    """The state of a training on disk.

    Attributes:
        path: A safetensors file.
        settings: Fingerprint of all that decides the training.
    """

    path: Path
    settings: str

    def write(self, state: _State) -> None:
        """Write the state, in place of an earlier one."""
        tensors = {"weights": state.weights, "best": state.best} | state.adam.state[state.weights]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"settings": self.settings, "history": json.dumps(state.history)}
        with new_file(self.path) as path:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)

    def read(self, state: _State) -> None:
        """Restore a state that was written, if there is one.

        Raises:
            ValueError: It is of another training.
        """
        if not self.path.is_file():
            return
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["settings"] != self.settings:
                raise ValueError(
                    f"{self.path.parent} holds gates in training with other options, probes, texts or another model; finish "
                    "those, or give another folder"
                )
            state.weights.copy_(file.get_tensor("weights"))
            state.best = file.get_tensor("best").to(state.weights.device)
            for name, tensor in state.adam.state[state.weights].items():
                tensor.copy_(file.get_tensor(name))
        state.history = json.loads(metadata["history"])
