"""What an audit costs before it is run: operations and memory per stage, by formula, from a model's shape.

    shape_of(AutoConfig.from_pretrained("meta-llama/Meta-Llama-3-8B")).weight_bytes("bfloat16")

Operations are multiplications and additions of the matrix products, memory is weights, keys and values, and the activations
that a batch keeps. Not counted: what a process holds before it loads a model (about 0.7 GB with torch on a CPU), copies that a
library makes while loading, and the fragmentation of an allocator. On Llamas of 0.01 to 0.8 billion random weights, memory of a
batch as measured was 0.6 to 1.3 times the formula (`analyses/benchmarks/scaling.py models`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Stage = Literal["leakage", "lens", "locate", "patching", "deactivate"]
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
CONDITIONS = 2
"""Times that leakage is measured again in an audit: with the neurons deactivated, and with random ones."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder.

    Attributes:
        n_layers: Layers.
        d_model: Width of the residual stream.
        d_mlp: Neurons per layer.
        d_vocab: Tokens.
        d_query: Heads times their width.
        d_keys: Key heads times their width.
        gated: Whether the MLP has three matrices instead of two.
        tied: Whether embedding and unembedding are one.
    """

    n_layers: int
    d_model: int
    d_mlp: int
    d_vocab: int
    d_query: int
    d_keys: int
    gated: bool = True
    tied: bool = False

    @property
    def body(self) -> int:
        """Weights of all layers' matrices."""
        attention = 2 * self.d_model * (self.d_query + self.d_keys)
        return self.n_layers * (attention + (3 if self.gated else 2) * self.d_model * self.d_mlp)

    @property
    def unembedding(self) -> int:
        """Weights of the unembedding."""
        return self.d_vocab * self.d_model

    @property
    def n_parameters(self) -> int:
        """Weights of all matrices."""
        return self.body + self.unembedding * (1 if self.tied else 2)

    def weight_bytes(self, dtype: str = "bfloat16") -> int:
        """Memory of the weights."""
        return self.n_parameters * BYTES[dtype]

    def operations(self, stage: Stage, *, prompt: int = 24, answer: int = 8) -> float:
        """Operations per probe (per pair for `patching`).

        Args:
            stage: A stage of an audit, or `patching` (single layers at the last position).
            prompt: Tokens of the prompt.
            answer: Tokens that are written, or of the answer.
        """
        if stage == "deactivate":
            return CONDITIONS * self.operations("leakage", prompt=prompt, answer=answer)
        if stage == "leakage":
            return self._forward(prompt + answer) + 2 * self.unembedding * answer
        if stage == "lens":
            return self._forward(prompt) + 2 * self.unembedding * self.n_layers
        if stage == "locate":  # forward, and backward to the activations; the baseline's forward of a prompt
            there_and_back = 2 * self._forward(prompt + answer) + self._attention(prompt + answer)
            return there_and_back + 4 * self.unembedding * answer + self._forward(prompt)
        half = self._forward(1) / 2  # a row joins at its layer: on average half the layers are run
        return 2 * self._forward(prompt) + self.n_layers * (half + 2 * self.unembedding)

    def memory(
        self, stage: Stage, *, dtype: str = "bfloat16", batch: int = 16, prompt: int = 24, answer: int = 8
    ) -> float:
        """Bytes that a batch takes besides the weights: keys and values, and activations.

        Args:
            stage: As of `operations`.
            dtype: Of the weights.
            batch: Probes (pairs) at a time; all but those of leakage are of equal length.
            prompt: Tokens of the prompt.
            answer: Tokens that are written, or of the answer.
        """
        width, size = 12 * self.d_model + 6 * self.d_mlp, BYTES[dtype]
        keys = 2 * self.n_layers * self.d_keys * size
        if stage == "locate":  # all layers' activations are kept for the way back
            return batch * (prompt + answer) * (width * self.n_layers * size + keys)
        if stage == "patching":
            return batch * (prompt * (2 * width * size + keys) + self.n_layers * 2 * width * size)
        if stage == "lens":  # the residual streams are collected, and put together
            return batch * prompt * (2 * width * size + keys + 2 * self.n_layers * self.d_model * size)
        kept = 2 * (prompt + answer) * keys  # when answers are finished, the others' keys are copied
        return batch * (prompt * 2 * width * size + kept)

    def kept_bytes(self, n_languages: int = 1) -> int:
        """Bytes on disk of one part of attribution, apart from its top neurons: sums (8 bytes) and counts (4) per language."""
        return 12 * n_languages * self.n_layers * self.d_mlp

    def _forward(self, n_tokens: int) -> float:
        """Operations of a forward pass up to the last layer."""
        return 2.0 * self.body * n_tokens + self._attention(n_tokens)

    def _attention(self, n_tokens: int) -> float:
        """Operations of all scores and their sums, without the masked half; the way back takes twice as many."""
        return 4.0 * self.n_layers * self.d_query * n_tokens**2 / 2


LLAMA_3_8B = Shape(n_layers=32, d_model=4096, d_mlp=14336, d_vocab=128256, d_query=4096, d_keys=1024)
LLAMA_3_70B = Shape(n_layers=80, d_model=8192, d_mlp=28672, d_vocab=128256, d_query=8192, d_keys=1024)


def shape_of(config: Any) -> Shape:
    """Sizes of a model by its transformers config.

    Raises:
        ValueError: The config has no such sizes (an unusual architecture).
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads")
    sizes: list[Any] = [getattr(config, name, None) for name in names]
    if None in sizes:
        raise ValueError(f"the config of {config.model_type} has no {names[sizes.index(None)]}; its cost is not known")
    n_layers, d_model, d_vocab, n_heads = (int(size) for size in sizes)
    d_head = int(getattr(config, "head_dim", None) or d_model // n_heads)
    n_keys = int(getattr(config, "num_key_value_heads", None) or n_heads)
    d_mlp = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * d_model)
    return Shape(
        n_layers=n_layers,
        d_model=d_model,
        d_mlp=d_mlp,
        d_vocab=d_vocab,
        d_query=n_heads * d_head,
        d_keys=n_keys * d_head,
        gated=config.model_type not in ("gpt2", "gpt_neox", "bloom", "opt", "phi"),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )
