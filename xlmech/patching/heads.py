"""The heads that carry an answer to the last token, and what they attend to."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import Recorder
from xlmech.models.backends import backend_of
from xlmech.models.tokens import encode_probe
from xlmech.patching.between_languages import PatchingResult


def contrast_changes(effects: pd.DataFrame) -> pd.DataFrame:
    """Add `change`: how far the contrast moves from the unpatched run's, in nats; `effects` as of `PatchingResult`."""
    return effects.assign(change=effects.contrast - effects.clean_contrast)


def top_heads(heads: PatchingResult, n: int = 5) -> pd.DataFrame:
    """Rank heads by how much their z at the patched position changes the answer towards the source's value.

    Args:
        heads: Of component `heads`.
        n: How many to return.

    Returns:
        `layer`, `head`, `change` of the contrast (nats, mean over the pairs), highest first.

    Raises:
        ValueError: A result of another component.
    """
    if heads.component != "heads":
        raise ValueError(f"heads are ranked by patching component 'heads', not {heads.component!r}; patch them")
    means = contrast_changes(heads.effects).groupby(["layer", "head"]).change.mean().reset_index()
    return means.sort_values("change", ascending=False, ignore_index=True).head(n)


@torch.no_grad()
def attention_patterns(model: Any, probes: ProbeSet, heads: pd.DataFrame) -> pd.DataFrame:
    """Record what some heads attend to on each prompt.

    Args:
        model: Hooked model; ablations that are active on it are kept.
        probes: Prompts to run, without an answer.
        heads: `layer` and `head`, as of `top_heads`.

    Returns:
        One row per prompt, head, destination and source: `query_language`, `layer`, `head`, `destination`, `source`, `weight`.

    Raises:
        ValueError: No probes or no heads.
    """
    if not len(probes) or heads.empty:
        raise ValueError(f"{len(probes)} prompts and {len(heads)} heads: attention takes one of each at least")
    backend = backend_of(model)
    recorder = Recorder(backend, "attn.hook_pattern")
    tables = []
    for probe in probes:
        tokens = torch.tensor([encode_probe(backend, probe, languages=()).prompt])
        with backend.hooks(recorder.hooks()):
            backend.hidden(tokens)
        n = tokens.shape[1]
        destination, source = torch.tril_indices(n, n)
        for layer, head in zip(heads.layer, heads["head"], strict=True):
            weights = recorder.kept[layer][0, head].float().cpu()[:n, :n]
            columns = {"query_language": probe.query_language, "layer": layer, "head": head}
            columns |= {"destination": destination.numpy(), "source": source.numpy()}
            tables.append(pd.DataFrame(columns | {"weight": weights[destination, source].numpy()}))
    return pd.concat(tables, ignore_index=True)
