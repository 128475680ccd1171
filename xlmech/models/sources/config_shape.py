"""Read a model's sizes from its source before any weight is loaded: nothing is downloaded, unpacked or written."""

from __future__ import annotations

from pathlib import Path

from xlmech.models.shape import Shape, shape_of
from xlmech.models.sources.files import check_folder, check_not_pointer
from xlmech.models.sources.lora import base_of, is_adapter_folder
from xlmech.models.sources.weight_checks import first_line

DEMO_SHAPE = Shape(n_layers=18, d_model=640, d_mlp=2048, d_vocab=262144, d_query=1024, d_keys=256, tied=True)
"""Gemma 3 270M, the demo's base model."""
_DEMO_BASE = "google/gemma-3-270m"


def shape_of_source(source: str, *, trust_remote_code: bool = False) -> tuple[Shape | None, str]:
    """Return a model's sizes, and "" or why they are not known.

    Args:
        source: As of `load_model`: `demo`, a folder (of an adapter too), a `.gguf` file, or a hub id, whose config is taken from
            the local cache alone.
        trust_remote_code: Passed to transformers.

    Raises:
        FileNotFoundError: A path that does not exist.
        ValueError: Files that are cut short or Git LFS pointers.
    """
    path = Path(source)
    if path.is_dir() and is_adapter_folder(path):
        source, path = base_of(path), Path(base_of(path))
    if source in ("demo", _DEMO_BASE):
        return DEMO_SHAPE, ""
    options: dict[str, str] = {}
    place: str | Path = source
    if source.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"no GGUF file at {path}")
        check_not_pointer(path)
        place, options = path.absolute().parent, {"gguf_file": path.name}
    elif path.is_dir():
        check_folder(path)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            place, trust_remote_code=trust_remote_code, local_files_only=True, **options
        )
        return shape_of(config), ""
    except (OSError, ValueError, ImportError, KeyError) as error:
        if path.exists():
            return None, f"its config cannot be read ({first_line(error)})"
        return None, "it is not on this machine; the run asks the hub for it"
