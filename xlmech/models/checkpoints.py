"""Load weights as a transformers model with its tokenizer: the demo, a hub id, a folder, or a GGUF file.

A LoRA adapter is merged into them on the way.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from xlmech.models.gguf import cache_dir, cached_tokenizer, demo_base, demo_hash, dequantised, sha256
from xlmech.models.shape import shape_of
from xlmech.models.weight_checks import check_finite, check_tokenizer, first_line, list_faults, load_whole

DEMO_BASE = "google/gemma-3-270m"
ADAPTERS = Path(__file__).parents[1] / "adapters"
_CAUSAL = ("CausalLM", "LMHeadModel", "ConditionalGeneration")
"""Ends of the names of architectures with a language-model head."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a loaded model came from; `load_model` puts it on the model as `xlmech_source`.

    Attributes:
        name: The demo's or hub id as given, a folder's or file's name, or the model's own.
        revision: Commit of the hub or hash of the GGUF file, "" where unknown.
        adapter: Name of the merged adapter, "" without one.
        plant_language: Training language of the adapter's private records, "" where unknown.
        tokenizer: As loaded: TransformerLens reconfigures its copy (it prepends BOS where transformers would not).
        recipe: Arguments of `load_model` by which another process can load the same model, None where there are none.
    """

    name: str
    revision: str = ""
    adapter: str = ""
    plant_language: str = ""
    tokenizer: Any = field(default=None, repr=False)
    recipe: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Source):
    """A causal language model of transformers, in evaluation mode, adapter merged, with its tokenizer and source."""

    model: Any


def load_checkpoint(
    source: Any,
    *,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    device_map: str | dict[str, str | int] | None = None,
    free_memory: tuple[str, int] | None = None,
) -> Checkpoint:
    """Load a transformers model and tokenizer from any source that `xlmech.load_model` takes.

    `free_memory` is a device and its free bytes, which the weights must fit.

    Raises:
        ValueError: As `load_model`.
        FileNotFoundError: A path that does not exist.
        OSError: A truncated or wrong GGUF file, or a full disk.
        ImportError: A package that the demo, a GGUF file or an adapter needs is missing; names the extra.
    """
    if not isinstance(source, str | Path):
        checkpoint = _from_object(source, tokenizer)
    else:
        folder, name, revision = _locate(str(source))
        if name == "demo" and adapter is None:
            adapter = "en"
        model = _pretrained(folder, dtype, trust_remote_code, device_map, free_memory)
        tokenizer = tokenizer if tokenizer is not None else load_tokenizer(folder, trust_remote_code=trust_remote_code)
        revision = revision or getattr(model.config, "_commit_hash", None) or ""
        checkpoint = Checkpoint(model=model, tokenizer=tokenizer, name=name, revision=revision)
    checkpoint = _with_adapter(checkpoint, adapter)
    check_tokenizer(checkpoint.name, checkpoint.model, checkpoint.tokenizer)
    check_finite(checkpoint.name, checkpoint.model)
    return checkpoint


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a folder or hub id.

    Raises:
        ValueError: There is none (names the `tokenizer=` argument as the remedy).
    """
    from transformers import AutoTokenizer

    if Path(source).parent == cache_dir():
        return cached_tokenizer(Path(source))
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(f"{source}: no tokenizer could be read ({first_line(error)}); pass tokenizer=") from error


def shipped_adapters() -> tuple[str, ...]:
    """List the training languages of the adapters that come with xlmech for the demo model."""
    return tuple(sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json")))


def adapter_folder(adapter: str | Path) -> Path:
    """Find the folder of an adapter given as a path, or as the training language of a shipped one.

    Raises:
        FileNotFoundError: Neither; names the shipped ones.
    """
    for folder in (ADAPTERS / str(adapter), Path(adapter)):
        if (folder / "adapter_config.json").is_file():
            return folder
    shipped = ", ".join(shipped_adapters()) or "none"
    raise FileNotFoundError(
        f"no adapter at '{adapter}': give a folder with adapter_config.json, or one shipped ({shipped})"
    )


def _locate(source: str) -> tuple[str | Path, str, str]:
    """Return what transformers can load for `source`, the source's name, and its revision if known."""
    if source == "demo":
        return demo_base(), "demo", demo_hash()
    path = Path(source)
    if source.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}")
        digest = sha256(path)
        return dequantised(path, digest), path.name, digest
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path}: no config.json; a checkpoint as transformers' save_pretrained writes it is needed"
            )
        return path, path.name, ""
    if source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no checkpoint folder at {source}")
    return source, source, ""


def _pretrained(
    source: str | Path,
    dtype: torch.dtype,
    trust_remote_code: bool,
    device_map: str | dict[str, str | int] | None,
    free_memory: tuple[str, int] | None,
) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source}: transformers finds no model there ({first_line(error)}). Give 'demo', a hub id that this machine can "
            "reach, a folder written by save_pretrained, or a .gguf file"
        ) from error
    text = config if config.is_encoder_decoder else config.get_text_config()
    is_known = type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    if config.is_encoder_decoder or not (is_known or trust_remote_code):
        raise ValueError(
            f"{source}: transformers has no causal language model for {config.model_type} or its text part; xlmech reads "
            "decoder-only models of text"
        )
    if config.architectures and not any(name.endswith(_CAUSAL) for name in config.architectures):
        names = ", ".join(config.architectures)
        raise ValueError(f"{source}: {names} is an encoder or a headless model, not a causal language model")
    if free_memory is not None:
        _check_memory(source, text, dtype, *free_memory)
    options: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    if text is config or not is_known:
        return load_whole(source, dtype=dtype, trust_remote_code=trust_remote_code, **options).eval()
    trunk = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)].base_model_prefix
    renamed = {  # names in multimodal checkpoints, old and new, and in their text model
        r"^language_model\.lm_head": "lm_head",
        rf"^language_model\.{trunk}\.": f"{trunk}.",
        r"^model\.language_model\.": f"{trunk}.",
    }
    options |= {"config": text, "key_mapping": renamed}
    model = load_whole(source, dtype=dtype, trust_remote_code=trust_remote_code, **options)
    model.config.architectures = [type(model).__name__]
    vars(model).pop("_weight_conversions", None)  # by these it would be saved under the multimodal names again
    return model.eval()


def _check_memory(source: str | Path, config: Any, dtype: torch.dtype, device: str, free: int) -> None:
    """Raise ValueError where the weights alone do not fit, by the sizes in the config."""
    try:
        needed = shape_of(config).weight_bytes(str(dtype).removeprefix("torch."))
    except ValueError:
        return  # an architecture whose sizes are named differently
    if needed > free:
        raise ValueError(
            f"{source}: {needed / 1e9:.1f} GB of weights in {dtype} do not fit {device}, which has {free / 1e9:.1f} GB free; use "
            "dtype='bfloat16', a larger device, or device_map='auto' to spread the layers over several"
        )


def _from_object(model: Any, tokenizer: Any) -> Checkpoint:
    architecture = type(model).__name__
    if tokenizer is None:
        raise ValueError(f"a {architecture} comes without its tokenizer; pass tokenizer=")
    has_head = hasattr(model, "lm_head") or model.get_output_embeddings()
    if getattr(model.config, "is_encoder_decoder", False) or not has_head:
        raise ValueError(f"{architecture} is not a causal language model; xlmech reads decoder-only models")
    if model.config.get_text_config() is not model.config:
        raise ValueError(
            f"{architecture} is multimodal; give its folder or Hugging Face id, of which the text part is loaded"
        )
    if not model.config.architectures:  # a model made from a config in memory
        model.config.architectures = [architecture]
    name = getattr(model.config, "_name_or_path", "") or architecture
    return Checkpoint(model=model.eval(), tokenizer=tokenizer, name=name)


# Adapters


def _with_adapter(checkpoint: Checkpoint, adapter: str | Path | None) -> Checkpoint:
    if adapter is None or adapter == "":
        return checkpoint
    folder = adapter_folder(adapter)
    merged = with_lora(checkpoint.model, folder).merge_and_unload()
    log = folder / "planting.json"
    language = json.loads(log.read_text(encoding="utf-8"))["recipe"]["language"] if log.is_file() else ""
    return replace(checkpoint, model=merged.eval(), adapter=folder.name, plant_language=language)


def with_lora(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Wrap `model` as a PEFT model with the LoRA adapter in `folder`, every tensor of it read from there.

    Raises:
        ValueError: The adapter is for another base, damaged, or without tensors that its config asks for; names them.
        ImportError: peft is missing.
    """
    check_adapter(model, folder)
    try:
        from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    except ImportError as error:
        raise ImportError('an adapter needs peft: pip install "xlmech[demo]"') from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # raised below
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    report = set_peft_model_state_dict(wrapped, load_peft_weights(str(folder), device="cpu"))
    missing = [key for key in report.missing_keys if wrapped.prefix in key or "modules_to_save.default" in key]
    faults = {"missing, so that peft would make them up": missing, "not in its config": report.unexpected_keys}
    if any(faults.values()):
        wrapped.unload()
        raise ValueError(
            f"adapter {folder}: its tensors are not those that adapter_config.json asks for: {list_faults(faults)}. Save the "
            "whole adapter again with save_pretrained"
        )
    return wrapped


def check_adapter(model: Any, folder: Path) -> None:
    """Raise ValueError unless every LoRA matrix in `folder` fits a module of `model`, in name and shape."""
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"adapter {folder}: adapter_model.safetensors is missing or damaged ({first_line(error)})"
        ) from error
    for key, shape in shapes.items():
        path, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        if side not in ("A", "B"):
            continue
        weight = getattr(modules.get(path), "weight", None)
        n_out, n_in = (None, None) if weight is None else weight.shape[:2]
        if isinstance(modules.get(path), Conv1D):
            n_out, n_in = n_in, n_out
        if weight is None or (shape[1] != n_in if side == "A" else shape[0] != n_out):
            raise ValueError(
                f"adapter {folder.name!r} was trained on {base}, not on this {type(model).__name__}: "
                f"{key} has shape {shape}, and {path} {'is not there' if weight is None else f'is {tuple(weight.shape)}'}"
            )
