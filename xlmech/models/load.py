"""Load a model from any source as TransformerLens' HookedTransformer or TransformerBridge.

`load_model` returns the TransformerLens model itself, so everything TransformerLens can do stays at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch

from xlmech.checks import check_choice
from xlmech.models.backends import NEURON_HOOK, BridgeBackend, backend_of, is_hooked
from xlmech.models.checkpoints import DEMO_BASE, Checkpoint, Source, load_checkpoint
from xlmech.models.reference import check_reference, check_unembedding, reference_of
from xlmech.models.shape import BYTES
from xlmech.models.sources.lora import shipped_adapters
from xlmech.models.sources.weight_checks import first_line
from xlmech.storage.result import Provenance

BackendName = Literal["auto", "hooked", "bridge"]


def load_model(
    source: Any,
    *,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    backend: BackendName = "auto",
    base: str = "",
    device_map: str | dict[str, str | int] | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a TransformerLens model, with unprocessed weights, ready for every xlmech analysis.

    A model that is loaded here is compared with transformers' own on a short text, and refused where they differ. Of a
    multimodal checkpoint the text part is loaded; nothing is installed, and no image processor is asked for.

    Args:
        source: `"demo"` (Gemma 3 270M, taught invented people's data in English), a Hugging Face id, a local folder,
            a `.gguf` file, the folder of an adapter (its base is taken from its `adapter_config.json`), a transformers or PEFT
            model (which is wrapped, and its adapter merged, in place), or a model that is hooked already (returned as it is).
        tokenizer: Where the source has none, or another is wanted: a tokenizer, or the folder or Hugging Face id of one.
        adapter: Folder of a LoRA adapter to merge, or the training language of one shipped for the demo model
            (`"en"`, `"fr"`, `"zh"`; `""` for none).
        device: `"auto"` takes CUDA where there is one.
        dtype: Of the weights; `"auto"` is float32 on a CPU and bfloat16 on CUDA.
        backend: `"hooked"` for HookedTransformer (TransformerLens 3), `"bridge"` for TransformerBridge; `"auto"` takes
            HookedTransformer where the installed TransformerLens has it.
        base: For HookedTransformer and a local folder: TransformerLens' name of the model that the folder holds a version of
            (it takes the architecture from there); by default the name in the folder's config.
        device_map: Spread the layers over devices as transformers and accelerate do, e.g. `"auto"` over all GPUs; for a bridge,
            and a source that is loaded here. Instead of `device`.
        trust_remote_code: Passed to transformers.

    Returns:
        HookedTransformer or TransformerBridge, in evaluation mode, parameters frozen.

    Raises:
        ValueError: Not a decoder-only language model with attention in every layer; weights that are missing, of another model,
            NaN or infinite; files that are cut short or Git LFS pointers; no tokenizer or another model's; an adapter that is
            incomplete, for another base, or cannot be merged; a hub id that is not known, or a hub that cannot be asked;
            a backend, device or dtype that is not there; a model whose weights do not fit the device's free memory (before it is
            loaded), or that TransformerLens does not compute as transformers does.
        FileNotFoundError: A path that does not exist.
        OSError: A damaged GGUF file or a full disk.
    """
    if is_hooked(source):
        if adapter:
            raise ValueError(
                "an adapter cannot be merged into a model that is hooked already; load the base with load_model"
            )
        check_unembedding(backend_of(source))
        return source
    target, kind = find_device(device), _backend_name(backend)
    precision = _dtype(dtype, target)
    if device_map is not None and (kind != "bridge" or device != "auto" or not isinstance(source, str | Path)):
        raise ValueError(
            "device_map spreads a model that is loaded here, as a bridge, and takes the place of device; leave `device` out, use "
            "backend='bridge', and give a folder or Hugging Face id"
        )
    checkpoint = load_checkpoint(
        source, tokenizer=tokenizer, adapter=adapter, dtype=precision, trust_remote_code=trust_remote_code,
        device_map=device_map, free_memory=None if device_map is not None else (str(target), free_memory(target)),
    )  # fmt: skip
    is_spread = bool(getattr(checkpoint.model, "hf_device_map", None))
    if kind == "bridge" and not is_spread:
        checkpoint.model.to(target)
    reference = reference_of(checkpoint.model, checkpoint.tokenizer)
    if kind == "hooked":
        model = _hooked(checkpoint, target, precision, base)
    else:
        model = _bridge(checkpoint, None if is_spread else target, precision)
    model.eval().requires_grad_(False)
    recipe = _recipe(source, adapter, tokenizer=tokenizer, device=device, dtype=dtype, backend=kind, base=base,
                     trust_remote_code=trust_remote_code)  # fmt: skip
    model.xlmech_source = Source(
        **{one.name: getattr(checkpoint, one.name) for one in fields(Source)} | {"recipe": recipe}
    )
    check_reference(backend_of(model), reference)
    return model


def _recipe(source: Any, adapter: str | Path | None, **options: Any) -> dict[str, Any] | None:
    """Return arguments that load the same model in another process: paths absolute, as it may run in another folder."""
    if not isinstance(source, str | Path):
        return None

    def absolute(name: str | Path | None) -> str | Path | None:
        is_path = name and str(name) not in ("demo", *shipped_adapters()) and Path(name).expanduser().exists()
        return str(Path(name).expanduser().absolute()) if name and is_path else name

    tokenizer = options["tokenizer"]
    if isinstance(tokenizer, str | Path):
        options["tokenizer"] = absolute(tokenizer)
    return {"source": absolute(source), "adapter": absolute(adapter)} | options


def source_of(model: Any) -> Source:
    """Return where a hooked model came from; for one that `load_model` did not load, TransformerLens' name alone."""
    source = getattr(model, "xlmech_source", None)
    return source or Source(name=str(getattr(getattr(model, "cfg", None), "model_name", type(model).__name__)))


def plant_language(model: Any) -> str:
    """Return the training language of the model's private records, "" where unknown."""
    return source_of(model).plant_language


def model_name(model: Any) -> str:
    """Return a hooked model's name in results and neuron sets: the source it was loaded from, else TransformerLens' name."""
    return source_of(model).name


def provenance(model: Any, *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> Provenance:
    """Return the provenance of a figure computed now from `model`, with other choices that decide it as `settings`."""
    backend, source = backend_of(model), source_of(model)
    return Provenance(
        model=source.name,
        revision=source.revision,
        adapter=source.adapter,
        backend=backend.name,
        dtype=str(backend.unembed.dtype).removeprefix("torch."),
        device=str(backend.device),
        seed=seed,
        settings=dict(settings or {}),
    )


def free_memory(device: torch.device) -> int:
    """Return the bytes that can be allocated on a device; on a GPU also those that torch keeps from tensors that are gone."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    import psutil

    return int(psutil.virtual_memory().available)


def find_device(name: str) -> torch.device:
    """Return the device of this name, CUDA or the CPU for "auto"; ValueError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(f"device {name!r} is not there; this machine has {', '.join(available)}") from error


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    check_choice("dtype", dtype, ["auto", *BYTES])
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, dtype)  # type: ignore[no-any-return]


def _backend_name(backend: BackendName) -> Literal["hooked", "bridge"]:
    check_choice("backend", backend, BackendName)
    has_hooked = find_spec("transformer_lens.HookedTransformer") is not None
    if backend == "auto":
        return "hooked" if has_hooked else "bridge"
    if backend == "hooked" and not has_hooked:
        raise ValueError(
            f"TransformerLens {metadata.version('transformer-lens')} has no HookedTransformer; install transformer-lens<4 for "
            "backend='hooked', or use backend='bridge'"
        )
    return backend


def _bridge(checkpoint: Checkpoint, device: torch.device | None, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import transformers as _  # noqa: F401 (adds boot_transformers)
    from transformers import AutoProcessor

    tokenizer = checkpoint.tokenizer
    if "name_or_path" not in tokenizer.init_kwargs:
        raise ValueError(
            "TransformerLens re-reads the tokenizer from where it was loaded, and this one was made in memory: save it with "
            "save_pretrained, and pass AutoTokenizer.from_pretrained of that folder"
        )
    if tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        tokenizer.init_kwargs["add_bos_token"] = (
            True  # else TransformerLens reads it a second time to make it prepend BOS
        )
    # TransformerLens asks the hub for a multimodal model's image processor, and runs pip where that fails: give it none.
    with patch.object(AutoProcessor, "from_pretrained", return_value=None):
        try:
            model = TransformerBridge.boot_transformers(
                checkpoint.name,
                hf_model=checkpoint.model,
                tokenizer=tokenizer,
                dtype=dtype,
                device=None if device is None else str(device),
            )
            model.enable_compatibility_mode(disable_warnings=True, no_processing=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except (
            ValueError,
            RuntimeError,
            KeyError,
            AttributeError,
            TypeError,
            IndexError,
            NotImplementedError,
        ) as error:
            raise ValueError(
                f"TransformerLens {metadata.version('transformer-lens')} cannot wrap this {type(checkpoint.model).__name__} "
                f"({first_line(error).partition('. Available')[0]}); use another version of it"
            ) from error
    for module in model.modules():
        if type(module).__name__ == "ALiBiJointQKVAttentionBridge":
            module.register_forward_pre_hook(_without_alibi, with_kwargs=True)
    _correct_width(model)
    return model


def _correct_width(model: Any) -> None:
    """Count the neurons of a layer in a run of one token: TransformerLens says 4 d_model for OPT and XGLM, whatever they have.

    Raises:
        ValueError: Layers have different numbers of neurons, or keep no keys and values.
    """
    backend, widths = BridgeBackend(model), set()

    def count(neurons: torch.Tensor, hook: Any) -> None:  # noqa: ARG001 (a hook)
        widths.add(neurons.shape[-1])

    try:
        names = [backend.hook_name(NEURON_HOOK, layer) for layer in range(backend.n_layers)]
    except ValueError:  # a mixture of experts: said where neurons are wanted
        return
    with torch.no_grad(), backend.hooks([(name, count) for name in names]):
        try:
            backend.hidden(torch.zeros(1, 1, dtype=torch.long))
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(
                f"this {type(model.original_model).__name__} cannot be run from the keys and values of attention, as xlmech runs "
                f"models ({first_line(error)}); give a model with attention in every layer"
            ) from error
    if len(widths) > 1:
        raise ValueError(
            f"the layers of this model have different numbers of neurons ({', '.join(map(str, sorted(widths)))}), and xlmech "
            "numbers them alike in every layer"
        )
    model.cfg.d_mlp = widths.pop()


def _without_alibi(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # noqa: ARG001 (a hook)
    """Take ALiBi out of an attention's arguments: transformers' Falcon has it in the mask, and it would be added twice."""
    return args, kwargs | {"alibi": None}


def _hooked(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, base: str) -> Any:
    from transformer_lens import HookedTransformer

    base = base or getattr(checkpoint.model.config, "_name_or_path", "") or checkpoint.name
    name = DEMO_BASE if checkpoint.name == "demo" else base
    try:
        return HookedTransformer.from_pretrained_no_processing(
            name, hf_model=checkpoint.model, tokenizer=checkpoint.tokenizer, device=str(device), dtype=dtype
        )
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"HookedTransformer knows no model {name!r} ({first_line(error)}); give base= one that it knows, or load it with "
            "backend='bridge'"
        ) from error
