"""Show what single neurons write to the output and where they are active. Neither shows that a neuron matters."""

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
from xlmech.models.tokens import encode_probe, subject_tokens
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.result import Result


@torch.no_grad()
def promoted_tokens(model: Any, neurons: NeuronSet, *, k: int = 10) -> pd.DataFrame:
    """List the tokens whose logits each neuron raises and lowers most by its direct path to the output.

    A neuron's row of W_out passes the norm after the MLP, if the model has one, and the gain of the final norm. It is multiplied
    by the unembedding, and the mean over the vocabulary is subtracted. The norms' scales depend on the prompt and are left out:
    compare logits within a neuron, not between neurons. A positive activation raises the `raised` tokens, a negative one the
    `lowered` ones.

    This does not measure what later layers do with the output, which is nearly all the effect of an early neuron; nor where the
    neuron is active (`neuron_activations`); nor whether answers depend on it (`verify_neurons`).

    Args:
        model: Hooked model.
        neurons: The neurons.
        k: Number of tokens raised, and of tokens lowered.

    Returns:
        One row per neuron, side and token: `layer`, `neuron`, `side` (`raised` or `lowered`), `rank` (from 1), `token`, `logit`
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
        for index, of_neuron in zip(indices, logits, strict=True):
            for side, best in (("raised", of_neuron.topk(k)), ("lowered", (-of_neuron).topk(k))):
                for rank, token in enumerate(best.indices.tolist(), start=1):
                    text = backend.tokenizer.decode([token])
                    rows.append((layer, index, side, rank, text, float(of_neuron[token])))
    return pd.DataFrame(rows, columns=["layer", "neuron", "side", "rank", "token", "logit"])


def _written(backend: Backend, layer: int) -> Float[torch.Tensor, "neuron d_model"]:
    """Return what each neuron of a layer adds to the residual stream per unit of activation, up to a norm's scale; float64."""
    block = backend.model.blocks[layer]
    weight: torch.Tensor = block.mlp.W_out.detach().double()
    rows = weight if weight.shape[0] == backend.d_mlp else weight.T
    after = getattr(block, "ln2_post", None)
    if after is None:
        return rows
    return _through(FrozenNorm.of(backend, after), rows)


def _through(norm: FrozenNorm, rows: Float[torch.Tensor, "row d_model"]) -> Float[torch.Tensor, "row d_model"]:
    """Apply a norm without its scale and offset."""
    centred = rows - rows.mean(1, keepdim=True) if norm.centres else rows
    return centred * norm.gain


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronActivations(Result):
    """Activations of a few neurons at every token of some prompts.

    Attributes:
        tokens: One row per probe and position: `probe`, `query_language`, `position`, `token`; the subject's tokens are masked
            unless `reveal` was set.
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
        """Return one row per token and neuron: the columns of `tokens`, `layer`, `neuron`, `activation`."""
        frames = [
            self.tokens.assign(layer=layer, neuron=index, activation=self.activations[:, number].numpy())
            for number, (layer, index) in enumerate(zip(self.layers, self.indices, strict=True))
        ]
        return pd.concat(frames, ignore_index=True)


@torch.no_grad()
def neuron_activations(model: Any, neurons: NeuronSet, probes: ProbeSet, *, reveal: bool = False) -> NeuronActivations:
    """Record the activation of neurons at every token of the prompts, for `figures.neuron_activations`.

    An active neuron need not have an effect: many are active everywhere.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        neurons: A few neurons.
        probes: Probes whose prompts are run, without an answer.
        reveal: Whether the subjects' names are kept in `tokens`.

    Returns:
        NeuronActivations.

    Raises:
        ValueError: No probes, no neurons, neurons of another model, or, without `reveal`, a subject whose tokens cannot be found.
    """
    backend = backend_of(model)
    _check(backend, neurons)
    if not len(probes):
        raise ValueError("no probes to run; see build_probes, and the filters applied to its result")
    chosen, recorder = list(neurons), Recorder(backend, NEURON_HOOK)
    frames, activations = [], []
    for probe in probes:
        tokens = encode_probe(backend, probe, languages=()).prompt
        with backend.hooks(recorder.hooks()):
            backend.hidden(torch.tensor([tokens]))
        of_probe = [recorder.kept[layer][0, :, index].float().cpu() for layer, index in chosen]
        activations.append(torch.stack(of_probe, dim=1))
        frames.append(_token_frame(backend, probe, tokens, reveal))
    return NeuronActivations(
        tokens=pd.concat(frames, ignore_index=True),
        activations=torch.cat(activations),
        layers=tuple(layer for layer, _ in chosen),
        indices=tuple(index for _, index in chosen),
        provenance=provenance(model),
    )


def _token_frame(backend: Backend, probe: Probe, tokens: Sequence[int], reveal: bool) -> pd.DataFrame:
    masked = range(0) if reveal else subject_tokens(backend, probe)
    texts = [MASK if number in masked else backend.tokenizer.decode([token]) for number, token in enumerate(tokens)]
    rows = [(probe.id, probe.query_language, number, text) for number, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=["probe", "query_language", "position", "token"])


def _check(backend: Backend, neurons: NeuronSet) -> None:
    if not len(neurons):
        raise ValueError("no neurons to look at: the set is empty")
    neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
