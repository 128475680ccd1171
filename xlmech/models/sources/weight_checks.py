"""Check that a checkpoint is whole: every weight read from its files, every number finite, and a tokenizer that fits.

transformers gives random values to the weights that it does not find, and says so in a warning only. A measurement of such a
model looks like any other, so such a checkpoint is refused here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors import SafetensorError

_MAX_NAMES = 3
_UNUSED_SHARE, _UNUSED_ROWS = 0.1, 2048
"""Rows of the embedding without a token; in published models at most 3 % of them or a few hundred."""
_COMPUTED = re.compile(
    r"(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids|(cos|sin)_cached|_extra_state)$"
)
_OTHER_MODALITIES = re.compile(r"(^|\.)(embed_)?(vision|visual|image|video|audio|speech|multi_?modal|mm_|mtp)")
_PREFIX_REMEDIES = {
    "module.": "save the unwrapped model (`model.module.save_pretrained`)",
    "_orig_mod.": "save the model that was compiled (`model._orig_mod.save_pretrained`)",
}


def load_whole(source: str | Path, **options: Any) -> Any:
    """Load a causal language model of transformers, all of whose weights come from the checkpoint.

    Args:
        source: Folder or hub id.
        options: Of `from_pretrained`.

    Raises:
        ValueError: Weights that are missing, of another shape or another model's, a damaged file, or an adapter in the folder.
    """
    try:
        model, report = load_reported(source, **options)
    except SafetensorError as error:
        raise ValueError(f"{source}: a file of its weights is damaged ({error}); copy or save it again") from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{source}: an adapter lies beside the model, and transformers does not merge it; move it to a folder of its own and "
            "pass that as adapter="
        )
    check_keys(source, model, report)
    return model


def load_reported(source: str | Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Load a causal language model of transformers, with its report of missing, unexpected and mismatched tensors."""
    from transformers import AutoModelForCausalLM

    # transformers prints the report as a table; what matters in it is raised by `check_keys`.
    logger = logging.getLogger("transformers.modeling_utils")
    with patch.object(logger, "filters", [lambda record: "LOAD REPORT" not in record.getMessage(), *logger.filters]):
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )


def check_keys(source: str | Path, model: Any, report: dict[str, Any], *, remedy: str = "") -> None:
    """Raise ValueError unless the checkpoint holds the model's weights, all of them and no others of the kind.

    Unexpected tensors pass where the text model has no use for them: buffers that are computed, and modules such as a vision
    tower or a value head.

    Args:
        source: Where the checkpoint is, for the message.
        model: transformers model, as loaded.
        report: What transformers returns with `output_loading_info=True`.
        remedy: What to do; by default it is derived from the names.
    """
    modules = {name for key in model.state_dict() for name in key.split(".")[:2]}
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if not missing:
        unexpected = [key for key in unexpected if key.split(".")[0] in modules]
        unexpected = [key for key in unexpected if not (_COMPUTED.search(key) or _OTHER_MODALITIES.search(key))]
    reshaped = [f"{key} is {tuple(shape)}, not {tuple(wanted)}" for key, shape, wanted in report["mismatched_keys"]]
    faults = {
        "missing, so that transformers would make them up": missing,
        "of another shape than the config says": sorted(reshaped),
        "without a place in the model": unexpected,
    }
    if any(faults.values()):
        raise ValueError(
            f"{source}: its tensors are not those of the {type(model).__name__} that its config describes: "
            f"{list_faults(faults)}. {remedy or _remedy(model, missing, unexpected)}"
        )


def check_finite(source: str | Path, model: Any) -> None:
    """Raise ValueError where a weight is NaN or infinite; weights that are offloaded to a disk are not read."""
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2 or not weight.numel():
            continue
        if not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise ValueError(
                f"{source}: {name} has values that are NaN or infinite; save the checkpoint again, in bfloat16 or float32 if it "
                "was float16"
            )


def check_tokenizer(source: str | Path, model: Any, tokenizer: Any) -> None:
    """Raise ValueError where text gives tokens that the model does not have, or where many of its tokens never occur.

    Special tokens beyond the embedding pass, unless they begin or end a text: Gemma 3's text models share the tokenizer of those
    that see images.
    """
    n_rows, n_tokens = len(model.get_input_embeddings().weight), len(tokenizer)
    remedy = "pass the tokenizer that the model was trained with as tokenizer="
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special -= {tokenizer.bos_token_id, tokenizer.eos_token_id}
    vocabulary = tokenizer.get_vocab() if n_tokens > n_rows else {}
    beyond = sorted(token for token, index in vocabulary.items() if index >= n_rows and index not in special)
    if beyond:
        raise ValueError(
            f"{source}: the tokenizer has {n_tokens} tokens and the model's embedding {n_rows}: {len(beyond)} of them "
            f"({first_names(beyond)}) have no embedding. It is another model's tokenizer, or the embedding was not "
            f"resized; {remedy}"
        )
    if n_rows - n_tokens > max(_UNUSED_ROWS, _UNUSED_SHARE * n_rows):
        raise ValueError(
            f"{source}: the tokenizer has {n_tokens} tokens and the model's embedding {n_rows}, so it is another model's; "
            f"{remedy}, or, if it is this one, resize the embedding (model.resize_token_embeddings({n_tokens}))"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 200 characters, or the error's type where it has none."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def first_names(names: Collection[str]) -> str:
    """List the first few names, for a message."""
    return ", ".join(list(names)[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")


def list_faults(faults: dict[str, list[str]]) -> str:
    """List how many tensors have each fault, and the first of their names."""
    return "; ".join(f"{len(keys)} {fault} ({first_names(keys)})" for fault, keys in faults.items() if keys)


def _remedy(model: Any, missing: Collection[str], unexpected: Collection[str]) -> str:
    """Derive from the names what to do."""
    if any(".lora_" in key or ".base_layer." in key for key in unexpected):
        return "It holds an adapter that is not merged: merge it before saving (`merge_and_unload`)"
    if prefix := _prefix(missing, unexpected):
        remedy = _PREFIX_REMEDIES.get(prefix, "rename the keys, or save the model that stands behind it")
        return f"The keys carry the prefix {prefix!r}: {remedy}"
    head = model.get_output_embeddings()
    if missing and all(model.get_submodule(key.rpartition(".")[0]) is head for key in missing):
        return (
            "The language-model head is missing: save the model with it, or, if it shares the embedding's weights, set "
            "tie_word_embeddings in config.json"
        )
    layers = getattr(model.config, "num_hidden_layers", None)
    return (
        f"Use the config.json that was saved with these weights (this one says {layers} layers), or save the whole model again "
        "with save_pretrained"
    )


def _prefix(missing: Collection[str], unexpected: Iterable[str]) -> str:
    """Find what stands before a missing tensor's name in an unexpected one; "" where nothing does."""
    names = set(missing)
    for key in unexpected:
        prefix, rest = "", key
        while "." in rest:
            head, _, rest = rest.partition(".")
            prefix += f"{head}."
            if rest in names:
                return prefix
    return ""
