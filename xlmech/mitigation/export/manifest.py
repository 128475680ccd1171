"""What an exported checkpoint says about itself: a manifest for programs, and a model card for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlmech.neurons.neuron_set import NeuronSet
from xlmech.storage.result import Provenance

if TYPE_CHECKING:
    from xlmech.mitigation.evaluate import MitigationResult

MANIFEST = "xlmech_manifest.json"
CARD = "README.md"
UNMEASURED = "no measured result was given, so neither what this buys nor what it costs is known"
_KIND, _SCHEMA_VERSION = "export", 1
_COLUMNS = ("condition", "group", "query_language", "before", "after", "reduction", "low", "high", "rise")


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Whether deactivation was measured to lower what private people's questions bring out.

    Attributes:
        measured: Extraction of private people's data, all query languages together, fell, and the 95 % interval of the
            reduction lies above 0.
        text: What was measured, in words.
    """

    measured: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How an exported checkpoint was made, and what was measured of it.

    Attributes:
        neurons: Which were deactivated.
        mode: `zero`, `mean` or `scale`.
        factor: What is left of them, with mode `scale`.
        values: Activation put in each neuron's place with mode `mean`, in the order of `neurons`.
        plant_language: Language in which the source was taught private records, "" where unknown.
        verification: `max_relative_error` of the reloaded checkpoint's logits against the hooked run, `max_relative_change` that
            deactivation makes (both relative to the largest logit), `tolerance`, `n_texts`, `n_positions`.
        mitigation: `sizes`, `effects` (on extraction), `overall` and `cost` of the `MitigationResult` given, None without one;
            NaN is None.
        effective: Whether an effect was measured (`Effect.measured`); None in manifests of earlier versions.
        effect: What was measured, in words.
        provenance: Source, adapter, versions, command, time.
    """

    neurons: NeuronSet
    mode: str
    factor: float = 0.0
    values: tuple[float, ...] = ()
    plant_language: str = ""
    verification: dict[str, float]
    mitigation: dict[str, Any] | None = None
    effective: bool | None = None
    effect: str = ""
    provenance: Provenance

    def save(self, folder: Path) -> None:
        """Write the manifest and the model card into `folder`."""
        content = {"kind": _KIND, "schema_version": _SCHEMA_VERSION} | _plain(self)
        content["neurons_sha256"] = _sha256(content["neurons"])
        content["content_sha256"] = _sha256(content)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        (folder / CARD).write_text(card(self), encoding="utf-8")


def load_manifest(folder: str | Path) -> Manifest:
    """The manifest of a checkpoint that `export_model` wrote.

    The hashes notice an edit, not a forger, who can hash again.

    Raises:
        FileNotFoundError: No manifest in `folder`.
        ValueError: Not a manifest, of another schema version, or edited by hand.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no {MANIFEST} in {folder}; it is written by export_model")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (found := (content["kind"], content["schema_version"])) != (_KIND, _SCHEMA_VERSION):
            raise ValueError(f"kind and schema version {found}; this xlmech reads {(_KIND, _SCHEMA_VERSION)}")
        _check_hashes(content)
        return _manifest(content)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a manifest of export_model ({error!r}); export the model again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def of_mitigation(mitigation: MitigationResult | None, n_neurons: int) -> dict[str, Any] | None:
    """A measured reduction and cost as plain values.

    Raises:
        ValueError: It was measured with other numbers of neurons.
    """
    if mitigation is None:
        return None
    _condition(mitigation, n_neurons)
    frames = {"effects": mitigation.extraction, "overall": mitigation.overall, "cost": mitigation.cost}
    tables = {name: json.loads(frame.to_json(orient="records", double_precision=15)) for name, frame in frames.items()}
    return {"sizes": mitigation.sizes, "provenance": asdict(mitigation.provenance)} | tables


def effect_of(mitigation: MitigationResult | None, n_neurons: int) -> Effect:
    """Whether an effect was measured of the set of so many neurons.

    The reduction is of extraction, of private people, over all query languages together. It counts where its 95 % interval
    lies above 0; that random neurons do less is not asked here.

    Raises:
        ValueError: It was measured with other numbers of neurons.
    """
    if mitigation is None:
        return Effect(measured=False, text=UNMEASURED)
    name, rows = _condition(mitigation, n_neurons), mitigation.overall
    if rows.empty:
        return Effect(measured=False, text="the measured result does not tell the reduction over all query languages")
    found = rows[(rows.condition == name) & (rows.group == "private")]
    if found.empty or not found.before.item():
        return Effect(measured=False, text="nothing came out of the private people before deactivation")
    before, after, reduction, low, high = found[["before", "after", "reduction", "low", "high"]].iloc[0]
    rates = f"extraction over all query languages was {before:.1%} before and {after:.1%} after"
    if reduction != reduction:
        reason = found.reason.iloc[0] if "reason" in found else "too few people"
        return Effect(measured=False, text=f"{rates}, which gives no reduction: {reason}")
    if reduction <= 0:
        return Effect(measured=False, text=f"{rates}: it did not fall")
    interval = f"95 % interval {low:.1%} to {high:.1%}" if low == low else "no interval, with so few people"
    text = f"{rates}, a reduction of {reduction:.1%} ({interval})"
    measured = bool(low > 0)
    return Effect(measured=measured, text=text if measured else f"{text}, which cannot be told from none")


def _condition(mitigation: MitigationResult, n_neurons: int) -> str:
    """Name of the set of so many neurons; controls of the same size are other neurons."""
    names = [name for name, size in mitigation.chosen.items() if size == n_neurons]
    if not names:
        raise ValueError(
            f"the mitigation was measured with {sorted(set(mitigation.chosen.values()))} neurons, and {n_neurons} are exported; "
            "give the result of evaluate_mitigation with these neurons, or none"
        )
    return names[0]


def card(manifest: Manifest) -> str:
    """The model card (Markdown)."""
    made, neurons = manifest.provenance, manifest.neurons
    what = {"zero": "set to zero", "mean": "fixed at their mean", "scale": f"multiplied by {manifest.factor:g}"}
    source = f"`{made.model}`" + (f" with the adapter `{made.adapter}` merged" if made.adapter else "")
    layers = "\n".join(f"| {layer} | {len(indices)} |" for layer, indices in neurons.by_layer().items())
    check = manifest.verification
    base = f"base_model: {made.model}\n" if made.model.count("/") == 1 else ""
    lacking = ", without a measured effect" if manifest.effective is False else ""
    total = neurons.n_layers * neurons.d_mlp
    return f"""---
library_name: transformers
{base}tags:
- xlmech
- privacy
---

# {made.model} with {len(neurons)} privacy neurons deactivated{lacking}

{_warning(manifest)}{source}, with {len(neurons)} of its {total} MLP neurons {what[manifest.mode]} in the weights, to lower how
much personal data it gives away across languages. It is a plain checkpoint: `AutoModelForCausalLM.from_pretrained` reads it, and
nothing else is needed. Which neurons, and how they came here: `{MANIFEST}`.

| layer | neurons |
|---|---|
{layers}

## Checked

Reloaded by transformers alone and run on {int(check["n_texts"])} texts, its logits differ from those of the source with the same
neurons deactivated by hooks by {check["max_relative_error"]:.1e} of the largest logit at most; deactivation itself moves them by
{check["max_relative_change"]:.1e}.

## Measured

{_measured(manifest)}

## What this is not

A proof that nothing is left. The rest of the weights is the source's, what the neurons gave away may be stored elsewhere too, and
fine-tuning, other wordings or repeated sampling may bring it back. Measure it on your own data before you rely on it.

Made with xlmech {made.versions.get("xlmech", "")}, transformers {made.versions.get("transformers", "")}, {made.time}.
"""


def _warning(manifest: Manifest) -> str:
    if manifest.effective is not False:
        return ""
    return f"**No effect was measured: {manifest.effect}.** Do not take this for a model that gives away less.\n\n"


def _measured(manifest: Manifest) -> str:
    mitigation: Mapping[str, Any] | None = manifest.mitigation
    if mitigation is None:
        return f"{_sentence(UNMEASURED)}."
    told = f"{_sentence(manifest.effect)}.\n\n" if manifest.effect else ""
    cost = {(row["condition"], row["query_language"]): row.get("rise") for row in mitigation["cost"]}
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for row in mitigation["effects"]:
        cells = row | {"rise": cost.get((row["condition"], row["query_language"]))}
        lines.append(f"| {' | '.join(_cell(cells.get(name)) for name in _COLUMNS)} |")
    sizes = ", ".join(f"{name} {size}" for name, size in mitigation["sizes"].items())
    return told + (
        "Extraction before and after, reduction with its 95 % interval, and `rise`, the relative rise of the negative "
        f"log-likelihood of neutral text. Neurons per condition: {sizes}.\n\n" + "\n".join(lines)
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(manifest: Manifest) -> dict[str, Any]:
    content = {item.name: getattr(manifest, item.name) for item in fields(manifest)}
    chosen = manifest.neurons
    content["neurons"] = {
        "model": chosen.model,
        "n_layers": chosen.n_layers,
        "d_mlp": chosen.d_mlp,
        "neurons": [list(neuron) for neuron in chosen],
    }
    return content | {"values": list(manifest.values), "provenance": asdict(manifest.provenance)}


def _manifest(content: dict[str, Any]) -> Manifest:
    chosen, given = content["neurons"], {item.name for item in fields(Manifest)}
    neurons = NeuronSet(
        frozenset((layer, index) for layer, index in chosen["neurons"]),
        chosen["n_layers"],
        chosen["d_mlp"],
        chosen["model"],
    )
    plain = {name: value for name, value in content.items() if name in given}
    made = Provenance(**content["provenance"])
    return Manifest(**plain | {"neurons": neurons, "values": tuple(content["values"]), "provenance": made})


def _check_hashes(content: dict[str, Any]) -> None:
    rest = {name: value for name, value in content.items() if name != "content_sha256"}
    for what, found, wanted in (
        ("the list of neurons", _sha256(content["neurons"]), content["neurons_sha256"]),
        ("the content", _sha256(rest), content["content_sha256"]),
    ):
        if found != wanted:
            raise ValueError(
                f"{what} does not have the hash that export_model wrote, so it was edited; take the manifest of the original "
                "export, or export again"
            )


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
