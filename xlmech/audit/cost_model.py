"""What each stage of an audit costs, by formula from a model's shape: operations and memory.

Operations are multiplications and additions of the matrix products. Memory is keys and values, and the activations that a
batch keeps. Not counted: the weights (`Shape.weight_bytes`), what a process holds before it loads a model (about 0.7 GB with
torch on a CPU), copies made while loading, and the fragmentation of an allocator. On Llamas of 0.01 to 0.8 billion random
weights, the measured memory of a batch was 0.6 to 1.3 times the formula (`analyses/benchmarks/scaling.py models`).
"""

from __future__ import annotations

from typing import Literal

from xlmech.models.shape import BYTES, Shape

Stage = Literal["leakage", "lens", "locate", "patching", "ablate", "gates"]
CONDITIONS = 2
"""Times that an audit measures leakage again: with the chosen neurons ablated, and with random ones."""
LLAMA_3_8B = Shape(n_layers=32, d_model=4096, d_mlp=14336, d_vocab=128256, d_query=4096, d_keys=1024)
LLAMA_3_70B = Shape(n_layers=80, d_model=8192, d_mlp=28672, d_vocab=128256, d_query=8192, d_keys=1024)


def operations(shape: Shape, stage: Stage, *, prompt: int = 24, answer: int = 8) -> float:
    """Count the operations per probe (per pair for `patching`; per answer or text of a step for `gates`).

    Args:
        shape: Sizes of the model.
        stage: A stage of an audit, or `patching` (single layers at the last position).
        prompt: Tokens of the prompt.
        answer: Tokens that are generated, or of the answer.
    """
    if stage == "ablate":
        return CONDITIONS * operations(shape, "leakage", prompt=prompt, answer=answer)
    if stage == "leakage":
        return forward_operations(shape, prompt + answer) + 2 * shape.unembedding * answer
    if stage == "lens":
        return forward_operations(shape, prompt) + 2 * shape.unembedding * shape.n_layers
    if stage in ("locate", "gates"):  # forward, and backward to the activations
        passes = 2 * forward_operations(shape, prompt + answer) + attention_operations(shape, prompt + answer)
        passes += 4 * shape.unembedding * answer
        return passes + (forward_operations(shape, prompt) if stage == "locate" else 0)  # the baseline's, of a prompt
    half = forward_operations(shape, 1) / 2  # an intervention joins at its layer: on average half the layers are run
    return 2 * forward_operations(shape, prompt) + shape.n_layers * (half + 2 * shape.unembedding)


def memory(
    shape: Shape, stage: Stage, *, dtype: str = "bfloat16", batch: int = 16, prompt: int = 24, answer: int = 8
) -> float:
    """Count the bytes that a batch takes besides the weights: keys and values, and activations.

    Args:
        shape: Sizes of the model.
        stage: As of `operations`.
        dtype: Of the weights.
        batch: Probes (pairs) at a time; all but those of leakage are of equal length.
        prompt: Tokens of the prompt.
        answer: Tokens that are generated, or of the answer.
    """
    size = BYTES[dtype]
    width = 12 * shape.d_model + 6 * shape.d_mlp
    keys = 2 * shape.n_layers * shape.d_keys * size
    if stage in ("locate", "gates"):  # all layers' activations are kept for the backward pass
        return batch * (prompt + answer) * (width * shape.n_layers * size + keys)
    if stage == "patching":
        return batch * (prompt * (2 * width * size + keys) + shape.n_layers * 2 * width * size)
    if stage == "lens":  # the residual streams are collected, and concatenated
        return batch * prompt * (2 * width * size + keys + 2 * shape.n_layers * shape.d_model * size)
    copied = 2 * (prompt + answer) * keys  # when some answers end, the others' keys are copied
    return batch * (prompt * 2 * width * size + copied)


def shard_bytes(shape: Shape, n_languages: int = 1) -> int:
    """Count the bytes on disk of one shard of attribution without its top neurons: sums (8) and counts (4) per neuron."""
    return 12 * n_languages * shape.n_layers * shape.d_mlp


def forward_operations(shape: Shape, n_tokens: int) -> float:
    """Count the operations of a forward pass up to the last layer."""
    return 2.0 * shape.body * n_tokens + attention_operations(shape, n_tokens)


def attention_operations(shape: Shape, n_tokens: int) -> float:
    """Count the operations of attention scores and their sums without the masked half; backward takes twice as many."""
    return 4.0 * shape.n_layers * shape.d_query * n_tokens**2 / 2
