"""Find adapters of PEFT, wrap a model with one, and merge it: LoRA and its kin, modules saved whole, trained embeddings.

A merged model is compared with the wrapped one, since peft merges a shared embedding and unembedding wrongly without a word.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from xlmech.models.sources.files import check_not_pointer
from xlmech.models.sources.weight_checks import first_line, list_faults

ADAPTERS = Path(__file__).parents[2] / "adapters"
CONFIG = "adapter_config.json"
GATES = "gates"
"""Folder in a shipped adapter's, of the gates that were learned for it."""
_WEIGHTS = "adapter_model.safetensors"
_TOLERANCE, _TOLERANCE_16_BIT = 1e-3, 0.1
"""Largest change of the logits by merging, relative to their size."""


def shipped_adapters() -> tuple[str, ...]:
    """List the training languages of the adapters that come with xlmech for the demo model."""
    return tuple(sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json")))


def shipped_gates() -> tuple[str, ...]:
    """List the training languages of the shipped adapters that come with gates; `NeuronGates.shipped` reads them."""
    return tuple(name for name in shipped_adapters() if (ADAPTERS / name / GATES / "meta.json").is_file())


def adapter_folder(adapter: str | Path) -> Path:
    """Find the folder of an adapter given as a path, or as the training language of a shipped one.

    Raises:
        FileNotFoundError: Neither; names the shipped ones.
    """
    for folder in (ADAPTERS / str(adapter), Path(adapter)):
        if (folder / CONFIG).is_file():
            return folder
    shipped = ", ".join(shipped_adapters()) or "none"
    raise FileNotFoundError(
        f"no adapter at '{adapter}': give a folder with adapter_config.json, or one shipped ({shipped})"
    )


def with_lora(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Wrap `model` as a PEFT model with the adapter in `folder`, every tensor of it read from there.

    Where the adapter was saved with a larger or smaller embedding, the model's is resized to it.

    Raises:
        ValueError: The adapter is for another base, damaged, without tensors that its config asks for (names them), or one that
            adds virtual tokens and no weights.
        ImportError: peft is missing.
    """
    shapes = _shapes(folder)
    check_adapter(model, folder, shapes)
    try:
        from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    except ImportError as error:
        raise ImportError('an adapter needs peft: pip install "xlmech[demo]"') from error
    with warnings.catch_warnings():
        # About missing tensors, which are raised below, and about shared embeddings, which `merge` sees to.
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # which peft alone can mend
        _fit_embedding(model, shapes)
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    _check_mergeable(wrapped, f"adapter {folder}")
    report = set_peft_model_state_dict(wrapped, load_peft_weights(str(folder), device="cpu"))
    faults = {
        "missing, so that peft would make them up": _made_up(wrapped, report.missing_keys),
        "not in its config": [key for key in report.unexpected_keys if not _is_twice(key, shapes)],
    }
    if any(faults.values()):
        wrapped.unload()
        raise ValueError(
            f"adapter {folder}: its tensors are not those that adapter_config.json asks for: {list_faults(faults)}. Save the "
            "whole adapter again with save_pretrained"
        )
    return wrapped


def merge(wrapped: Any, name: str) -> Any:
    """Merge a PEFT model's active adapters into its base, in place, and return that.

    Args:
        wrapped: PEFT model.
        name: Of the adapter, for messages.

    Raises:
        ValueError: The adapter cannot be merged, or the merged model does not compute what the wrapped one does.
    """
    _check_mergeable(wrapped, name)
    wrapped.eval()
    expected = _logits(wrapped)
    _untie(wrapped.get_base_model())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="peft")  # about the embeddings, as above
            model = wrapped.merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ValueError(
            f"{name} cannot be merged: {first_line(error)}. Merge it with the tool that trained it, and load the merged model"
        ) from error
    if model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
        model.config.tie_word_embeddings = False
    change = float((_logits(model) - expected).norm() / expected.norm())
    tolerance = _TOLERANCE if model.dtype.itemsize >= 4 else _TOLERANCE_16_BIT
    if not change <= tolerance:
        raise ValueError(
            f"{name} cannot be merged by this version of peft: the merged model's logits differ from those of the model with the "
            f"adapter beside it by {change:.1%} ({tolerance:.1%} would be rounding). Merge it with the tool that trained it, and "
            "load the merged model"
        )
    return model


def is_wrapped(model: Any) -> bool:
    """Tell whether `model` is a PEFT model."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def adapter_name(wrapped: Any) -> str:
    """Return the names of a PEFT model's active adapters."""
    active = wrapped.active_adapters if hasattr(wrapped, "active_adapters") else [wrapped.active_adapter]
    return "+".join(active() if callable(active) else active)


def is_adapter_folder(folder: Path) -> bool:
    """Tell whether a folder holds an adapter and no whole model."""
    models = [path for pattern in ("model*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern)]
    return (folder / CONFIG).is_file() and not models


def base_of(folder: Path) -> str:
    """Return the source of the model that the adapter in `folder` was trained on: a folder or hub id.

    A relative folder is taken from here, or else from the adapter's own folder.

    Raises:
        ValueError: The adapter does not say.
    """
    base = str(_config(folder).get("base_model_name_or_path") or "")
    if not base:
        raise ValueError(
            f"adapter {folder}: adapter_config.json names no base_model_name_or_path; pass the base as source, and this folder "
            "as adapter="
        )
    return str(folder / base) if not Path(base).exists() and (folder / base).is_dir() else base


def check_adapter(model: Any, folder: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
    """Raise ValueError unless every LoRA matrix in `folder` fits a module of `model`, in name and shape."""
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    base = _config(folder).get("base_model_name_or_path")
    for key, shape in (_shapes(folder) if shapes is None else shapes).items():
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


def _config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"adapter {folder}: {CONFIG} is missing or no JSON ({first_line(error)}); save the adapter again"
        ) from error


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of an adapter's tensors."""
    check_not_pointer(folder / _WEIGHTS)
    if not (folder / _WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise ValueError(
            f"adapter {folder}: adapter_model.bin is a pickle, which could run any code; save the adapter again as safetensors "
            "(save_pretrained of the PEFT model)"
        )
    try:
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"adapter {folder}: {_WEIGHTS} is missing or damaged ({first_line(error)})") from error


def _is_twice(key: str, shapes: Collection[str]) -> bool:
    """Tell whether peft saved a resized embedding under this name besides its proper one."""
    proper = key.replace(".modules_to_save.", ".")
    return proper != key and proper in shapes


def _made_up(wrapped: Any, missing: Sequence[str]) -> list[str]:
    """List the adapter's own tensors among the missing ones, but for those that are shared with one that was read."""
    state = wrapped.state_dict()
    read = {tensor.data_ptr() for key, tensor in state.items() if key not in missing}
    own = (wrapped.prefix, "modules_to_save.default", "trainable_tokens_delta")
    return [key for key in missing if any(part in key for part in own) and state[key].data_ptr() not in read]


def _fit_embedding(model: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Resize the model's embedding to that which was saved whole with the adapter: a tokenizer had got more tokens."""
    ends = {
        name
        for name, part in model.named_modules()
        if part in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    saved = {
        shape[0]
        for key, shape in shapes.items()
        if key.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".base_layer") in ends
    }
    if len(saved) == 1 and saved != {len(model.get_input_embeddings().weight)}:
        model.resize_token_embeddings(saved.pop(), mean_resizing=False)


def _untie(model: Any) -> None:
    """Give a shared unembedding its own weights where an adapter changes one of the two, which would be merged into both."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not any(isinstance(part, BaseTunerLayer) for part in (embed, head)) or embed.weight is not head.weight:
        return
    plain = getattr(head, "base_layer", head)
    plain.weight = nn.Parameter(plain.weight.detach().clone(), requires_grad=False)


def _check_mergeable(wrapped: Any, name: str) -> None:
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        kind = next(iter(wrapped.peft_config.values())).peft_type
        raise ValueError(
            f"{name} ({getattr(kind, 'value', kind)}) puts virtual tokens before a text and changes no weights, so that it "
            "cannot be merged; use a LoRA adapter"
        )


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    """Compute the logits of eight tokens, the first of the vocabulary but for the usual special ones."""
    weight = model.get_input_embeddings().weight
    tokens = torch.arange(8)[None] + min(10, max(0, len(weight) - 8))
    device = torch.device("cpu") if weight.is_meta else weight.device
    return model(input_ids=tokens.to(device), use_cache=False).logits.float().cpu()  # type: ignore[no-any-return]
