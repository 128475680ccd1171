"""What a neuron writes, and where it fires: two looks at single neurons. Neither shows that a neuron matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float

from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.records import MASK
from xlmech.engine.batching import Recorder
from xlmech.engine.norm import FrozenNorm
from xlmech.models.backends import NEURON_HOOK, Backend, backend_of
from xlmech.models.load import model_name, provenance
from xlmech.models.tokens import encode_prompt, subject_tokens
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.result import Result


@torch.no_grad()
def promoted_tokens(model: Any, neurons: NeuronSet, *, k: int = 10) -> pd.DataFrame:
    """The tokens whose logits a neuron raises and lowers most by what it writes straight to the output.

    A neuron's row of W_out, through the norm after the MLP where the model has one, and the gain of the final norm, times the
    unembedding, minus the mean over the vocabulary. The norms' scales are left out, since they depend on the prompt: logits
    compare within a neuron, not between neurons. A positive activation raises the first tokens, a negative one the last.

    What it does not measure: what later layers do with the neuron's output, which is nearly all that an early neuron does;
    whether and where it is active (`neuron_activations`); whether answers depend on it (`verify_neurons`).

    Args:
        model: Hooked model.
        neurons: Whose tokens.
        k: How many tokens at each end.

    Returns:
        One row per neuron, end and token: `layer`, `neuron`, `side` (`raised` or `lowered`), `rank` (from 1), `token`, `logit`
        (per unit of activation, up to the norms' scales).

    Raises:
        ValueError: No neurons, neurons of another model, `k` below 1 or above half the vocabulary, or a norm that is neither a
            LayerNorm nor an RMSNorm.

    Source:
        Geva et al. 2022, arXiv:2203.14680.
    """
    backend = backend_of(model)
    _check(backend, neurons)
    if not 1 <= k <= len(backend.unembed) // 2:
        raise ValueError(f"k must be from 1 to half the vocabulary, {len(backend.unembed) // 2}; got {k}")
    final, rows = FrozenNorm.of(backend), []
    for layer, indices in neurons.by_layer().items():
        written = _written(backend, layer)[indices]
        logits = _through(final, written) @ backend.unembed.double().T
        logits = logits - logits.mean(1, keepdim=True)
        for index, own in zip(indices, logits, strict=True):
            for side, best in (("raised", own.topk(k)), ("lowered", (-own).topk(k))):
                for rank, token in enumerate(best.indices.tolist(), start=1):
                    text = backend.tokenizer.decode([token])
                    rows.append((layer, index, side, rank, text, float(own[token])))
    return pd.DataFrame(rows, columns=["layer", "neuron", "side", "rank", "token", "logit"])


def _written(backend: Backend, layer: int) -> Float[torch.Tensor, "neuron d_model"]:
    """What each neuron of a layer adds to the residual stream per unit of activation, up to a norm's scale; float64."""
    block = backend.model.blocks[layer]
    weight: torch.Tensor = block.mlp.W_out.detach().double()
    rows = weight if weight.shape[0] == backend.d_mlp else weight.T
    after = getattr(block, "ln2_post", None)
    if after is None:
        return rows
    return _through(FrozenNorm.of(backend, after), rows)


def _through(norm: FrozenNorm, rows: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "row d_model"]:
    """The norm without its scale and offset."""
    centred = rows - rows.mean(1, keepdim=True) if norm.centres else rows
    return centred * norm.gain


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronActivations(Result):
    """Activations of a few neurons at every token of some prompts.

    Attributes:
        tokens: One row per probe and position: `probe`, `query_language`, `position`, `token`; the subject's tokens are masked
            unless the caller wanted them shown.
        activations: (row of `tokens`, neuron), neurons in the order of `layers` and `indices`.
        layers: Layer of every neuron.
        indices: Index of every neuron in its layer.
    """

    kind: ClassVar[str] = "neuron_activations"
    tokens: pd.DataFrame
    activations: torch.Tensor
    layers: tuple[int, ...]
    indices: tuple[int, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per token and neuron: the columns of `tokens`, `layer`, `neuron`, `activation`."""
        parts = [
            self.tokens.assign(layer=layer, neuron=index, activation=self.activations[:, number].numpy())
            for number, (layer, index) in enumerate(zip(self.layers, self.indices, strict=True))
        ]
        return pd.concat(parts, ignore_index=True)


@torch.no_grad()
def neuron_activations(model: Any, neurons: NeuronSet, probes: ProbeSet, *, reveal: bool = False) -> NeuronActivations:
    """Where neurons fire: their activation at every token of the prompts, for `figures.neuron_activations` to show.

    That a neuron is active at a token is no sign that it does anything there: many are active everywhere.

    Args:
        model: Hooked model; what is ablated on it stays so.
        neurons: A few.
        probes: Whose prompts are run, without an answer.
        reveal: Whether the subjects' names are kept in `tokens`.

    Returns:
        NeuronActivations.

    Raises:
        ValueError: No probes, no neurons, neurons of another model, or, without `reveal`, a subject whose tokens cannot be told.
    """
    backend = backend_of(model)
    _check(backend, neurons)
    if not len(probes):
        raise ValueError("no probes to run; see build_probes, and the filters applied to its result")
    chosen, recorder = list(neurons), Recorder(backend, NEURON_HOOK)
    frames, parts = [], []
    for probe in probes:
        tokens = encode_prompt(backend, probe.prompt, what=f"probe {probe.id}")
        with backend.hooks(recorder.hooks()):
            backend.hidden(torch.tensor([tokens]))
        parts.append(torch.stack([recorder.kept[layer][0, :, index].float().cpu() for layer, index in chosen], dim=1))
        frames.append(_shown(backend, probe, tokens, reveal))
    return NeuronActivations(
        tokens=pd.concat(frames, ignore_index=True),
        activations=torch.cat(parts),
        layers=tuple(layer for layer, _ in chosen),
        indices=tuple(index for _, index in chosen),
        provenance=provenance(model),
    )


def _shown(backend: Backend, probe: Probe, tokens: Sequence[int], reveal: bool) -> pd.DataFrame:
    hidden = range(0) if reveal else subject_tokens(backend, probe)
    texts = [MASK if place in hidden else backend.tokenizer.decode([token]) for place, token in enumerate(tokens)]
    frame = pd.DataFrame({"position": range(len(tokens)), "token": texts})
    return frame.assign(probe=probe.id, query_language=probe.query_language)[
        ["probe", "query_language", "position", "token"]
    ]


def _check(backend: Backend, neurons: NeuronSet) -> None:
    if not len(neurons):
        raise ValueError("no neurons to look at: the set is empty")
    neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
