"""Write the model card of an exported checkpoint, for people to read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from xlmech.mitigation.export.effect import UNMEASURED

if TYPE_CHECKING:
    from xlmech.mitigation.export.manifest import Manifest

_COLUMNS = ("condition", "group", "query_language", "before", "after", "reduction", "low", "high", "rise")


def model_card(manifest: Manifest, manifest_name: str) -> str:
    """Return the model card (Markdown) of the checkpoint whose manifest has that file name."""
    made, neurons, check = manifest.provenance, manifest.neurons, manifest.verification
    ablated = {
        "zero": "set to zero",
        "mean": "fixed at their mean",
        "scale": f"multiplied by {manifest.factor:g}",
        "gates": "multiplied by learned factors between 0 and 1 (gates)",
    }
    what, done = ("gates", "applied") if manifest.mode == "gates" else ("privacy neurons", "ablated")
    source = f"`{made.model}`" + (f" with the adapter `{made.adapter}` merged" if made.adapter else "")
    layers = "\n".join(f"| {layer} | {len(indices)} |" for layer, indices in neurons.by_layer().items())
    base = f"base_model: {made.model}\n" if made.model.count("/") == 1 else ""
    title, warning = f"{made.model} with {len(neurons)} {what} {done}", ""
    if manifest.effective is False:
        title += ", without a measured effect"
        warning = f"**No effect was measured: {manifest.effect}.** Do not take this for a model that leaks less.\n\n"
    languages = {row["query_language"] for row in (manifest.mitigation or {}).get("effects", ())}
    across = "" if len(languages) == 1 else " across languages"
    return f"""---
library_name: transformers
{base}tags:
- xlmech
- privacy
---

# {title}

{warning}{source}, with {len(neurons)} of its {neurons.n_layers * neurons.d_mlp} MLP neurons {ablated[manifest.mode]} in the
weights, to lower how much personal data it leaks{across}. It is a plain checkpoint:
`AutoModelForCausalLM.from_pretrained` reads it, and nothing else is needed. `{manifest_name}` lists the neurons and their origin.

| layer | neurons |
|---|---|
{layers}
{_factors(manifest)}
## Checked

The checkpoint was reloaded by transformers alone and run on {int(check["n_texts"])} texts. Its logits differ from those of the
source with the same {what} {done} by hooks by at most {check["max_relative_error"]:.1e} of the largest logit. By itself that
changes the logits by {check["max_relative_change"]:.1e}.

## Measured

{_measured(manifest)}

{_asked(manifest)}## What this is not

This is no proof that nothing is left. The other weights are those of the source: what the neurons told may be stored elsewhere
too, and fine-tuning, other wordings or repeated sampling may bring it back. Measure it on your own data before you rely on it.

Made with xlmech {made.versions.get("xlmech", "")}, transformers {made.versions.get("transformers", "")}, {made.time}.
"""


def _asked(manifest: Manifest) -> str:
    """Say in which prompt format the model was measured; nothing where that is not known."""
    if manifest.prompt is None:
        return ""
    template = manifest.prompt["template"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", template)), default=0))
    return (
        f"## Asked\n\nIn the prompt format `{manifest.prompt['name']}`, which xlmech takes for this checkpoint. The answer "
        f"follows this text directly:\n\n{fence}text\n{template}\n{fence}\n\n"
    )


def _factors(manifest: Manifest) -> str:
    if not manifest.factors:
        return ""
    mean, low = sum(manifest.factors) / len(manifest.factors), min(manifest.factors)
    return f"\nThe mean factor of these neurons is {mean:.2f}, the lowest {low:.2f}; all others are as they were.\n"


def _measured(manifest: Manifest) -> str:
    mitigation = manifest.mitigation
    if mitigation is None:
        return f"{_capitalised(UNMEASURED)}."
    effect = f"{_capitalised(manifest.effect)}.\n\n" if manifest.effect else ""
    rises = {(row["condition"], row["query_language"]): row.get("rise") for row in mitigation["cost"]}
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for row in mitigation["effects"]:
        cells = row | {"rise": rises.get((row["condition"], row["query_language"]))}
        lines.append(f"| {' | '.join(_cell(cells.get(name)) for name in _COLUMNS)} |")
    sizes = ", ".join(f"{name} {size}" for name, size in mitigation["sizes"].items())
    return effect + (
        "Extraction before and after, reduction with its 95 % interval, and `rise`, the relative rise of the negative "
        f"log-likelihood of neutral text. Neurons per condition: {sizes}.\n\n" + "\n".join(lines)
    )


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
