"""How do time and memory grow: with prompts, prompt length, layers and vocabulary? And what does loading cost?

    python analyses/growth.py             # figures/growth.html and figures/growth.json
    python analyses/growth.py --loading   # figures/loading.json

Every point is a process of its own with one thread, which builds a Llama of random weights, does the work on one prompt to
warm up and on all for the clock, and reports the peak of its resident memory beyond what it held with the model. Loading is
compared with transformers' own `from_pretrained` on a folder of random weights, with both libraries imported before, up to
the end of a first forward pass: transformers maps the file, and reads what is used when it is used. Seconds are the
processor's, so that other work on the machine does not count.
"""

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
import tempfile
import time
from pathlib import Path
from typing import Any

from plotly.subplots import make_subplots

FIGURES = Path(__file__).parent.parent / "figures"
BASE = {"prompts": 8, "length": 32, "layers": 4, "vocabulary": 32_000}
CURVES = {
    "prompts": [4, 16, 64],
    "length": [16, 128, 1024],
    "layers": [2, 4, 8, 16],
    "vocabulary": [8_000, 64_000, 256_000],
}
WORKS = {
    "attribution": "integrated gradients of every neuron, last position",
    "leakage": "greedy answers of 8 tokens and 24 candidates",
}


def peak_mb(*, restart: bool = False) -> float:
    """The highest resident memory so far, or from now on where `restart` (Linux; elsewhere since the start)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def give_back_free_memory() -> None:
    """What loading used and freed goes back to the system: else the work would use it unseen (glibc; elsewhere nothing)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def network(layers: int, vocabulary: int, width: int = 256) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def point(work: str, prompts: int, length: int, layers: int, vocabulary: int) -> dict[str, float]:
    """Seconds and megabytes of one piece of work, in this process."""
    import torch

    from xlmech import load_model
    from xlmech.engine.batching import run_forced
    from xlmech.engine.generate import answer_log_probs, generate
    from xlmech.models.backends import NEURON_HOOK, backend_of
    from xlmech.models.checkpoints import load_tokenizer
    from xlmech.models.gguf import demo_base
    from xlmech.neurons.attribution.effects import integrated_gradients

    tokenizer = load_tokenizer(demo_base())
    model = load_model(
        network(layers, vocabulary), tokenizer=tokenizer, backend="bridge", dtype="float32", device="cpu"
    )
    backend = backend_of(model)
    tokens = torch.randint(3, 7_000, (prompts, length), generator=torch.Generator().manual_seed(1)).tolist()
    candidates = [[3 + number, 100 + number, 200 + number] for number in range(24)]

    def attribute(some: list[list[int]]) -> None:
        for prompt in some:
            forced = run_forced(backend, prompt, [5], NEURON_HOOK)
            integrated_gradients(backend, forced, 0.9 * forced.activations, nodes=4, positions="last")

    def leak(some: list[list[int]]) -> None:
        generate(backend, some, max_new_tokens=8)
        answer_log_probs(backend, some, [candidates] * len(some))

    run = attribute if work == "attribution" else leak
    give_back_free_memory()
    peak_mb(restart=True)
    before = resident_mb()
    run(tokens[:1])
    started = time.process_time()
    run(tokens)
    return {"seconds": time.process_time() - started, "peak_mb": max(0.0, peak_mb() - before)}


def load(folder: str, how: str) -> dict[str, float]:
    """Seconds and peak megabytes of loading a folder with xlmech or transformers."""
    import torch
    import transformers
    from transformer_lens.model_bridge import TransformerBridge  # noqa: F401 (imported before the clock starts)
    from transformers import LlamaForCausalLM  # noqa: F401 (the same)

    import xlmech

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before, started = resident_mb(), time.process_time()
    if how == "xlmech":
        model = xlmech.load_model(folder, tokenizer=tokenizer, dtype="float32", device="cpu")
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = time.process_time() - started
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7]]))
    weights = sum(weight.numel() * weight.element_size() for weight in set(model.parameters())) / 2**20
    seconds = time.process_time() - started
    return {"seconds": seconds, "of_it_loading": loaded, "peak_mb": peak_mb() - before, "weights_mb": weights}


def in_own_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return json.loads(found.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def loading(repeats: int = 3) -> list[dict[str, Any]]:
    from xlmech.models.checkpoints import load_tokenizer
    from xlmech.models.gguf import demo_base

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network(24, 64_000, 1024).save_pretrained(folder)
        load_tokenizer(demo_base()).save_pretrained(folder)
        for number in range(repeats + 1):
            for how in ("transformers", "xlmech"):
                found = in_own_process("--load", folder, "--how", how)
                if number:  # the first reads the file into the page cache
                    rows.append({"how": how} | found)
    return rows


def draw(rows: list[dict[str, Any]]) -> None:
    from xlmech.figures import TEMPLATE

    figure = make_subplots(rows=2, cols=len(CURVES), shared_xaxes=True, vertical_spacing=0.08, horizontal_spacing=0.06)
    for column, axis in enumerate(CURVES, start=1):
        for color, work in zip(("#0072B2", "#D55E00"), WORKS, strict=True):
            mine = [row for row in rows if row["axis"] == axis and row["work"] == work]
            for line, unit in enumerate(("seconds", "peak_mb"), start=1):
                figure.add_scatter(
                    x=[row["value"] for row in mine], y=[row[unit] for row in mine], row=line, col=column, name=work,
                    legendgroup=work, showlegend=column == line == 1, marker_color=color, mode="lines+markers",
                )  # fmt: skip
        figure.update_xaxes(title_text=axis, row=2, col=column)
    figure.update_xaxes(
        type="log", tickvals=sorted({value for values in CURVES.values() for value in values}), tickformat="~s"
    )
    figure.update_yaxes(type="log", tickvals=[digit * 10**power for power in range(-1, 4) for digit in (1, 2, 5)])
    figure.update_yaxes(title_text="processor seconds", row=1, col=1)
    figure.update_yaxes(title_text="peak MB beyond the model", row=2, col=1)
    figure.update_layout(
        template=TEMPLATE, height=560, width=1150, title_text="What grows how: random Llama, 2 to 16 layers of 256",
        showlegend=True, legend_y=0.93, margin={"t": 90, "b": 60},
    )  # fmt: skip
    figure.write_html(FIGURES / "growth.html", include_plotlyjs="demo/plotly.min.js", config={"displaylogo": False})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", help="measure one point in this process: JSON of its arguments")
    parser.add_argument("--load", help="measure loading this folder in this process")
    parser.add_argument("--loading", action="store_true", help="loading alone: figures/loading.json")
    parser.add_argument("--how", choices=["xlmech", "transformers"], default="xlmech")
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(point(**json.loads(arguments.point))))
        return
    if arguments.load:
        print(json.dumps(load(arguments.load, arguments.how)))
        return
    if arguments.loading:
        found_loading = loading()
        (FIGURES / "loading.json").write_text(json.dumps(found_loading, indent=1) + "\n")
        print(json.dumps(found_loading))
        return
    rows = []
    for work in WORKS:
        for axis, values in CURVES.items():
            for value in values:
                found = in_own_process("--point", json.dumps(BASE | {"work": work, axis: value}))
                rows.append({"work": work, "axis": axis, "value": value} | found)
                print(json.dumps(rows[-1]), flush=True)
    draw(rows)
    (FIGURES / "growth.json").write_text(json.dumps({"base": BASE, "works": WORKS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
