"""Verify neurons by ablation, each alone and as a set, and drop those that do not help.

Sets are compared by the log-probability of forced answers, which takes no generation.

    found = locate_privacy_neurons(model, locating)
    verified = verify_neurons(model, locating, neurons=found.universal)
    few = fewest_neurons(model, locating, ranking=verified.to_frame(), target_reduction=0.8)
    evaluate_mitigation(model, held_out, few.neurons)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import run_forced
from xlmech.engine.score import answer_log_probs
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.load import model_name, provenance
from xlmech.models.tokens import encode_probe, warn_of_straddling
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects
from xlmech.neurons.neuron_set import Neuron, NeuronSet, pairs_of
from xlmech.neurons.selection.leak_check import draw
from xlmech.options import CONTRAST
from xlmech.progress import progress_bar
from xlmech.storage.result import Result

N_PROBES = 24
"""Default number of probes of each group by which sets are compared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VerifiedNeurons(Result):
    """Effects of ablating each neuron of a shortlist, and the set of those that help.

    Attributes:
        effects: One row per neuron, the kept ones first, in order: `layer`, `neuron`; `private` and `public`, the fall
            of the answers' log-probability without this neuron alone (nats per token, mean over probes); `kept`; `set_private`
            and `set_public`, the same without this and all kept neurons above it (NaN for those not kept).
        contrast: As called.
        n_private: Number of private probes used.
        n_public: Number of public probes used; `public` is NaN without any.
        n_layers: Layers of the model.
        d_mlp: Neurons per layer.
        model: Name of the model.
    """

    kind: ClassVar[str] = "verified_neurons"
    effects: pd.DataFrame
    contrast: float
    n_private: int
    n_public: int
    n_layers: int
    d_mlp: int
    model: str = ""

    @property
    def kept(self) -> NeuronSet:
        """The neurons that help."""
        return NeuronSet(frozenset(pairs_of(self.effects[self.effects.kept])), self.n_layers, self.d_mlp, self.model)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron: a ranking for `fewest_neurons`."""
        return self.effects

    def headline(self) -> dict[str, str]:
        """Map `kept` to how many neurons of the shortlist help."""
        return {"kept": f"{int(self.effects.kept.sum())} of {len(self.effects)} neurons help"}


def verify_neurons(
    model: Any,
    probes: ProbeSet,
    *,
    neurons: NeuronSet,
    public: ProbeSet | None = None,
    n_neurons: int | None = None,
    contrast: float = CONTRAST,
    min_gain: float = 0.0,
    n_probes: int = N_PROBES,
    seed: int = 0,
    progress: bool = True,
) -> VerifiedNeurons:
    """Ablate each neuron alone, then the set, and drop neurons that the set does not need.

    Ablated neurons are zero at all positions. The gain of a set is the loss of private answers under its ablation, minus
    `contrast` times the loss of public ones, both exact. Neurons are ordered by their single gain. From the last to the first,
    each is dropped if the set's gain then falls by no more than `min_gain`. The search begins with the whole set, which keeps
    neurons that back each other up and do nothing alone.

    This takes, per probe and neuron, one row and about two forced answers. It does not measure held-out people, other wordings
    or generation: `evaluate_mitigation` does.

    Args:
        model: Hooked model.
        probes: Private probes; those of group public in it serve as `public` by default.
        neurons: The shortlist, e.g. `found.universal`.
        public: Probes of public facts; their loss is not counted where there are none.
        n_neurons: Largest number of neurons in the set, the best by single gain; all by default.
        contrast: Weight of the public loss.
        min_gain: Nats per token by which the set's gain must fall without a neuron for it to be kept.
        n_probes: Largest number of private and of public probes, drawn over all languages.
        seed: Seed of this draw.
        progress: Whether to show progress bars.

    Returns:
        VerifiedNeurons: `.kept`, `.effects`.

    Raises:
        ValueError: No private probes, no neurons, neurons of another model, or a number out of range.
    """
    backend, private = backend_of(model), probes.filter(group="private")
    public = public if public is not None else probes.filter(group="public")
    if not len(private):
        raise ValueError("no private probes to verify neurons with; records of group 'private' are needed")
    if not len(neurons):
        raise ValueError("no neurons to verify: the set is empty")
    neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    for name, value, least in (("contrast", contrast, 0), ("min_gain", min_gain, 0), ("n_probes", n_probes, 1)):
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} must be a finite number from {least} on, got {value}")
    if n_neurons is not None and n_neurons < 1:
        raise ValueError(f"n_neurons must be 1 or more, or None for all; got {n_neurons}")
    answers = _ForcedAnswers(backend, draw(private, n_probes, seed=seed), draw(public, n_probes, seed=seed))
    single = answers.single_losses(neurons, progress)

    def gain(losses: pd.DataFrame) -> pd.Series:
        return losses.private - contrast * losses.public.fillna(0)

    single = single.loc[gain(single).sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    kept = pairs_of(single)[:n_neurons]
    best = gain(answers.losses([kept])).item()
    for neuron in progress_bar(kept[::-1], "pruning", shown=progress):
        rest = [member for member in kept if member != neuron]
        if (gain_of_rest := gain(answers.losses([rest])).item()) >= best - min_gain:
            kept, best = rest, gain_of_rest
    effects = single.assign(kept=[neuron in kept for neuron in pairs_of(single)])
    effects = effects.sort_values("kept", ascending=False, kind="stable", ignore_index=True)
    sets = answers.losses([kept[: number + 1] for number in range(len(kept))], "prefixes" if progress else "")
    return VerifiedNeurons(
        effects=effects.join(sets.add_prefix("set_")),
        contrast=contrast,
        n_private=int(answers.is_private.sum()),
        n_public=int((~answers.is_private).sum()),
        n_layers=backend.n_layers,
        d_mlp=backend.d_mlp,
        model=model_name(model),
        provenance=provenance(model, seed=seed),
    )


class _ForcedAnswers:
    """Forced answers of private and public probes, and their losses under ablation: nats per token, mean over a group."""

    def __init__(self, backend: Backend, private: ProbeSet, public: ProbeSet) -> None:
        self.backend = backend
        self.encoded = [encode_probe(backend, probe) for probe in (*private, *public)]
        warn_of_straddling([item.n_straddling for item in self.encoded], stacklevel=4)
        self.is_private = np.arange(len(self.encoded)) < len(private)
        self._intact = self._log_probs()

    def single_losses(self, neurons: NeuronSet, progress: bool) -> pd.DataFrame:
        """Compute the answers' losses without each neuron alone: `layer`, `neuron`, `private`, `public`."""
        chosen, zero, losses = torch.tensor(list(neurons)), zero_baseline(self.backend), []
        for item in progress_bar(self.encoded, "single neurons", shown=progress):
            forced = run_forced(self.backend, item.prompt, item.answer, NEURON_HOOK, what=f"probe {item.id}")
            effects = exact_effects(self.backend, forced, zero, positions="all", neurons=chosen)
            losses.append(effects.double().cpu().numpy() / len(item.answer))
        return neurons.to_frame().join(self._means(np.stack(losses, axis=1)))

    def losses(self, sets: Sequence[Sequence[Neuron]], progress: str = "") -> pd.DataFrame:
        """Compute the answers' losses without each set: `private`, `public`."""
        losses = [np.zeros((0, len(self.encoded)))]
        for pairs in progress_bar(sets, progress, shown=bool(progress)):
            with ablate(self.backend.model, neurons_of(self.backend.model, pairs)):
                losses.append((self._intact - self._log_probs())[None])
        return self._means(np.concatenate(losses))

    def _means(self, losses: NDArray[np.float64]) -> pd.DataFrame:
        """Average (row, probe) losses over each group; NaN without any probe."""
        groups = {"private": losses[:, self.is_private], "public": losses[:, ~self.is_private]}
        nothing = np.full(len(losses), np.nan)
        return pd.DataFrame({name: part.mean(1) if part.size else nothing for name, part in groups.items()})

    def _log_probs(self) -> NDArray[np.float64]:
        """Compute the (probe,) log-probabilities, nats per token."""
        answers = [[item.answer] for item in self.encoded]
        scores = answer_log_probs(self.backend, [item.prompt for item in self.encoded], answers)
        return np.array([float(score) / len(answer) for score, (answer,) in zip(scores, answers, strict=True)])


def neurons_of(model: Any, pairs: Iterable[Neuron]) -> NeuronSet:
    """Make a set of a model's neurons."""
    backend = backend_of(model)
    return NeuronSet(frozenset(pairs), backend.n_layers, backend.d_mlp, model_name(model))
