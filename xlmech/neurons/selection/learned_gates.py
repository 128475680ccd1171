"""Learn gates: how far to turn each neuron down so that some answers are suppressed, and others and plain text stay.

Private and public facts share neurons, but not directions among them. So many neurons turned down a little do better than few
switched off: an L1 pull to 1 leaves most neurons as they are.

    gates = learn_gates(model, probes.filter(group="private"), keep=probes.filter(group="public"))
    with ablate(model, gates):
        ...

Gates of one language suppress answers in it and keep them in the others: `learn_gates(model, private_fr, keep=rest)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from xlmech.checks import check_list
from xlmech.data import languages as packs
from xlmech.data.probes import Probe, ProbeSet
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
from xlmech.neurons.selection.gate_state import GateState, GateStateFile
from xlmech.neurons.selection.gate_training import NoGatesError, train_gates
from xlmech.options import GateOptions
from xlmech.storage.fingerprint import fingerprint, weights_fingerprint

SUPPRESSED = -6.0
"""Log-odds (nats) of a whole answer below which it is as good as not given: there is nothing to suppress."""


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
            loss that is not finite (names the step and the probe); or a checkpoint of other arguments. What the model itself is
            the reason of is a `NoGatesError`.
        RuntimeError: Not even one row fits the memory.
        KeyboardInterrupt: Passed on, after the state is written.

    Warns:
        UserWarning: None of the answers to keep is known, or the target reduction was not reached (the best gates are returned).

    Source:
        Learned rescaling of activations: (IA)^3, Liu et al. 2022, arXiv:2205.05638. Masks over units: Louizos et al. 2018,
        arXiv:1712.01312; Cao et al. 2021, arXiv:2104.03514. The losses and the pull are this project's.
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
        raise NoGatesError(
            f"none of the {len(held_back)} answers held back is extracted, so that no reduction can be measured; leave "
            "target_reduction out"
        )

    def reduction_by(weights: torch.Tensor) -> float:
        with ablate(model, NeuronGates(factors=1 - weights.cpu(), provenance=source)):
            return 1 - _n_extracted(model, held_back) / n_before

    records = {"suppressed": record_codes(suppress), "kept": record_codes(keep or ())}
    source = provenance(model, seed=options.seed, settings={"records": records})
    state = GateState.fresh(backend, start, support, {kind: len(of_kind) for kind, of_kind in samples.items()})
    file = None
    if checkpoint is not None:
        settings = fingerprint(options.model_dump(exclude={"batch_size"}), _content(samples), state.weights, state.movable,
                               weights_fingerprint(backend.model))  # fmt: skip
        file = GateStateFile(path=Path(checkpoint) / "gates.safetensors", settings=settings)
        file.read(state)
    train_gates(gated, samples, state, options, reduction_by if n_before else None, file, progress)
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


def record_codes(probes: Iterable[Probe]) -> list[str]:
    """Return a code per record that is asked for, a hash of its id, which alone tells neither person nor value.

    Gates hold these codes in their provenance, so that whoever has the records can tell from which ones gates were learned.
    """
    return sorted({fingerprint(probe.record.id)[:12] for probe in probes})


def check_suppressed(suppress: ProbeSet) -> None:
    """Raise ValueError unless there are answers to suppress, of two people or more."""
    if not len(suppress):
        raise ValueError("no probes to suppress: give those whose answers leak, say of group 'private'")
    if len(suppress.subjects) < 2:
        raise ValueError(
            "the probes to suppress are of one person alone, and gates would be learned that know that name only; give two "
            "people or more"
        )


def _check(
    backend: Backend, suppress: ProbeSet, keep: ProbeSet | None, start: NeuronGates | None, support: NeuronSet | None
) -> None:
    check_suppressed(suppress)
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
        NoGatesError: Of answers to suppress it knows none.
    """
    # One wrong token is enough to suppress an answer; to be kept it must be right to the end.
    longest = options.max_answer_tokens if kind == "private" else None
    encoded = [encoded_answer(backend, probe, trained, longest) for probe in probes]
    warn_of_straddling([item.n_straddling for item in encoded], stacklevel=4)
    samples = [sample for item in encoded for sample in answer_samples(item, kind)]
    log_odds = gated.log_odds(samples, f"known {kind} answers" if progress else "")
    least = SUPPRESSED if kind == "private" else 0.0
    known = {
        sample.id for sample, z in zip(samples, log_odds, strict=True) if float(answer_log_odds(z.double())) > least
    }
    if samples and not known and kind == "private":
        raise NoGatesError(
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
        raise NoGatesError(
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
