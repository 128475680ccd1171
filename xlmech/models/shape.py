"""Sizes of a model, read from its config before it is loaded.

shape_of(AutoConfig.from_pretrained("meta-llama/Meta-Llama-3-8B")).weight_bytes("bfloat16")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_NEURONS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
"""Names of the number of neurons in configs; where all are missing it is four times the width."""
_PLAIN_MLP = frozenset(
    {
        "gpt2",
        "gpt_neo",
        "gptj",
        "gpt_neox",
        "gpt_bigcode",
        "codegen",
        "opt",
        "xglm",
        "bloom",
        "falcon",
        "mpt",
        "phi",
        "starcoder2",
    }
)
"""Families whose MLP has two matrices."""


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
        tied: Whether embedding and unembedding are one matrix.
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
        """Number of weights in all layers' matrices."""
        attention = 2 * self.d_model * (self.d_query + self.d_keys)
        return self.n_layers * (attention + (3 if self.gated else 2) * self.d_model * self.d_mlp)

    @property
    def unembedding(self) -> int:
        """Number of weights in the unembedding."""
        return self.d_vocab * self.d_model

    @property
    def n_parameters(self) -> int:
        """Number of weights in all matrices."""
        return self.body + self.unembedding * (1 if self.tied else 2)

    def weight_bytes(self, dtype: str = "bfloat16") -> int:
        """Return the memory that the weights take."""
        return self.n_parameters * BYTES[dtype]


def shape_of(config: Any) -> Shape:
    """Read a model's sizes from its transformers config.

    Raises:
        ValueError: The config has no such sizes (an unusual architecture).
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads")
    sizes: list[Any] = [getattr(config, name, None) for name in names]
    if None in sizes:
        raise ValueError(f"the config of {config.model_type} has no {names[sizes.index(None)]}; its cost is not known")
    n_layers, d_model, d_vocab, n_heads = map(int, sizes)
    d_head = int(getattr(config, "head_dim", None) or d_model // n_heads)
    n_keys = int(getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or n_heads)
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        n_keys = 1
    return Shape(
        n_layers=n_layers,
        d_model=d_model,
        d_mlp=int(next(filter(None, (getattr(config, name, None) for name in _NEURONS)), 4 * d_model)),
        d_vocab=d_vocab,
        d_query=n_heads * d_head,
        d_keys=n_keys * d_head,
        gated=config.model_type not in _PLAIN_MLP,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )
