"""What `xlmech run` does: from a config to a run folder and, where it is asked for, a mitigated checkpoint.

    outcome = run_config(read_config("xlmech.yaml"))
    outcome.summary()["checkpoint"]

Records of private people are enough. Without public ones nothing is subtracted from the attributions, and what deactivation
costs in public facts is not measured; without control ones nobody knows how often a value comes out by chance. The outcome
says so, and `data.add_controls` invents control people.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from xlmech.audit.audit import Audit, Report, run_audit, table
from xlmech.audit.config import Config, ExportSection
from xlmech.audit.preflight import Prepared, prepare
from xlmech.audit.publish import publish
from xlmech.audit.stage_clock import StageClock
from xlmech.data.probes import ProbeSet
from xlmech.execution.resume import model_identity, resumable
from xlmech.mitigation.evaluate import MitigationResult, evaluate_mitigation
from xlmech.mitigation.export.checkpoint import export_model
from xlmech.mitigation.export.effect import effect_of
from xlmech.mitigation.export.manifest import Manifest, load_manifest
from xlmech.models.backends import backend_of
from xlmech.models.checkpoints import load_tokenizer
from xlmech.models.load import load_model, plant_language, provenance
from xlmech.storage.fingerprint import fingerprint
from xlmech.storage.result import versions
from xlmech.storage.run_folder import RunFolder, is_finished, open_run_folder

CONFIG, SUMMARY, EXPORTED = "config.yaml", "summary.json", "mitigation_exported"
"""In a run folder: the config that was used, what was found, and in `results` what was measured with the exported neurons."""

_MAY_CHANGE = ("export.folder", "export.without_effect")


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What one run found and wrote.

    Attributes:
        audit: With the universal neurons deactivated.
        exported: The same measurement with the neurons that were exported, None without an export.
        manifest: Of the checkpoint, None without one.
        folder: The run folder.
        checkpoint: Folder of the mitigated checkpoint, None without one.
        refused: Why the checkpoint that the config asks for was not written, "" where it was or none is asked for.
        notes: What the run could not measure and why, and other things to know when reading it; one sentence each.
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
        """The audit with the exported neurons' measurement in place of the universal ones'."""
        return replace(self.audit, mitigation=self.exported) if self.exported is not None else None

    def summary(self) -> dict[str, Any]:
        """The outcome as plain JSON values; rates and rises are shares, what was not measured is None."""
        source, exported = self.audit.leakage.provenance, self.exported_audit
        return {
            "xlmech": metadata.version("xlmech"),
            "run": str(self.folder),
            "model": source.model,
            "adapter": source.adapter,
            "plant_language": self.audit.leakage.plant_language,
            "sizes": self.audit.mitigation.sizes,
            "total_neurons": self.audit.mitigation.total_neurons,
            "languages": _rows(self.audit),
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "export_refused": self.refused or None,
            "exported": {"sizes": exported.mitigation.sizes, "languages": _rows(exported)} if exported else None,
            "verification": self.manifest.verification if self.manifest else None,
            "notes": list(self.notes),
            "failed": [list(one) for one in self.failed],
            "seconds": self.audit.seconds,
            "peak_mb": self.peak_mb,
        }


def run_config(
    config: Config,
    *,
    resume: bool = False,
    say: Report = lambda _: None,
    show: Report | None = None,
    progress: bool = True,
) -> Outcome:
    """Audit the config's model on its people, write the run folder, and export the checkpoint that the config asks for.

    The run folder holds `results`, figures and `index.html` as `xlmech demo` writes them, `config.yaml` with which the run can
    be repeated, `log.jsonl`, `run.json`, and `summary.json`, written last. All but the last is there when the export starts, so
    that an export that fails loses no result. Probes are worked on in parts (see `xlmech.execution.resume`): a run that
    was stopped, however it was, is continued with `resume`, and ends with the same numbers.

    No checkpoint is written where deactivation was not measured to have an effect
    (`xlmech.mitigation.export.effect.effect_of`), unless `export.without_effect` is set. The run is
    finished all the same, and `Outcome.refused` says why. With `without_effect` set and `resume`, a finished
    run gets its checkpoint without being measured again.

    Args:
        config: As `read_config` gives it.
        resume: Continue the run that was begun in the run folder; begin it where there is none.
        say: Called with one line per stage, and for what went wrong and was mended.
        show: Called with a line on how far the whole run is, again and again.
        progress: Whether to show progress bars while a single part is worked on (none are where `show` is given).

    Raises:
        FileExistsError: The run folder or the checkpoint's folder exists, and there is nothing to resume in it.
        ValueError: What `prepare`, `load_model`, `run_audit` and `export_model` refuse, a `plant_language` that is not the
            adapter's, or a config, records, model or versions that are not those with which the run was begun.
        ImportError: Packages for invented people or the demo model are missing.
        RuntimeError: The checkpoint read back is not the model under `ablate`; the run folder is kept. Or another process works
            in the run folder, or what was computed failed every time.
        OSError: A folder that cannot be written, or not enough room for the checkpoint.
    """
    asked = prepare(config, resume=resume)
    if resume and is_finished(config.run_folder):
        RunFolder(config.run_folder).record_settings(_settings(config, asked))
        say(f"{config.run_folder} is finished")
        return _exported_later(config, _finished(config), say, show)
    for note in asked.notes:
        say(f"note: {note}")
    with open_run_folder(config.run_folder, say=say) as run:
        run.record_settings(_settings(config, asked))
        clock = StageClock(say, log=run.log, show=show)
        if config.export is not None and config.export.neurons == "union":
            clock.expect_again("union", like="deactivate")
        with clock("load: the model"):
            model = _load(config)
        run.record_settings(_of_model(model))
        with resumable(run.parts, shard_size=config.shard_size, watch=clock.watch) as plan:
            audit, measured = _audit(config, asked, model, clock, progress and show is None)
        del model  # the export loads the source itself
        publish(audit, config.run_folder)
        if measured is not audit.mitigation:
            measured.save(_fresh(config.run_folder / "results" / EXPORTED))
        config.save(config.run_folder / CONFIG)
        outcome = Outcome(
            audit=audit,
            folder=config.run_folder,
            notes=(*asked.notes, *_notes(asked, audit, measured)),
            failed=tuple(dict.fromkeys(plan.failed)),
            peak_mb=clock.peak_mb,
        )
        outcome = _exported(config, outcome, measured, clock, say)
        _write_summary(outcome)
        run.finish()
    return outcome


def _exported(config: Config, outcome: Outcome, measured: MitigationResult, clock: StageClock, say: Report) -> Outcome:
    """With the checkpoint, if the config asks for one and an effect was measured, or none is required."""
    section = config.export
    if section is None:
        return outcome
    neurons = getattr(outcome.audit.neurons, section.neurons)
    effect = effect_of(measured, len(neurons))
    if not (effect.measured or section.without_effect):
        refused = f"no effect was measured: {effect.text}; export.without_effect: true writes it all the same"
        say("export: no checkpoint is written, since no effect was measured")
        return replace(outcome, refused=refused)
    with clock(f"export: into {config.checkpoint_folder}"):
        manifest = _export(config, section, outcome.audit, measured, say)
    return replace(outcome, exported=measured, manifest=manifest, checkpoint=config.checkpoint_folder, refused="")


def _exported_later(config: Config, outcome: Outcome, say: Report, show: Report | None) -> Outcome:
    """A finished run whose checkpoint was not written gets it now, where the config has come to ask for it."""
    if (
        config.export is None
        or outcome.checkpoint is not None
        or (outcome.refused and not config.export.without_effect)
    ):
        return outcome
    folder = outcome.folder / "results" / EXPORTED
    measured = MitigationResult.load(folder) if folder.is_dir() else outcome.audit.mitigation
    with open_run_folder(outcome.folder, say=say, state="finished") as run:
        clock = StageClock(say, log=run.log, show=show)
        outcome = _exported(config, outcome, measured, clock, say)
        config.save(outcome.folder / CONFIG)
        _write_summary(outcome)
    return outcome


def _write_summary(outcome: Outcome) -> None:
    text = json.dumps(outcome.summary(), indent=1, ensure_ascii=False, allow_nan=False)
    (outcome.folder / SUMMARY).write_text(text, encoding="utf-8")


def _audit(
    config: Config, asked: Prepared, model: Any, clock: StageClock, progress: bool
) -> tuple[Audit, MitigationResult]:
    """The audit, and the measurement of what is exported."""
    audit = run_audit(model, asked.people, asked.plan, clock=clock, progress=progress)
    if config.export is None or config.export.neurons != "union":
        return audit, audit.mitigation
    union = audit.neurons.union
    with clock(f"union: deactivate all {len(union)} neurons that are exported, and ask again"):
        lost = set(audit.leakage.failed)
        judged = ProbeSet(tuple(probe for probe in asked.judged if probe.id not in lost))
        known = audit.leakage.probes
        before = replace(audit.leakage, probes=known[known.group != "control"].reset_index(drop=True))
        return audit, evaluate_mitigation(
            model,
            judged,
            {"union": union},
            before=before,
            control_people=audit.leakage,
            candidates=asked.people,
            seed=config.seed,
            progress=progress,
        )


def _settings(config: Config, asked: Prepared) -> dict[str, Any]:
    """What must not change while a run goes on: config, records and versions; where and whether a checkpoint is written may."""
    found: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json", exclude={"out", "xlmech"}).items():
        of_section = (
            {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        )
        found |= {key: item for key, item in of_section.items() if key not in _MAY_CHANGE}
    content = fingerprint([record.model_dump() for record in asked.people])
    return found | {"content of the records": content} | {f"version of {name}": at for name, at in versions().items()}


def _of_model(model: Any) -> dict[str, Any]:
    source = provenance(model)
    found = model_identity(backend_of(model))
    return {
        "model": found["name"],
        "model's weights": found["weights"],
        "model's adapter": source.adapter,
        "model's kind": source.backend,
        "model's dtype": source.dtype,
        "kind of device": source.device.split(":")[0],
    }


def _finished(config: Config) -> Outcome:
    """The outcome of a run that came to its end, read from its folder."""
    folder = config.run_folder
    found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    audit, checkpoint = Audit.load(folder / "results"), config.checkpoint_folder
    exported = folder / "results" / EXPORTED
    measured = MitigationResult.load(exported) if exported.is_dir() else audit.mitigation
    written = checkpoint if checkpoint is not None and checkpoint.is_dir() else None
    return Outcome(
        audit=audit,
        exported=measured if written else None,
        manifest=load_manifest(written) if written else None,
        folder=folder,
        checkpoint=written,
        refused="" if written else found.get("export_refused") or "",
        notes=tuple(found["notes"]),
        failed=tuple((stage, item) for stage, item in found["failed"]),
        peak_mb=found["peak_mb"],
    )


def _fresh(folder: Path) -> Path:
    """The folder, without what a stopped run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _notes(asked: Prepared, audit: Audit, measured: MitigationResult) -> Iterator[str]:
    if audit.lens is None and not any(note.startswith("no lens: ") for note in asked.notes):
        yield "no lens: every answer's form in the query language begins as the plant language's does; ask for other attributes"
    if not audit.leakage.plant_language:
        yield "model.plant_language is not given, so no language is set apart as that of the training data"
    effect = effect_of(measured, next(iter(measured.chosen.values())))
    more = "; try more neurons (locate.n_neurons), export.neurons: union, another locate.method, or more people"
    if not effect.measured:
        leaked = bool(audit.leakage.matrix().value.any())
        yield f"no effect of deactivation was measured: {effect.text}{more if leaked else ''}"


def _load(config: Config) -> Any:
    chosen = config.model
    options = chosen.model_dump(exclude={"source", "tokenizer", "plant_language"})
    model = load_model(chosen.source, tokenizer=_tokenizer(config), **options)
    known, given = plant_language(model), chosen.plant_language
    if known and given and known != given:
        raise ValueError(f"model.plant_language: {given!r}, but the adapter was taught in {known!r}; leave the key out")
    model.xlmech_source = replace(model.xlmech_source, plant_language=known or given)
    return model


def _tokenizer(config: Config) -> Any:
    chosen = config.model
    if chosen.tokenizer is None:
        return None
    return load_tokenizer(chosen.tokenizer, trust_remote_code=chosen.trust_remote_code)


def _export(config: Config, section: ExportSection, audit: Audit, measured: MitigationResult, say: Report) -> Manifest:
    """Write the checkpoint; its manifest carries what was measured, and the plant language that the config knows."""
    neurons, target = getattr(audit.neurons, section.neurons), config.path(section.folder)
    if target.is_dir() and any(target.iterdir()):  # written by this run before it was stopped, or it is not ours
        manifest = load_manifest(target)
        if manifest.neurons != neurons:
            raise FileExistsError(
                f"export.folder: {target} holds another checkpoint; give a new folder, or move it away"
            )
        return manifest
    say(f"{len(neurons)} neurons at zero")
    manifest = export_model(
        config.model.source,
        neurons,
        target,
        adapter=config.model.adapter,
        tokenizer=_tokenizer(config),
        dtype=getattr(torch, section.dtype),
        mitigation=measured,
        without_effect=section.without_effect,
        trust_remote_code=config.model.trust_remote_code,
    )
    if not manifest.plant_language:
        manifest = replace(manifest, plant_language=audit.leakage.plant_language)
        manifest.save(target)
    return manifest


def _rows(audit: Audit) -> list[dict[str, Any]]:
    return list(json.loads(table(audit).to_json(orient="records", double_precision=15)))
