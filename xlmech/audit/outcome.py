"""The outcome of a run: what it measured and wrote, as an object, as `summary.json` and as read from a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from xlmech.audit.audit import Audit, effects_table, table
from xlmech.audit.config import Config
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.export.manifest import Manifest, load_manifest
from xlmech.report.run_results import EXPORTED
from xlmech.storage.rows import json_rows

SUMMARY = "summary.json"
"""In a run folder: what was measured, written last."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What one run measured and wrote.

    Attributes:
        audit: The audit with the universal neurons ablated, or those of the only language.
        exported: The same measurement with the exported neurons ablated, None without an export.
        manifest: Manifest of the checkpoint, None without one.
        folder: The run folder.
        checkpoint: Folder of the mitigated checkpoint, None without one.
        refused: Why the requested checkpoint was not written, "" if it was written or not requested.
        notes: What the run could not measure and why, and other remarks for readers; one sentence each.
        failed: (stage, id) of every probe that failed every time and is not in the results.
        peak_mb: Largest resident memory per stage, MB, of any process that worked on it.
    """

    audit: Audit
    exported: MitigationResult | None = None
    manifest: Manifest | None = None
    folder: Path
    checkpoint: Path | None = None
    refused: str = ""
    notes: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def exported_audit(self) -> Audit | None:
        """The audit with the exported neurons' measurement in place of the audit's own."""
        return replace(self.audit, mitigation=self.exported) if self.exported is not None else None

    def summary(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values; rates and rises are shares, what was not measured is None."""
        source, exported = self.audit.leakage.provenance, self.exported_audit
        return {
            "xlmech": metadata.version("xlmech"),
            "run": str(self.folder),
            "model": source.model,
            "adapter": source.adapter,
            "plant_language": self.audit.leakage.plant_language,
            "prompt": self.audit.leakage.prompt,
            "answers": _answers(self.audit.leakage),
            "wordings": _wordings(self.audit.wordings),
            "sizes": self.audit.mitigation.sizes,
            "total_neurons": self.audit.mitigation.total_neurons,
            "languages": _rows(self.audit),
            "gates": _gates(self.audit),
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "export_refused": self.refused or None,
            "exported": {"sizes": exported.mitigation.sizes, "languages": _rows(exported)} if exported else None,
            "verification": self.manifest.verification if self.manifest else None,
            "notes": list(self.notes),
            "failed": [list(pair) for pair in self.failed],
            "seconds": self.audit.seconds,
            "peak_mb": self.peak_mb,
        }

    def save_summary(self) -> None:
        """Write `summary.json` into the run folder."""
        text = json.dumps(self.summary(), indent=1, ensure_ascii=False, allow_nan=False)
        (self.folder / SUMMARY).write_text(text, encoding="utf-8")


def read_outcome(config: Config) -> Outcome:
    """Read the outcome of a finished run from its folder."""
    folder, checkpoint = config.run_folder, config.checkpoint_folder
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    audit = Audit.load(folder / "results")
    written = checkpoint if checkpoint is not None and checkpoint.is_dir() else None
    return Outcome(
        audit=audit,
        exported=exported_measurement(config, audit) if written else None,
        manifest=load_manifest(written) if written else None,
        folder=folder,
        checkpoint=written,
        refused="" if written else summary.get("export_refused") or "",
        notes=tuple(summary["notes"]),
        failed=tuple((stage, item) for stage, item in summary["failed"]),
        peak_mb=summary["peak_mb"],
    )


def exported_measurement(config: Config, audit: Audit) -> MitigationResult:
    """Read the measurement with the exported neurons from a run folder; it is the audit's if those are the ones it ablates."""
    saved = config.run_folder / "results" / EXPORTED
    if saved.is_dir():
        return MitigationResult.load(saved)
    if config.export is not None and config.export.neurons == "gates" and audit.gates is not None:
        return audit.gates.held_out  # the export was asked for when the run was finished
    return audit.mitigation


def _answers(leakage: LeakageResult) -> dict[str, Any]:
    return {
        "max_new_tokens": leakage.max_new_tokens,
        "answers": leakage.n_answers,
        "truncated": leakage.n_truncated,
        "empty": leakage.n_empty,
    }


def _wordings(result: LeakageResult | None) -> dict[str, Any] | None:
    """Extraction by several wordings or answers per question, None where neither was measured."""
    if result is None:
        return None
    frames = {"any": result.any_wording(), "each": result.by_wording()}
    rows = {name: json_rows(frame) for name, frame in frames.items()}
    return {"n_samples": result.n_samples, "temperature": result.temperature} | _answers(result) | rows


def _rows(audit: Audit) -> list[dict[str, Any]]:
    return json_rows(table(audit))


def _gates(audit: Audit) -> dict[str, Any] | None:
    """What gates do to given and to held-out people, each on its own; None without gates."""
    found = audit.gates
    if found is None:
        return None
    frames = {
        name: effects_table(getattr(found, name), audit.leakage)
        for name in ("given", "held_out", "given_kept", "held_out_kept")
        if getattr(found, name) is not None
    }
    rows = {name: json_rows(frame) for name, frame in frames.items()}
    shown = {"turned_down": found.gates.n_touched, "mean_factor": found.gates.mean_factor, "counts": found.gates.counts}
    return shown | {"steps": len(found.gates.history)} | rows
