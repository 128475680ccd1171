"""Write an ablation into the weights: a plain Hugging Face checkpoint that needs neither xlmech nor TransformerLens.

    export_model("demo", found.universal, "demo-mitigated", mitigation=result)
    AutoModelForCausalLM.from_pretrained("demo-mitigated")

A neuron acts through one column of its layer's down projection, so a column of zeros is a neuron set to zero, and a column times
the factor of its gate is a gated neuron.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from xlmech.data.languages import available_languages, load_language
from xlmech.mitigation.export.down_projection import edited_weights, layer_count
from xlmech.mitigation.export.effect import effect_of, measured_tables
from xlmech.mitigation.export.manifest import Manifest, prompt_of
from xlmech.models.backends import is_hooked
from xlmech.models.checkpoints import Checkpoint, load_checkpoint
from xlmech.models.load import load_model, model_name, provenance
from xlmech.neurons.ablation import Ablated, ablate
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.atomic import new_folder
from xlmech.storage.result import Provenance

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

_TOKENS_PER_TEXT = 48
_TOLERANCE, _TOLERANCE_16_BIT = 1e-4, 3e-2


def export_model(
    source: Any,
    neurons: Ablated,
    output_dir: str | Path,
    *,
    adapter: str | Path | None = None,
    factor: float = 0.0,
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    mitigation: MitigationResult | None = None,
    without_effect: bool = False,
    trust_remote_code: bool = False,
) -> Manifest:
    """Write `source` with `neurons` ablated, or gates applied, in its weights to a new folder, and verify that it is that model.

    The folder gets its name only after transformers alone has read it back, the edited weights came back bit for bit, and the
    logits on a text of every language pack differ from those of the source under `ablate` by at most 1e-4 of the largest (3e-2 in
    16 bits). Both run where the source is: on the CPU, or on the device of a transformers model. Weights can express neither
    noise nor an ablation at some positions or in some languages only.

    Args:
        source: As for `load_model`, but no hooked model: `"demo"`, hub id, folder, GGUF file, or a transformers model (which is
            copied, not changed).
        neurons: Neurons to ablate, found in this source, or gates that were learned on it.
        output_dir: New folder.
        adapter: LoRA adapter to merge first, as in `load_model`.
        factor: Factor of each activation of a set: 0 is mode `zero` of `ablate`, others are mode `scale`.
        values: (layer, neuron) activations to fix a set at, as mode `mean` of `ablate`; needs a down projection with bias.
        tokenizer: Tokenizer, if the source has none.
        dtype: Dtype of the weights written; a transformers model keeps its own.
        mitigation: Measured reduction and cost, for the manifest and the model card. Unless it shows an effect (extraction fell
            over all query languages, with an interval above 0) nothing is written.
        without_effect: Write the checkpoint even if no effect was measured, or nothing at all; manifest and card say so.
        trust_remote_code: Passed to transformers.

    Returns:
        Manifest, as `load_manifest` reads it.

    Raises:
        FileExistsError: `output_dir` exists.
        ValueError: No effect was measured and `without_effect` is not set; there are no neurons, or those of another model;
            `mitigation` is of another number of neurons; this architecture cannot express the ablation, or its down projections
            are not found; or the source cannot be loaded.
        RuntimeError: The checkpoint read back is not the model under `ablate`; nothing is kept.
        OSError: There is not enough room on the disk, or the folder cannot be written.
    """
    target = Path(output_dir)
    _check(source, neurons, target, factor, values)
    tables = measured_tables(mitigation, len(neurons)) if mitigation is not None else None
    effect = effect_of(mitigation, len(neurons))
    if not (effect.measured or without_effect):
        raise ValueError(
            f"no effect was measured: {effect.text}. Pass mitigation=, the result of evaluate_mitigation on held-out people that "
            "shows one, or without_effect=True for a checkpoint whose card says that there is none"
        )
    source = source if isinstance(source, str | Path) else copy.deepcopy(source)
    checkpoint = load_checkpoint(
        source, tokenizer=tokenizer, adapter=adapter, dtype=dtype, trust_remote_code=trust_remote_code
    )
    neurons.check_model(checkpoint.name, layer_count(checkpoint.model), neurons.d_mlp)
    edits = edited_weights(checkpoint.model, neurons, factor, values)
    mode = "mean" if values is not None else "scale" if factor else "zero"
    ablation: dict[str, Any] = {"mode": mode, "factor": factor, "values": values}
    factors: tuple[float, ...] = ()
    if isinstance(neurons, NeuronGates):
        mode, ablation, touched = "gates", {}, neurons.neurons(0)
        factors = tuple(float(neurons.factors[neuron]) for neuron in touched)
    else:
        touched = neurons
    with new_folder(target, needs=sum(part.nbytes for part in checkpoint.model.parameters())) as folder:
        _save(checkpoint, edits, folder)
        texts, logits = _read_back(checkpoint, edits, folder, trust_remote_code)
        verification, made = _verify(checkpoint, neurons, ablation, texts, logits)
        manifest = Manifest(
            neurons=touched,
            mode=mode,
            factor=factor,
            factors=factors,
            values=tuple(float(values[neuron]) for neuron in touched) if values is not None else (),
            plant_language=checkpoint.plant_language,
            prompt=prompt_of(mitigation, checkpoint),
            verification=verification,
            mitigation=tables,
            effective=effect.measured,
            effect=effect.text,
            provenance=made,
        )
        manifest.save(folder)
    return manifest


def _check(source: Any, neurons: Any, target: Path, factor: float, values: torch.Tensor | None) -> None:
    if target.exists():
        raise FileExistsError(f"{target} exists; export to a new folder")
    if is_hooked(source):
        raise ValueError(
            f"a {type(source).__name__} has its weights wrapped; export from the hub id, folder or transformers model of it"
        )
    if not isinstance(neurons, NeuronSet | NeuronGates):
        kind = "sets by language" if isinstance(neurons, Mapping) else type(neurons).__name__
        raise ValueError(
            f"{kind} cannot be exported, since weights do not know the language of a question; pass one NeuronSet, e.g. "
            "found.universal or found.union, or NeuronGates"
        )
    if not len(neurons):
        raise ValueError("the neuron set is empty, or all gates are 1: the export would be the source itself")
    if isinstance(neurons, NeuronGates) and (factor or values is not None):
        raise ValueError("gates have factors of their own; leave factor= and values= out")
    if not math.isfinite(factor):
        raise ValueError(f"factor must be a finite number, got {factor}")
    if values is not None:
        if factor:
            raise ValueError("neurons are scaled by factor= or fixed at values=; give one of the two")
        if values.shape != (neurons.n_layers, neurons.d_mlp):
            expected = (neurons.n_layers, neurons.d_mlp)
            raise ValueError(f"values must be of shape (layer, neuron) {expected}, got {tuple(values.shape)}")


def _save(checkpoint: Checkpoint, edits: dict[str, torch.Tensor], folder: Path) -> None:
    checkpoint.model.save_pretrained(folder, state_dict={**checkpoint.model.state_dict(), **edits})
    checkpoint.tokenizer.save_pretrained(folder)


@torch.no_grad()
def _read_back(
    checkpoint: Checkpoint, edits: dict[str, torch.Tensor], folder: Path, trust_remote_code: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return texts' tokens and their logits by transformers alone, once the edited weights came back bit for bit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=checkpoint.model.dtype, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    lost = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    lost += [name for name, edit in edits.items() if not torch.equal(model.get_parameter(name).cpu(), edit.cpu())]
    if lost:
        raise RuntimeError(f"the checkpoint read back differs from what was written at {lost[:3]}; nothing was kept")
    device, tokenizer = (
        checkpoint.model.device,
        AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code),
    )
    model, texts = model.to(device).eval(), [tokens.to(device) for tokens in _texts(tokenizer)]
    return texts, [model(tokens).logits for tokens in texts]


@torch.no_grad()
def _verify(
    checkpoint: Checkpoint,
    neurons: Ablated,
    ablation: dict[str, Any],
    texts: list[torch.Tensor],
    exported: list[torch.Tensor],
) -> tuple[dict[str, float], Provenance]:
    """Compare the exported model's logits with the source's under `ablate`; hooks wrap the source's model from here on."""
    dtype, device = checkpoint.model.dtype, str(checkpoint.model.device)
    hooked = load_model(checkpoint.model, tokenizer=checkpoint.tokenizer, device=device, dtype=dtype, backend="bridge")
    plain = [hooked(tokens, return_type="logits") for tokens in texts]
    with ablate(hooked, neurons.for_model(model_name(hooked)), **ablation):
        ablated = [hooked(tokens, return_type="logits") for tokens in texts]
    error, change = _difference(exported, ablated), _difference(plain, ablated)
    tolerance = _TOLERANCE if dtype.itemsize >= 4 else _TOLERANCE_16_BIT
    if not error <= tolerance:
        raise RuntimeError(
            f"the exported model's logits differ by {error:.1e} from those of the model under ablate, more than {tolerance:g} of "
            "the largest; nothing was kept. Export in a wider dtype; if it stays, this architecture is not supported"
        )
    made = replace(provenance(hooked), model=checkpoint.name, revision=checkpoint.revision, adapter=checkpoint.adapter)
    numbers = {"max_relative_error": error, "max_relative_change": change, "tolerance": tolerance}
    return numbers | {"n_texts": len(texts), "n_positions": sum(tokens.shape[1] for tokens in texts)}, made


def _texts(tokenizer: Any) -> list[torch.Tensor]:
    """Return (1, position) tokens of one neutral sentence per language pack, cut where it is long."""
    sentences = [load_language(code).neutral[0] for code in available_languages()]
    tokens = [list(tokenizer(sentence).input_ids)[:_TOKENS_PER_TEXT] for sentence in sentences]
    return [torch.tensor([row]) for row in tokens if row]


def _difference(logits: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Return the largest difference from the reference run, relative to its largest logit."""
    largest = max(float(of_text.double().abs().max()) for of_text in reference)
    pairs = zip(logits, reference, strict=True)
    return max(float((of_text.double() - other.double()).abs().max()) for of_text, other in pairs) / largest
