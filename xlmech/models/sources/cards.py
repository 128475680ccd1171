"""What stands beside the weights about a model: its card, and the manifest of a checkpoint that `export_model` wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

CARD = "README.md"
MANIFEST = "xlmech_manifest.json"
_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", re.DOTALL)


def model_card(location: str, revision: str = "") -> dict[str, Any]:
    """Return the front matter of a model's card; nothing where there is no card, or it cannot be read.

    Args:
        location: Folder, or hub id. The hub is asked once, and only if the card is not in this machine's cache; it is never asked
            about a folder or file, or where `HF_HUB_OFFLINE` is set.
        revision: Commit of the hub; the newest by default.
    """
    path = Path(location) / CARD if Path(location).exists() else _hub_card(location, revision)
    if path is None or not path.is_file():
        return {}
    found = _FRONT_MATTER.match(path.read_text(encoding="utf-8", errors="replace"))
    try:
        card = YAML(typ="safe", pure=True).load(found[1]) if found else None
    except YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def texts_in(card: dict[str, Any], key: str) -> list[str]:
    """Return what a card says under a key: one text or several, none where it says nothing."""
    value = card.get(key) or ()
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


def exported_prompt(folder: str) -> dict[str, Any] | None:
    """Return the prompt format that a checkpoint's manifest names; None without one, and in manifests of earlier versions.

    Raises:
        ValueError: The manifest cannot be read.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        prompt: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")).get("prompt")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a manifest of export_model, so the format of its prompts is not known; name one with prompt=, or "
            "export the model again"
        ) from error
    return prompt


def _hub_card(name: str, revision: str) -> Path | None:
    """Return the card of a model on the hub as a file in this machine's cache, None where it cannot be had."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    commit = revision or None
    try:
        cached = try_to_load_from_cache(name, CARD, revision=commit)
        if isinstance(cached, str):
            return Path(cached)
        if cached is not None or constants.HF_HUB_OFFLINE:  # known not to be there, or not to be looked for
            return None
        get_hf_file_metadata(hf_hub_url(name, CARD, revision=commit))  # fails at once; a download would try five times
        return Path(hf_hub_download(name, CARD, revision=commit))
    except Exception:  # whichever library huggingface_hub asks with; a card is no condition
        return None
