"""The manifest of an exported checkpoint: how it was made and what was measured of it, for programs to read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlmech.mitigation.export.model_card import model_card
from xlmech.models.checkpoints import Source
from xlmech.models.sources.cards import CARD, MANIFEST, exported_prompt
from xlmech.neurons.ablation import Ablated
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.atomic import new_file
from xlmech.storage.integrity import HASH, sha256, signed
from xlmech.storage.result import Provenance

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_KIND = {"kind": "export", "schema_version": 1}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How an exported checkpoint was made, and what was measured of it.

    Attributes:
        neurons: Neurons that were ablated, or whose gates are not 1.
        mode: `zero`, `mean`, `scale`, or `gates`.
        factor: Factor of their activations in mode `scale`.
        factors: Factor of each one's activation in mode `gates`, in the order of `neurons`.
        values: Activations that they are fixed at in mode `mean`, in the order of `neurons`.
        plant_language: Training language of the source, "" where unknown.
        prompt: Prompt format of the measurement, else of the planting, as of `PromptFormat.to_dict`; `prompt_format` takes it for
            this checkpoint. None where neither is known.
        verification: `max_relative_error` of the reloaded checkpoint's logits against the hooked run and `max_relative_change` by
            ablation (both relative to the largest logit), `tolerance`, `n_texts`, `n_positions`.
        mitigation: `sizes`, `effects` (on extraction), `overall` and `cost` of the `MitigationResult` given, None without one;
            NaN is None.
        effective: Whether an effect was measured (`Effect.measured`); None in manifests of earlier versions.
        effect: What was measured, in words.
        provenance: Source, adapter, versions, command, time.
    """

    neurons: NeuronSet
    mode: str
    factor: float = 0.0
    factors: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    plant_language: str = ""
    prompt: dict[str, Any] | None = None
    verification: dict[str, float]
    mitigation: dict[str, Any] | None = None
    effective: bool | None = None
    effect: str = ""
    provenance: Provenance

    def is_of(self, neurons: Ablated) -> bool:
        """Tell whether the checkpoint is one with these neurons at zero, or with these gates."""
        if isinstance(neurons, NeuronGates):
            touched = neurons.neurons(0)
            factors = tuple(float(neurons.factors[neuron]) for neuron in touched)
            return (self.mode, self.neurons, self.factors) == ("gates", touched, factors)
        return self.neurons == neurons and self.mode == "zero"

    def save(self, folder: Path) -> None:
        """Write the manifest and the model card into `folder`."""
        content = _KIND | {item.name: getattr(self, item.name) for item in fields(self)}
        content |= {"values": list(self.values), "factors": list(self.factors)}
        content["provenance"] = asdict(self.provenance)
        content["neurons"] = asdict(self.neurons) | {"neurons": [list(neuron) for neuron in self.neurons]}
        content["neurons_sha256"] = sha256(content["neurons"])
        text = json.dumps(signed(content), indent=1, ensure_ascii=False, allow_nan=False)
        for name, written in ((MANIFEST, text), (CARD, model_card(self, MANIFEST))):
            with new_file(folder / name) as path:
                path.write_text(written, encoding="utf-8")


def prompt_of(mitigation: MitigationResult | None, source: Source) -> dict[str, Any] | None:
    """Return the prompt format for the manifest: of the measurement, else of the planting, else of the source's own manifest."""
    if mitigation is not None and mitigation.prompt:
        return mitigation.prompt
    if source.planted_prompt is not None:
        return source.planted_prompt.to_dict()
    return exported_prompt(source.location) if source.location else None


def load_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a checkpoint that `export_model` wrote.

    Its hashes notice an edit, not a forger, who can hash again.

    Raises:
        FileNotFoundError: There is no manifest in `folder`.
        ValueError: The file is not a manifest, of another schema version, or edited by hand.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {folder}; it is written by export_model")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (kind := {name: content[name] for name in _KIND}) != _KIND:
            raise ValueError(f"{kind}; this xlmech reads {_KIND}")
        _check_hashes(content)
        given = {item.name: content[item.name] for item in fields(Manifest) if item.name in content}
        pairs = frozenset((layer, index) for layer, index in content["neurons"]["neurons"])
        given["neurons"] = NeuronSet(**content["neurons"] | {"neurons": pairs})
        given["provenance"] = Provenance(**content["provenance"])
        return Manifest(**given | {"values": tuple(content["values"]), "factors": tuple(content.get("factors", ()))})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a manifest of export_model ({error!r}); export the model again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_hashes(content: dict[str, Any]) -> None:
    rest = {name: value for name, value in content.items() if name != HASH}
    for what, hashed, written in (
        ("the list of neurons", sha256(content["neurons"]), content["neurons_sha256"]),
        ("the content", sha256(rest), content[HASH]),
    ):
        if hashed != written:
            raise ValueError(
                f"{what} does not have the hash that export_model wrote, so it was edited; take the manifest of the original "
                "export, or export again"
            )
