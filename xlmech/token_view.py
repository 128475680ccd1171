"""How active chosen neurons are at each token of a question, in several languages. One prompt each: an example, no estimate.

seen = token_activations(model, probes.filter(records=["private-00-phone"]), neurons.universal)
figures.neuron_activations(seen, "fr")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from xlmech.backends import backend_of
from xlmech.effects import COMPONENT
from xlmech.models import model_name, provenance
from xlmech.neurons import NeuronSet
from xlmech.position_sweep import token_table
from xlmech.probes import ProbeSet
from xlmech.results import Result
from xlmech.runner import Recorder, encode_prompt


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenActivations(Result):
    """Activations of a set of neurons over the tokens of one record's prompts.

    Attributes:
        activations: One row per (`query_language`, `position`, `layer`, `neuron`): `activation`, what multiplies W_out.
        tokens: The prompts' tokens: `query_language`, `position`, `part`, `token` (masked in the subject).
        record: Its id.
        n_neurons: Size of the set.
    """

    kind: ClassVar[str] = "token_activations"
    activations: pd.DataFrame
    tokens: pd.DataFrame
    record: str
    n_neurons: int

    def to_frame(self) -> pd.DataFrame:
        """One row per language, position and neuron."""
        return self.activations


@torch.no_grad()
def token_activations(model: Any, probes: ProbeSet, neurons: NeuronSet) -> TokenActivations:
    """Run each prompt once, and keep what these neurons do at each of its tokens.

    Args:
        model: Hooked model; what is ablated on it stays so.
        probes: Of one record, one per query language.
        neurons: Which neurons.

    Raises:
        ValueError: No probes, several records, two probes of one language, no neurons, or neurons of another model.
    """
    ids = {probe.record.id for probe in probes}
    if len(ids) != 1:
        raise ValueError(f"probes of one record are needed, got {len(ids)} records; filter them")
    if len(probes.languages) < len(probes):
        raise ValueError("two probes ask in the same language; keep one template (probes.filter(templates=[0]))")
    if not len(neurons):
        raise ValueError("no neurons to look at")
    backend = backend_of(model)
    neurons.check_model(model_name(backend.model), backend.n_layers, backend.d_mlp)
    recorder, rows, tables = Recorder(backend, COMPONENT), [], []
    for probe in probes:
        tokens = torch.tensor([encode_prompt(backend, probe.prompt, what=f"probe {probe.id}")])
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        tables.append(token_table(backend, probe).assign(query_language=probe.query_language))
        for layer, indices in neurons.by_layer().items():
            kept = recorder.kept[layer][0].float().cpu()
            for index in indices:
                column = kept[:, index].tolist()
                rows += [(probe.query_language, position, layer, index, value) for position, value in enumerate(column)]
    columns = ["query_language", "position", "layer", "neuron", "activation"]
    return TokenActivations(
        activations=pd.DataFrame(rows, columns=columns),
        tokens=pd.concat(tables, ignore_index=True),
        record=ids.pop(),
        n_neurons=len(neurons),
        provenance=provenance(model),
    )
