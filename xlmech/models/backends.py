"""The two kinds of hooked model behind one interface: TransformerBridge and HookedTransformer.

What they do differently when xlmech runs them (key/value cache, unembedding) is in the two subclasses of `Backend`. Each is
loaded in `xlmech.models.load`, and its own calls are followed in `xlmech.models.sequence_positions`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from xlmech.models.kv_cache import EmptyEntry, KeyValues
from xlmech.models.onednn import faster

HookFunction = Callable[..., torch.Tensor | None]
NEURON_HOOK = "mlp.hook_post"
"""Hook point of MLP neurons: their activations after the nonlinearity (and the gate)."""


def is_hooked(model: Any) -> bool:
    """Tell whether `model` is a HookedTransformer or TransformerBridge."""
    return not isinstance(model, str | Path) and hasattr(model, "hook_dict") and hasattr(model, "run_with_hooks")


def logit_scale(network: Any) -> float:
    """Return the factor by which a transformers model multiplies what its unembedding gives, 1 for most.

    Cohere's models have `logit_scale`; Granite's divide by `logits_scaling`.
    """
    scale = getattr(network, "logit_scale", None)
    if scale is None and str(network.config.model_type).startswith("granite"):
        scale = 1 / float(network.config.logits_scaling)
    return 1.0 if scale is None else float(scale)


class Backend(ABC):
    """One hooked model as the engine sees it.

    Attributes:
        model: The TransformerLens model.
        name: `hooked` or `bridge`.
    """

    name: str

    def __init__(self, model: Any) -> None:
        self.model = model
        self.n_layers = int(model.cfg.n_layers)
        self.d_model = int(model.cfg.d_model)
        self.d_mlp = int(model.cfg.d_mlp or 0)
        self.n_ctx = int(model.cfg.n_ctx)
        source = getattr(model, "xlmech_source", None)
        self.tokenizer = source.tokenizer if source else model.tokenizer
        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer; pass tokenizer= to load_model")

    @cached_property
    def points(self) -> dict[str, Any]:
        """Hook points by name; the bridge builds its dictionary anew at every access."""
        return self.model.hook_dict  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return self.unembed.device

    @property
    @abstractmethod
    def unembed(self) -> torch.Tensor:
        """(d_vocab, d_model) unembedding."""

    @property
    @abstractmethod
    def unembed_bias(self) -> torch.Tensor | None:
        """(d_vocab,) bias of the unembedding."""

    @property
    @abstractmethod
    def softcap(self) -> float | None:
        """Final soft-cap of the logits."""

    @abstractmethod
    def first_joinable_layer(self, n_rows: int) -> int:
        """Return the first layer at whose entry a batch of `n_rows` may grow; `n_layers` where it never may."""

    @abstractmethod
    def hidden(self, tokens: torch.Tensor, past: KeyValues | None = None) -> tuple[torch.Tensor, KeyValues]:
        """Run (row, position) `tokens` after `past`; hooks are called, no logits are computed.

        Returns:
            (row, position, d_model) hidden states after the final norm, as `final_norm` gives them, and the keys and values of
            past and tokens.
        """

    def final_norm(self, resid: torch.Tensor) -> torch.Tensor:
        """Apply the model's own final norm, and its logit scale if it has one, to a residual stream.

        The logits are then the product with `unembed`, plus `unembed_bias`, soft-capped: so a scale is known here alone.
        """
        return self.model.ln_final(resid)  # type: ignore[no-any-return]

    @property
    def unembed_options(self) -> dict[str, Any]:
        """Keyword arguments of the functions in `xlmech.engine.unembed`."""
        return {"bias": self.unembed_bias, "softcap": self.softcap}

    def hook_name(self, component: str, layer: int) -> str:
        """Return the full name of a hook point of one layer, e.g. of `mlp.hook_post`.

        Raises:
            ValueError: The architecture has no such hook point (names those it has), or neurons of a mixture of experts are
                wanted, where the bridge names the layer's output `mlp.hook_post`.
        """
        prefix = f"blocks.{layer}."
        has_experts = any(
            key.startswith(f"{prefix}mlp.") and ("expert" in key or "router" in key) for key in self.points
        )
        if component.startswith("mlp.hook_p") and has_experts:
            raise ValueError(
                f"layer {layer} is a mixture of experts: its neurons belong to experts that only some tokens visit, and xlmech "
                "reads and changes neurons of dense MLPs only. hook_resid_post, hook_attn_out and hook_mlp_out work here"
            )
        if prefix + component not in self.points:
            components = sorted(key.removeprefix(prefix) for key in self.points if key.startswith(prefix))
            raise ValueError(
                f"this architecture has no hook point {component!r} in layer {layer}; it has {', '.join(components)}"
            )
        return prefix + component

    @contextmanager
    def hooks(self, hooks: Sequence[tuple[str, HookFunction]]) -> Iterator[None]:
        """Add forward hooks (name, function) for the block; exactly these are removed on any exit."""
        added = []
        try:
            for name, function in hooks:
                point = self.points[name]
                point.add_hook(function)
                added.append((point, point.fwd_hooks[-1]))
            yield
        finally:
            for point, handle in added:
                handle.hook.remove()
                point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]


class BridgeBackend(Backend):
    """TransformerBridge: the wrapped transformers model is run itself, below its language-model head."""

    name = "bridge"

    @property
    def _trunk(self) -> Any:
        network = self.model.original_model
        return getattr(network, network.base_model_prefix)

    def first_joinable_layer(self, n_rows: int) -> int:
        """Masks and ALiBi biases are made per row before the first layer: only a single row's mask fits rows that join."""
        return 0 if n_rows == 1 and not hasattr(self._trunk, "build_alibi_tensor") else self.n_layers

    @cached_property
    def _linear_layers(self) -> list[torch.nn.Linear]:
        return [layer for layer in self._trunk.modules() if type(layer) is torch.nn.Linear]

    @cached_property
    def _head(self) -> Any:
        head = self.model.original_model.get_output_embeddings()
        return getattr(head, "original_component", head)

    @property
    def _logit_scale(self) -> float:
        return logit_scale(self.model.original_model)

    def final_norm(self, resid: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return _scaled(super().final_norm(resid), self._logit_scale)

    @property
    def unembed(self) -> torch.Tensor:  # noqa: D102
        return self._head.weight  # type: ignore[no-any-return]

    @cached_property
    def unembed_bias(self) -> torch.Tensor | None:  # noqa: D102
        return _bias(getattr(self._head, "bias", None))

    @property
    def softcap(self) -> float | None:  # noqa: D102
        return getattr(self.model.original_model.config, "final_logit_softcapping", None)

    def hidden(self, tokens: torch.Tensor, past: KeyValues | None = None) -> tuple[torch.Tensor, KeyValues]:  # noqa: D102
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(self.n_layers if past else 0):
            cache.update(past.keys[layer], past.values[layer], layer)  # type: ignore[union-attr]
        options: dict[str, Any] = {"input_ids": tokens.to(self.device), "past_key_values": cache, "use_cache": True}
        if past is not None and past.padding is not None:
            mask = past.mask(tokens.shape[1])
            options |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1)[:, past.n_positions :]}
        with faster(self._linear_layers):
            output = self._trunk(**options)
        layers = output.past_key_values.layers
        after = KeyValues(
            keys=tuple(layer.keys for layer in layers),
            values=tuple(layer.values for layer in layers),
            padding=past.padding if past else None,
        )
        return _scaled(output.last_hidden_state, self._logit_scale), after


class HookedBackend(Backend):
    """HookedTransformer: run up to the last residual stream, because its unembedding copies its weights."""

    name = "hooked"

    def first_joinable_layer(self, n_rows: int) -> int:  # noqa: ARG002 (one row of mask serves all)
        """Without padding there is no mask at all, and every layer takes any number of rows."""
        return 0

    @property
    def unembed(self) -> torch.Tensor:  # noqa: D102
        return self.model.W_U.T  # type: ignore[no-any-return]

    @cached_property
    def unembed_bias(self) -> torch.Tensor | None:  # noqa: D102
        return _bias(self.model.unembed.b_U)

    @property
    def softcap(self) -> float | None:  # noqa: D102
        cap = float(getattr(self.model.cfg, "output_logits_soft_cap", 0) or 0)
        return cap if cap > 0 else None

    def hidden(self, tokens: torch.Tensor, past: KeyValues | None = None) -> tuple[torch.Tensor, KeyValues]:  # noqa: D102
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache as Cache
        from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry as Entry

        cache = Cache.init_cache(self.model.cfg, self.device, len(tokens))
        tokens = tokens.to(self.device)
        if past is None:
            cache.entries = [EmptyEntry(entry.past_keys, entry.past_values) for entry in cache.entries]
        else:
            cache.entries = [
                Entry(past_keys=keys.transpose(1, 2), past_values=values.transpose(1, 2))
                for keys, values in zip(past.keys, past.values, strict=True)
            ]
        padding = past.padding if past else None
        if past is not None and padding is not None:
            cache.previous_attention_mask = past.mask(0).int()
            options: dict[str, Any] = {"input": tokens, "attention_mask": torch.ones_like(tokens, dtype=torch.int)}
        else:  # started below the first layer without a mask, so that rows may join
            embedded = self.model.hook_embed(self.model.embed(tokens))
            offset = past.n_positions if past else 0
            resid = self.model.get_residual(embedded, offset, tokens=tokens, return_shortformer_pos_embed=False)
            options = {"input": resid, "start_at_layer": 0}
        resid = self.model(**options, past_kv_cache=cache, stop_at_layer=self.n_layers)
        after = KeyValues(
            keys=tuple(entry.past_keys.transpose(1, 2) for entry in cache.entries),
            values=tuple(entry.past_values.transpose(1, 2) for entry in cache.entries),
            padding=padding,
        )
        return self.final_norm(resid), after


def _scaled(hidden: torch.Tensor, scale: float) -> torch.Tensor:
    return hidden if scale == 1 else hidden * scale


def _bias(bias: torch.Tensor | None) -> torch.Tensor | None:
    """Drop a bias of zeros, which TransformerLens gives to models without one: it would be added to every logit."""
    return None if bias is None or not bias.any() else bias.detach()


def backend_of(model: Any) -> Backend:
    """Return the engine's view of a hooked model.

    Raises:
        ValueError: `model` is not hooked, or has no tokenizer.
    """
    if isinstance(model, Backend):
        return model
    if not is_hooked(model):
        raise ValueError(
            f"expected a HookedTransformer or TransformerBridge, got {type(model).__name__}; use load_model"
        )
    return BridgeBackend(model) if hasattr(model, "original_model") else HookedBackend(model)
