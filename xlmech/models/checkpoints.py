"""Load weights as a transformers model with its tokenizer: the demo, a hub id, a folder, a GGUF file, or a PEFT model.

An adapter is merged into them on the way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from xlmech.data.prompt_format import PLAIN, PromptFormat
from xlmech.models.shape import shape_of
from xlmech.models.sources.files import check_folder, check_not_pointer
from xlmech.models.sources.gguf import cache_dir, cached_tokenizer, demo_base, demo_hash, dequantised, sha256
from xlmech.models.sources.hub import MODEL_FILES, TOKENIZER_FILES, check_on_hub
from xlmech.models.sources.lora import (
    adapter_folder,
    adapter_name,
    base_of,
    is_adapter_folder,
    is_wrapped,
    merge,
    with_lora,
)
from xlmech.models.sources.weight_checks import check_finite, check_tokenizer, first_line, load_whole

DEMO_BASE = "google/gemma-3-270m"
_OTHER_TOKENIZER = "give tokenizer= a folder with tokenizer.json, a hub id, or a tokenizer of transformers"
_WITHOUT_ATTENTION = frozenset({"conv", "linear_attention", "mamba", "recurrent"})
"""What configs call layers without keys and values."""
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
        planted_prompt: Prompt format in which the adapter's records were planted, None where unknown.
        end_tokens: Token ids that end a text by the model's generation config.
        location: Absolute path of the folder or file, or hub id, that was loaded; "" for the demo, and other models in memory.
    """

    name: str
    revision: str = ""
    adapter: str = ""
    plant_language: str = ""
    tokenizer: Any = field(default=None, repr=False)
    recipe: dict[str, Any] | None = field(default=None, repr=False)
    planted_prompt: PromptFormat | None = None
    end_tokens: tuple[int, ...] = ()
    location: str = ""


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
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code, remedy=_OTHER_TOKENIZER)
    if not isinstance(source, str | Path):
        checkpoint = _from_object(source, tokenizer)
    else:
        if Path(source).is_dir() and is_adapter_folder(Path(source)):
            source, adapter, tokenizer = _base_and_adapter(Path(source), adapter, tokenizer, trust_remote_code)
        folder, name, revision = _locate(str(source))
        if name == "demo" and adapter is None:
            adapter = "en"
        model = _pretrained(folder, dtype, trust_remote_code, device_map, free_memory)
        tokenizer = tokenizer if tokenizer is not None else load_tokenizer(folder, trust_remote_code=trust_remote_code)
        revision = revision or getattr(model.config, "_commit_hash", None) or ""
        location = "" if name == "demo" else _absolute(source) or str(source)
        checkpoint = Checkpoint(model=model, tokenizer=tokenizer, name=name, revision=revision, location=location)
    checkpoint = replace(_with_adapter(checkpoint, adapter), end_tokens=_end_tokens(checkpoint.model))
    check_tokenizer(checkpoint.name, checkpoint.model, checkpoint.tokenizer)
    check_finite(checkpoint.name, checkpoint.model)
    return checkpoint


def _absolute(source: str | Path) -> str:
    """Return the absolute path of a source that is on this machine, else ""."""
    return str(Path(source).absolute()) if Path(source).exists() else ""


def _end_tokens(model: Any) -> tuple[int, ...]:
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return () if ids is None else tuple(ids) if isinstance(ids, list | tuple) else (ids,)


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False, remedy: str = "pass tokenizer=") -> Any:
    """Load the tokenizer of a folder or hub id.

    Raises:
        ValueError: There is none; ends with `remedy`.
    """
    from transformers import AutoTokenizer

    if Path(source).parent == cache_dir():
        return cached_tokenizer(Path(source))
    if not Path(source).is_dir():
        check_on_hub(str(source), TOKENIZER_FILES, _OTHER_TOKENIZER)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(f"{source}: no tokenizer could be read ({first_line(error)}); {remedy}") from error


def _base_and_adapter(
    folder: Path, adapter: str | Path | None, tokenizer: Any, trust_remote_code: bool
) -> tuple[str, Path, Any]:
    """Return base, adapter and tokenizer where an adapter's folder is the source: its own tokenizer, if it has one."""
    if adapter:
        raise ValueError(
            f"{folder} is an adapter itself, and adapter={str(adapter)!r} is another; pass the base as source, and one adapter"
        )
    base = base_of(folder)
    if base == DEMO_BASE and (folder / "planting.json").is_file() and demo_hash():
        base = "demo"
    if tokenizer is None and (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return base, folder, tokenizer


def _locate(source: str) -> tuple[str | Path, str, str]:
    """Return what transformers can load for `source`, the source's name, and its revision if known."""
    if source == "demo":
        return demo_base(), "demo", demo_hash()
    path = Path(source)
    if source.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}")
        check_not_pointer(path)
        digest = sha256(path)
        return dequantised(path, digest), path.name, digest
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path}: no config.json; a checkpoint as transformers' save_pretrained writes it is needed"
            )
        check_folder(path)
        return path, path.name, ""
    if source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no checkpoint folder at {source}")
    check_on_hub(source, MODEL_FILES)
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
    if is_known:
        _check_attention(MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], text, f"{source}: ")
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


def _check_attention(architecture: type, config: Any, prefix: str = "") -> None:
    """Raise ValueError where some layers of a class of transformers keep a state instead of keys and values."""
    if getattr(architecture, "_is_stateful", False) or _WITHOUT_ATTENTION & set(
        getattr(config, "layer_types", None) or ()
    ):
        raise ValueError(
            f"{prefix}{architecture.__name__} has layers that pass a state from token to token (a state-space, recurrent or "
            "convolutional model), and xlmech continues answers from the keys and values of attention; give a model with "
            "attention in every layer"
        )


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
    if is_wrapped(model):
        name = adapter_name(model)
        merged = merge(model, f"the PEFT model's adapter {name!r}")
        return replace(_from_object(merged, tokenizer), adapter=name)
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
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"the {architecture} carries an adapter that transformers added and cannot merge; load the base, and pass the folder "
            "of the adapter as adapter="
        )
    _check_attention(type(model), model.config)
    if not model.config.architectures:  # a model made from a config in memory
        model.config.architectures = [architecture]
    name = getattr(model.config, "_name_or_path", "") or architecture
    return Checkpoint(model=model.eval(), tokenizer=tokenizer, name=name, location=_absolute(name))


# Adapters


def _with_adapter(checkpoint: Checkpoint, adapter: str | Path | None) -> Checkpoint:
    if adapter is None or adapter == "":
        return checkpoint
    folder = adapter_folder(adapter)
    merged = merge(with_lora(checkpoint.model, folder), f"adapter {folder}").eval()
    name, path = folder.absolute().name, folder / "planting.json"
    if not path.is_file():
        return replace(checkpoint, model=merged, adapter=name)
    log = json.loads(path.read_text(encoding="utf-8"))
    return replace(
        checkpoint,
        model=merged,
        adapter=name,
        plant_language=log["recipe"]["language"],
        planted_prompt=PromptFormat(**log["prompt"]) if "prompt" in log else PLAIN,  # older adapters know no other
    )
