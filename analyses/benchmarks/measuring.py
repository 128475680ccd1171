"""Measure seconds and memory of a process, and write what benchmarks find to `figures/benchmarks/`."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures" / "benchmarks"


def peak_mb(*, restart: bool = False) -> float:
    """Return the highest resident memory so far, in MiB; with `restart`, count from now on (Linux only)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def resident_mb() -> float:
    """Return the resident memory now, in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def give_back_free_memory() -> None:
    """Return freed memory to the system (glibc only); otherwise later work would use it without being counted."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script with one thread in a process of its own, and read the JSON of its last line.

    Raises:
        RuntimeError: The script failed; shows the end of what it wrote to stderr.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def save_byte_tokenizer(folder: str | Path, n_tokens: int) -> Any:
    """Save a byte-level tokenizer of `n_tokens` tokens, of which text uses 259, and return it as read from the folder."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokens = ["<pad>", "<eos>", "<bos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<unused {number}>" for number in range(len(tokens), n_tokens)]
    tokenizer = Tokenizer(BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def save_page(figure: Any, name: str) -> None:
    """Write `figures/benchmarks/<name>.html`, which reads the demo's `plotly.min.js` and so stays small."""
    from xlmech.figures import saving

    saving.write(FIGURES / f"{name}.html", saving.page_of(figure, plotlyjs="../demo/plotly.min.js"))


def save_json(value: Any, name: str) -> None:
    """Write `figures/benchmarks/<name>.json`; a file that is there is replaced when the new one is whole."""
    partial = FIGURES / f".{name}.partial"
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(FIGURES / f"{name}.json")


def parser_of(docstring: str | None) -> argparse.ArgumentParser:
    """Make a command's parser, whose help is the script's docstring."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
