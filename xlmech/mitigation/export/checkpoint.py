"""Write deactivation into the weights: a plain Hugging Face checkpoint that needs neither xlmech nor TransformerLens.

    export_model("demo", found.universal, "demo-mitigated", mitigation=result)
    AutoModelForCausalLM.from_pretrained("demo-mitigated")

A neuron acts through one column of its layer's down projection, so a column of zeros is a neuron set to zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float

from xlmech.data.languages import available_languages, load_language
from xlmech.mitigation.export.down_projection import Edited, edited_weights, layer_count, put
from xlmech.mitigation.export.manifest import Effect, Manifest, effect_of, of_mitigation
from xlmech.models.backends import is_hooked
from xlmech.models.checkpoints import Checkpoint, load_checkpoint
from xlmech.models.load import load_model, model_name, provenance
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.atomic import new_folder
from xlmech.storage.result import Provenance

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

ExportMode = Literal["zero", "mean", "scale"]
_CAN = (
    "weights can express 'zero', 'scale' and, where the down projection has a bias, 'mean', at all positions and in all "
    "languages"
)
_TOKENS_PER_TEXT = 48
_TOLERANCE, _TOLERANCE_16_BIT = 1e-4, 3e-2


def export_model(
    source: Any,
    neurons: NeuronSet,
    output_dir: str | Path,
    *,
    adapter: str | Path | None = None,
    mode: ExportMode = "zero",
    factor: float = 0.0,
    values: Float[torch.Tensor, "layer neuron"] | None = None,
    positions: slice | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    mitigation: MitigationResult | None = None,
    without_effect: bool = False,
    trust_remote_code: bool = False,
) -> Manifest:
    """Write `source` with `neurons` deactivated in its weights to a new folder, and prove that it is what the hooks do.

    The folder gets its name only when transformers alone has read it back, the edited weights came back bit for bit, and its
    logits on a text of every language pack differ from those of the source under `ablate` by 1e-4 of the largest at most (3e-2
    in 16 bits). Both are run where the source is: on the CPU, unless it is a transformers model on another device.

    Args:
        source: What `load_model` takes, but not a hooked model: `"demo"`, hub id, folder, GGUF file, or a transformers model
            (which is copied, not changed).
        neurons: Which to deactivate, found in this source.
        output_dir: New folder.
        adapter: LoRA adapter to merge first, as in `load_model`.
        mode: As in `ablate`: `zero`; `scale`; or `mean`, whose constant goes into the bias of the down projection.
        factor: What is left of each activation with mode `scale`.
        values: (layer, neuron) activations of mode `mean`.
        positions: As in `ablate`, so that its arguments can be passed on; anything but None is refused.
        tokenizer: Where the source has none.
        dtype: Of the weights written; a transformers model keeps its own.
        mitigation: Measured reduction and cost, for the manifest and the model card. Unless it shows an effect (see
            `effect_of`: extraction fell over all query languages, with an interval above 0) nothing is written.
        without_effect: Write the checkpoint also where no effect was measured, or nothing at all; manifest and card say so.
        trust_remote_code: Passed to transformers.

    Returns:
        Manifest, as `load_manifest` reads it.

    Raises:
        FileExistsError: `output_dir` exists.
        ValueError: No effect was measured, and `without_effect` is not set; no neurons, those of another model, a mode that
            weights or this architecture cannot express, a `mitigation` of another number of neurons, an architecture whose down
            projections are not found, or a source that cannot be loaded.
        RuntimeError: The checkpoint read back is not the model under `ablate`; nothing is kept.
        OSError: Not enough room on the disk, or the folder cannot be written.
    """
    target = Path(output_dir)
    _check(source, neurons, target, mode, factor, values, positions)
    measured, effect = of_mitigation(mitigation, len(neurons)), effect_of(mitigation, len(neurons))
    _check_effect(effect, without_effect)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    checkpoint = load_checkpoint(_own(source), tokenizer=tokenizer, adapter=adapter, **options)
    neurons.check_model(checkpoint.name, layer_count(checkpoint.model), neurons.d_mlp)
    edited = edited_weights(checkpoint.model, neurons, mode, factor, values)
    with new_folder(target, needs=sum(part.nbytes for part in checkpoint.model.parameters())) as folder:
        _save(checkpoint, edited, folder)
        how: dict[str, Any] = {"mode": mode, "values": values} if mode == "mean" else {"mode": mode, "factor": factor}
        verification, made = _verify(checkpoint, edited, neurons, folder, how, trust_remote_code)
        manifest = Manifest(
            neurons=neurons,
            mode=mode,
            factor=factor if mode == "scale" else 0.0,
            values=tuple(float(values[neuron]) for neuron in neurons) if values is not None else (),
            plant_language=checkpoint.plant_language,
            verification=verification,
            mitigation=measured,
            effective=effect.measured,
            effect=effect.text,
            provenance=made,
        )
        manifest.save(folder)
    return manifest


def _check(
    source: Any,
    neurons: NeuronSet,
    target: Path,
    mode: str,
    factor: float,
    values: torch.Tensor | None,
    positions: slice | None,
) -> None:
    if target.exists():
        raise FileExistsError(f"{target} exists; export to a new folder")
    if is_hooked(source):
        raise ValueError(
            f"a {type(source).__name__} has its weights wrapped; export from the hub id, folder or transformers model of it"
        )
    if not isinstance(neurons, NeuronSet):
        kind = "sets by language" if isinstance(neurons, Mapping) else type(neurons).__name__
        raise ValueError(
            f"{kind} cannot be exported, since weights do not know which language is asked: {_CAN}; pass one NeuronSet, e.g. "
            "found.universal or found.union"
        )
    if not len(neurons):
        raise ValueError("the neuron set is empty: the export would be the source itself")
    if mode not in ("zero", "mean", "scale"):
        raise ValueError(f"mode {mode!r} cannot be exported: {_CAN}")
    if positions is not None:
        raise ValueError(f"deactivation at some positions only cannot be exported: {_CAN}")
    if not math.isfinite(factor):
        raise ValueError(f"factor must be a finite number, got {factor}")
    wanted, found = (neurons.n_layers, neurons.d_mlp), None if values is None else tuple(values.shape)
    if (mode == "mean") != (values is not None) or found not in (None, wanted):
        raise ValueError(
            f"mode {mode!r} with values of shape {found}: 'mean' takes values= of shape (layer, neuron) {wanted}, the others none"
        )


def _check_effect(effect: Effect, without_effect: bool) -> None:
    """Refuse a checkpoint that would pass for mitigated and is not, unless it is asked for."""
    if not (effect.measured or without_effect):
        raise ValueError(
            f"no effect was measured: {effect.text}. Pass mitigation=, the result of evaluate_mitigation on held-out people that "
            "shows one, or without_effect=True for a checkpoint whose card says that there is none"
        )


def _own(source: Any) -> Any:
    """A model that may be changed: the caller's object is copied."""
    return source if isinstance(source, str | Path) else copy.deepcopy(source)


def _save(checkpoint: Checkpoint, edited: Edited, folder: Path) -> None:
    """Save the model with the edited weights in place, and take them out again: the source is run after this."""
    kept: Edited = {}
    for name, (weight, bias) in edited.items():
        part = checkpoint.model.get_submodule(name)
        kept[name] = part.weight.data, part.bias.data if bias is not None else None
        put(part, weight, bias)
    checkpoint.model.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    for name, (weight, bias) in kept.items():
        put(checkpoint.model.get_submodule(name), weight, bias)


def _verify(
    checkpoint: Checkpoint,
    edited: Edited,
    neurons: NeuronSet,
    folder: Path,
    how: dict[str, Any],
    trust_remote_code: bool,
) -> tuple[dict[str, float], Provenance]:
    """Compare the checkpoint in `folder`, read by transformers alone, with the source under `ablate`, which wraps it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype, device = checkpoint.model.dtype, checkpoint.model.device
    reloaded, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    lost = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    lost += [name for name, part in edited.items() if not _came_back(reloaded.get_submodule(name), *part)]
    if lost:
        raise RuntimeError(f"the checkpoint read back differs from what was written at {lost[:3]}; nothing was kept")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    texts, reloaded = _texts(tokenizer), reloaded.to(device).eval()
    with torch.no_grad():
        found = [reloaded(tokens.to(device)).logits for tokens in texts]
        del reloaded
        hooked = load_model(checkpoint.model, tokenizer=tokenizer, device=str(device), dtype=dtype, backend="bridge")
        plain = [hooked(tokens.to(device), return_type="logits") for tokens in texts]
        with ablate(hooked, neurons.for_model(model_name(hooked)), **how):
            wanted = [hooked(tokens.to(device), return_type="logits") for tokens in texts]
    error, change = _difference(found, wanted), _difference(plain, wanted)
    tolerance = _TOLERANCE if dtype.itemsize >= 4 else _TOLERANCE_16_BIT
    if not error <= tolerance:
        raise RuntimeError(
            f"the exported model's logits differ by {error:.1e} from those of the model under ablate, more than {tolerance:g} of "
            "the largest; nothing was kept. Export in a wider dtype; if it stays, this architecture is not supported"
        )
    made = replace(provenance(hooked), model=checkpoint.name, revision=checkpoint.revision, adapter=checkpoint.adapter)
    numbers = {"max_relative_error": error, "max_relative_change": change, "tolerance": tolerance}
    return numbers | {"n_texts": len(texts), "n_positions": sum(tokens.shape[1] for tokens in texts)}, made


def _came_back(part: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    return torch.equal(part.weight.cpu(), weight.cpu()) and (bias is None or torch.equal(part.bias.cpu(), bias.cpu()))


def _texts(tokenizer: Any) -> list[torch.Tensor]:
    """(1, position) tokens of one neutral sentence per language pack, cut where it is long."""
    sentences = [load_language(code).neutral[0] for code in available_languages()]
    tokens = [list(tokenizer(sentence).input_ids)[:_TOKENS_PER_TEXT] for sentence in sentences]
    return [torch.tensor([row]) for row in tokens if row]


def _difference(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Largest difference of two runs' logits, relative to the largest logit."""
    pairs = [(one.double(), other.double()) for one, other in zip(found, wanted, strict=True)]
    largest = max(float(other.abs().max()) for _, other in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs) / largest
