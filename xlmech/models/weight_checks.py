"""Whether a checkpoint is whole: every weight read from its files, every number finite, and a tokenizer that fits.

transformers gives random values to the weights that it does not find, and says so in a warning. A measurement of such a model
looks like any other, so it is refused here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

_SHOWN = 3
_UNUSED_SHARE, _UNUSED_ROWS = 0.1, 2048
"""Rows of the embedding without a token, in published models at most 3 % of them or a few hundred."""
_COMPUTED = re.compile(
    r"(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids|(cos|sin)_cached|_extra_state)$"
)
_OTHER_PARTS = re.compile(r"(^|\.)(embed_)?(vision|visual|image|video|audio|speech|multi_?modal|mm_|mtp)")
_PREFIXES = {
    "module.": "save the unwrapped model (`model.module.save_pretrained`)",
    "_orig_mod.": "save the model that was compiled (`model._orig_mod.save_pretrained`)",
}


def load_whole(source: str | Path, **options: Any) -> Any:
    """A causal language model of transformers, all of whose weights come from the checkpoint.

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
    """A causal language model of transformers, and what was missing, unexpected and of another shape, for `check_keys`."""
    from transformers import AutoModelForCausalLM

    with _without_table():
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )


@contextmanager
def _without_table() -> Iterator[None]:
    """Hide transformers' table of missing and unexpected tensors: what matters in it is raised."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def check_keys(source: str | Path, model: Any, report: dict[str, Any], *, remedy: str = "") -> None:
    """Raise ValueError unless the checkpoint holds the model's weights, all of them and no others of the kind.

    Unexpected tensors pass where the text model has no use for them: buffers that are computed, and other parts such as a vision
    tower or a value head.

    Args:
        source: Where the checkpoint is, for the message.
        model: transformers model, as loaded.
        report: What transformers says with `output_loading_info=True`.
        remedy: What to do; by default it is told from the names.
    """
    own = {part for key in model.state_dict() for part in key.split(".")[:2]}
    missing, left = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    unexpected = left if missing else [key for key in left if _is_own(key, own)]
    reshaped = [f"{key} is {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in report["mismatched_keys"]]
    faults = {
        "missing, so that transformers would make them up": missing,
        "of another shape than the config says": sorted(reshaped),
        "without a place in the model": unexpected,
    }
    told = [f"{len(keys)} {fault} ({some(keys)})" for fault, keys in faults.items() if keys]
    if told:
        raise ValueError(
            f"{source}: its tensors are not those of the {type(model).__name__} that its config describes: {'; '.join(told)}. "
            f"{remedy or _remedy(model, missing, unexpected)}"
        )


def check_finite(source: str | Path, model: Any) -> None:
    """Raise ValueError where a weight is NaN or infinite; weights that are offloaded to a disk are not read."""
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or weight.element_size() < 2 or not weight.numel():
            continue
        lowest, highest = torch.aminmax(weight.detach())
        if not (torch.isfinite(lowest) and torch.isfinite(highest)):
            raise ValueError(
                f"{source}: {name} has values that are NaN or infinite; save the checkpoint again, in bfloat16 or float32 if it "
                "was float16"
            )


def check_tokenizer(source: str | Path, model: Any, tokenizer: Any) -> None:
    """Raise ValueError where text gives tokens that the model does not have, or where many of its tokens never occur.

    Special tokens beyond the embedding pass, unless they begin or end a text: Gemma 3's text models share the tokenizer of those
    that see images.
    """
    rows, count = len(model.get_input_embeddings().weight), len(tokenizer)
    remedy = "pass the tokenizer that the model was trained with as tokenizer="
    beyond = sorted(token for token, index in _text_tokens(tokenizer) if index >= rows) if count > rows else []
    if beyond:
        raise ValueError(
            f"{source}: the tokenizer has {count} tokens and the model's embedding {rows}: {len(beyond)} of them "
            f"({some(beyond)}) have no embedding. It is another model's tokenizer, or the embedding was not resized; {remedy}"
        )
    if rows - count > max(_UNUSED_ROWS, _UNUSED_SHARE * rows):
        raise ValueError(
            f"{source}: the tokenizer has {count} tokens and the model's embedding {rows}, so it is another model's; {remedy}, "
            f"or, if it is this one, resize the embedding (model.resize_token_embeddings({count}))"
        )


def _text_tokens(tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Tokens that ordinary text can hold, and those that begin or end one, with their ids."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special -= {tokenizer.bos_token_id, tokenizer.eos_token_id}
    return ((token, index) for token, index in tokenizer.get_vocab().items() if index not in special)


def _is_own(key: str, own: Collection[str]) -> bool:
    return key.split(".")[0] in own and not _COMPUTED.search(key) and not _OTHER_PARTS.search(key)


def some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _remedy(model: Any, missing: Collection[str], unexpected: Collection[str]) -> str:
    """What to do, by the names."""
    if any(".lora_" in key or ".base_layer." in key for key in unexpected):
        return "It holds an adapter that is not merged: merge it before saving (`merge_and_unload`)"
    if prefix := _prefix(missing, unexpected):
        how = _PREFIXES.get(prefix, "rename the keys, or save the model that stands behind it")
        return f"The keys carry the prefix {prefix!r}: {how}"
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
    """What stands before the name of a missing tensor in the name of an unexpected one, "" where nothing does."""
    wanted = set(missing)
    for key in unexpected:
        parts = key.split(".")
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in wanted:
                return ".".join(parts[:start]) + "."
    return ""
