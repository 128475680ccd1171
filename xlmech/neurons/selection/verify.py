"""Verify neurons by deactivating them: each alone, and the set, of which those that do not help are dropped.

Attribution proposes; what is left of the answers once neurons are gone decides. Sets are judged by the log-probability of forced
answers, which costs no generation.

    found = locate_privacy_neurons(model, locating)
    verified = verify_neurons(model, locating, found.universal)
    few = fewest_neurons(model, locating, verified.to_frame(), target_reduction=0.8)
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
from xlmech.models.tokens import encode_probe
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution.baselines import zero_baseline
from xlmech.neurons.attribution.effects import exact_effects
from xlmech.neurons.neuron_set import Neuron, NeuronSet
from xlmech.neurons.selection.leak_check import draw
from xlmech.options import CONTRAST
from xlmech.progress import progress_bar
from xlmech.storage.result import Result

N_PROBES = 24
"""Probes of each group by which sets are judged, by default."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VerifiedNeurons(Result):
    """What deactivating each neuron of a shortlist does, and the set of those that help.

    Attributes:
        effects: One row per neuron, the kept ones first, in order: `layer`, `neuron`; `private` and `public`, by how much the
            answers' log-probability falls without this neuron alone (nats per token, mean over probes); `kept`; `set_private`
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
        rows = self.effects[self.effects.kept]
        return NeuronSet(frozenset(pairs_of(rows)), self.n_layers, self.d_mlp, self.model)

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: a ranking for `fewest_neurons`."""
        return self.effects

    def headline(self) -> dict[str, str]:
        """Map `kept` to how many neurons of the shortlist help."""
        return {"kept": f"{int(self.effects.kept.sum())} of {len(self.effects)} neurons help"}


def verify_neurons(
    model: Any,
    probes: ProbeSet,
    neurons: NeuronSet,
    *,
    public: ProbeSet | None = None,
    max_neurons: int | None = None,
    contrast: float = CONTRAST,
    min_gain: float = 0.0,
    n_probes: int = N_PROBES,
    seed: int = 0,
    progress: bool = True,
) -> VerifiedNeurons:
    """Deactivate each neuron alone, then the set, and drop members without which it does as well.

    Deactivated neurons are zero at all positions. A neuron's worth is what this takes from private answers, minus `contrast`
    times what it takes from public ones, both exact. Neurons are ordered by their own worth; then, from the last to the first,
    each is taken out of the set, and stays out if the set's worth falls by no more than `min_gain`. Beginning with the whole
    set keeps neurons that back each other up, which do nothing alone.

    Cost: per probe, a row for each neuron and about two forced answers for each. What it does not measure: people who did not
    choose the neurons, other wordings, and generation (`evaluate_mitigation`).

    Args:
        model: Hooked model.
        probes: Private probes; those of group public in it serve as `public` by default.
        neurons: The shortlist, e.g. `found.universal`.
        public: Probes of public facts; their loss is not counted where there are none.
        max_neurons: Only so many, the best by their own worth, may be in the set; all by default.
        contrast: Weight of the public loss.
        min_gain: Nats per token by which the set's worth must fall without a neuron for it to be kept.
        n_probes: At most so many private and so many public probes, drawn over all languages.
        seed: Of this draw.
        progress: Whether to show progress bars.

    Returns:
        VerifiedNeurons: `.kept`, `.effects`.

    Raises:
        ValueError: No private probes, no neurons, neurons of another model, or a number out of range.
    """
    backend, private = backend_of(model), probes.filter(group="private")
    public = public if public is not None else probes.filter(group="public")
    _check(backend, private, neurons, max_neurons, contrast, min_gain, n_probes)
    judge = _Judge(backend, draw(private, n_probes, seed=seed), draw(public, n_probes, seed=seed))
    alone = judge.singles(neurons, progress)

    def worth(losses: pd.DataFrame) -> pd.Series:
        return losses.private - contrast * losses.public.fillna(0)

    alone = alone.loc[worth(alone).sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    kept = pairs_of(alone)[:max_neurons]
    best = worth(judge.losses([kept])).item()
    for neuron in progress_bar(kept[::-1], "pruning", shown=progress):
        without = [other for other in kept if other != neuron]
        if (rest := worth(judge.losses([without])).item()) >= best - min_gain:
            kept, best = without, rest
    effects = alone.assign(kept=[neuron in kept for neuron in pairs_of(alone)])
    effects = effects.sort_values("kept", ascending=False, kind="stable", ignore_index=True)
    sets = judge.losses([kept[: number + 1] for number in range(len(kept))], "prefixes" if progress else "")
    return VerifiedNeurons(
        effects=effects.join(sets.add_prefix("set_")),
        contrast=contrast,
        n_private=int(judge.is_private.sum()),
        n_public=int((~judge.is_private).sum()),
        n_layers=backend.n_layers,
        d_mlp=backend.d_mlp,
        model=model_name(model),
        provenance=provenance(model, seed=seed),
    )


def pairs_of(rows: pd.DataFrame) -> list[Neuron]:
    """(layer, index) of rows with columns `layer` and `neuron`, in their order."""
    return list(zip(rows.layer.astype(int).tolist(), rows.neuron.astype(int).tolist(), strict=True))


class _Judge:
    """Forced answers of private and public probes, and what they lose: nats per token, mean over a group's probes."""

    def __init__(self, backend: Backend, private: ProbeSet, public: ProbeSet) -> None:
        self.backend = backend
        self.encoded = [encode_probe(backend, probe) for probe in (*private, *public)]
        self.is_private = np.arange(len(self.encoded)) < len(private)
        self._clean = self._log_probs()

    def singles(self, neurons: NeuronSet, progress: bool) -> pd.DataFrame:
        """What the answers lose without each neuron alone: `layer`, `neuron`, `private`, `public`."""
        chosen, zero, found = torch.tensor(list(neurons)), zero_baseline(self.backend), []
        for item in progress_bar(self.encoded, "single neurons", shown=progress):
            forced = run_forced(self.backend, item.prompt, item.answer, NEURON_HOOK, what=f"probe {item.id}")
            effects = exact_effects(self.backend, forced, zero, positions="all", neurons=chosen)
            found.append(effects.double().cpu().numpy() / len(item.answer))
        return neurons.to_frame().join(self._means(np.stack(found, axis=1)))

    def losses(self, sets: Sequence[Sequence[Neuron]], progress: str = "") -> pd.DataFrame:
        """What the answers lose without each set: `private`, `public`."""
        found = [np.zeros((0, len(self.encoded)))]
        for chosen in progress_bar(sets, progress, shown=bool(progress)):
            with ablate(self.backend.model, neurons_of(self.backend.model, chosen)):
                found.append((self._clean - self._log_probs())[None])
        return self._means(np.concatenate(found))

    def _means(self, losses: NDArray[np.float64]) -> pd.DataFrame:
        """Means of (row, probe) losses over each group; NaN without any probe."""
        groups = {"private": losses[:, self.is_private], "public": losses[:, ~self.is_private]}
        nothing = np.full(len(losses), np.nan)
        return pd.DataFrame({name: part.mean(1) if part.size else nothing for name, part in groups.items()})

    def _log_probs(self) -> NDArray[np.float64]:
        """(probe,) nats per token."""
        prompts = [item.prompt for item in self.encoded]
        scores = answer_log_probs(self.backend, prompts, [[item.answer] for item in self.encoded])
        return np.array([float(score) / len(item.answer) for score, item in zip(scores, self.encoded, strict=True)])


def neurons_of(model: Any, pairs: Iterable[Neuron]) -> NeuronSet:
    """The neurons of a model, as a set."""
    backend = backend_of(model)
    return NeuronSet(frozenset(pairs), backend.n_layers, backend.d_mlp, model_name(model))


def _check(
    backend: Backend,
    private: ProbeSet,
    neurons: NeuronSet,
    max_neurons: int | None,
    contrast: float,
    min_gain: float,
    n_probes: int,
) -> None:
    if not len(private):
        raise ValueError("no private probes to verify neurons with; records of group 'private' are needed")
    if not len(neurons):
        raise ValueError("no neurons to verify: the set is empty")
    neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    for name, value, least in (("contrast", contrast, 0), ("min_gain", min_gain, 0), ("n_probes", n_probes, 1)):
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} must be a finite number from {least} on, got {value}")
    if max_neurons is not None and max_neurons < 1:
        raise ValueError(f"max_neurons must be 1 or more, or None for all; got {max_neurons}")
