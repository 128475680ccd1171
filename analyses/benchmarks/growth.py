"""How do time and memory grow with prompts, prompt length, layers and vocabulary, and what does loading cost?

Writes `figures/benchmarks/growth.json`, `growth.html` and, with `--loading`, `loading.json`.

    python analyses/benchmarks/growth.py
    python analyses/benchmarks/growth.py --loading

Every point runs in a process of its own with one thread. The process builds a Llama of random weights, does the work on one
prompt to warm up and then on all prompts for the clock. It reports the peak of its resident memory beyond what it held with
the model. Loading is compared with transformers' `from_pretrained` on a folder of random weights. Both libraries are imported
before the clock starts, and it stops after a first forward pass, because transformers maps the file and reads weights when
they are used. Seconds are the processor's, so other work on the machine does not count.
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

import drawing
from measuring import (
    give_back_free_memory,
    in_own_process,
    parser_of,
    peak_mb,
    resident_mb,
    save_byte_tokenizer,
    save_json,
    save_page,
)

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
    """Measure seconds and MiB of one kind of work in this process."""
    import torch

    from xlmech import load_model
    from xlmech.engine.batching import run_forced
    from xlmech.engine.generate import generate
    from xlmech.engine.score import answer_log_probs
    from xlmech.models.backends import NEURON_HOOK, backend_of
    from xlmech.neurons.attribution.effects import integrated_gradients

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = save_byte_tokenizer(folder, vocabulary)
        plain = network(layers, vocabulary)
        model = load_model(plain, tokenizer=tokenizer, backend="bridge", dtype="float32", device="cpu")
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
    """Measure seconds and peak MiB of loading a folder with xlmech or transformers."""
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


def loading(repeats: int = 3) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        network(24, 64_000, 1024).save_pretrained(folder)
        save_byte_tokenizer(folder, 64_000)
        for number in range(repeats + 1):
            for how in ("transformers", "xlmech"):
                found = in_own_process(__file__, "--load", folder, "--how", how)
                if number:  # the first reads the file into the page cache
                    rows.append({"how": how} | found)
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--point", help="measure one point in this process: JSON of its arguments")
    parser.add_argument("--load", help="measure loading this folder in this process")
    parser.add_argument("--loading", action="store_true", help="measure loading only")
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
        save_json(found_loading, "loading")
        print(json.dumps(found_loading))
        return
    rows = []
    for work in WORKS:
        for axis, values in CURVES.items():
            for value in values:
                found = in_own_process(__file__, "--point", json.dumps(BASE | {"work": work, axis: value}))
                rows.append({"work": work, "axis": axis, "value": value} | found)
                print(json.dumps(rows[-1]), flush=True)
    save_page(drawing.growth(rows), "growth")
    save_json({"base": BASE, "works": WORKS, "rows": rows}, "growth")


if __name__ == "__main__":
    main()
