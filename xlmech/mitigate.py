"""What `xlmech run` does: from a config to a run folder and, where it is asked for, a mitigated checkpoint.

    outcome = run_config(read_config("xlmech.yaml"))
    outcome.summary()["checkpoint"]

Records of private people are enough. Without public ones nothing is subtracted from the attributions, and what deactivation
costs in public facts is not measured; without control ones nobody knows how often a value comes out by chance. The outcome
says so, and `data.add_controls` invents control people.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from xlmech.audit import Audit, AuditPlan, Report, ask, run_audit, table
from xlmech.checkpoints import adapter_folder, load_tokenizer
from xlmech.config import Config, ExportSection
from xlmech.evaluation import MitigationResult, evaluate_mitigation
from xlmech.export import export_model
from xlmech.languages import ATTRIBUTES
from xlmech.manifest import Manifest
from xlmech.models import load_model, plant_language
from xlmech.probes import ProbeSet
from xlmech.records import Record, load_records
from xlmech.show import publish
from xlmech.synthesis import synthesize_records

CONFIG, SUMMARY = "config.yaml", "summary.json"
"""Files of a run folder: the config that was used, and what was found."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What a config asks, checked as far as it can be without a model.

    Attributes:
        people: The records, with invented control people where they are asked for.
        plan: Of the audit.
        judged: Held-out private and public probes by which sets of neurons are compared.
        notes: What the records do not allow to measure; one sentence each.
    """

    people: tuple[Record, ...]
    plan: AuditPlan
    judged: ProbeSet
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What one run found and wrote.

    Attributes:
        audit: With the universal neurons deactivated.
        exported: The same measurement with the neurons that were exported, None without an export.
        manifest: Of the checkpoint, None without one.
        folder: The run folder.
        checkpoint: Folder of the mitigated checkpoint, None without one.
        notes: What the run could not measure and why, and other things to know when reading it; one sentence each.
    """

    audit: Audit
    exported: MitigationResult | None = None
    manifest: Manifest | None = None
    folder: Path
    checkpoint: Path | None = None
    notes: tuple[str, ...] = ()

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
            "exported": {"sizes": exported.mitigation.sizes, "languages": _rows(exported)} if exported else None,
            "verification": self.manifest.verification if self.manifest else None,
            "notes": list(self.notes),
            "seconds": self.audit.seconds,
        }


def run_config(config: Config, *, say: Report = lambda _: None, progress: bool = True) -> Outcome:
    """Audit the config's model on its people, write the run folder, and export the checkpoint that the config asks for.

    The run folder holds `results`, figures and `index.html` as `xlmech demo` writes them, `config.yaml` with which the run can
    be repeated, and `summary.json`, written last. All but the last is there when the export starts, so that an export that
    fails loses no result.

    Args:
        config: As `read_config` gives it.
        say: Called with one line per stage.
        progress: Whether to show progress bars.

    Raises:
        FileExistsError: The run folder or the checkpoint's folder exists.
        ValueError: What `prepare`, `load_model`, `run_audit` and `export_model` refuse, or a `plant_language` that is not the
            adapter's.
        ImportError: Packages for invented people or the demo model are missing.
        RuntimeError: The checkpoint read back is not the model under `ablate`; the run folder is kept.
        OSError: A folder that cannot be written, or not enough room for the checkpoint.
    """
    asked = prepare(config)
    for note in asked.notes:
        say(f"note: {note}")
    started = time.perf_counter()
    model = _load(config)
    loading = round(time.perf_counter() - started, 1)
    audit = run_audit(model, asked.people, asked.plan, say=say, progress=progress)
    audit.seconds["load"] = loading
    section, measured = config.export, audit.mitigation
    if section is not None and section.neurons == "union":
        say(f"deactivate all {len(audit.neurons.union)} neurons that are exported, and ask again")
        union = {"union": audit.neurons.union}
        measured = evaluate_mitigation(
            model, asked.judged, union, candidates=asked.people, seed=config.seed, progress=progress
        )
    del model  # the export loads the source itself
    publish(audit, config.run_folder)
    if measured is not audit.mitigation:
        measured.save(config.run_folder / "results" / "mitigation_exported")
    config.save(config.run_folder / CONFIG)
    outcome = Outcome(audit=audit, folder=config.run_folder, notes=(*asked.notes, *_notes(audit, measured)))
    if section is not None:
        manifest = _export(config, section, audit, measured, say)
        outcome = replace(outcome, exported=measured, manifest=manifest, checkpoint=config.checkpoint_folder)
    text = json.dumps(outcome.summary(), indent=1, ensure_ascii=False, allow_nan=False)
    (config.run_folder / SUMMARY).write_text(text, encoding="utf-8")
    return outcome


def prepare(config: Config) -> Prepared:
    """The people and the plan of a run, after every check that needs no model.

    Raises:
        FileExistsError: The run folder or the checkpoint's folder exists.
        FileNotFoundError: No such adapter.
        ValueError: Records that cannot be read or asked for, a checkpoint in place of the run folder, or too few people or
            languages to measure on others than those who choose the neurons.
        ImportError: Faker is missing, and control people are to be invented.
        OSError: A folder that cannot be written to.
    """
    _check_folders(config)
    if config.model.adapter:
        adapter_folder(config.model.adapter)
    people, data = load_records(config.data.records), config.data
    _check_people(people, config)
    if data.add_controls:
        people += invent_controls(people, data.n_controls, attributes=data.attributes, seed=config.seed)
    chosen = data.model_dump() | config.locate.model_dump() | {"seed": config.seed}
    plan = AuditPlan(**{item.name: chosen[item.name] for item in fields(AuditPlan) if item.name in chosen})
    probes, measured, locating = ask(people, plan)
    judged = ProbeSet(tuple(probe for probe in measured if probe.record.group != "control"))
    return Prepared(people=people, plan=plan, judged=judged, notes=tuple(_missing(probes, measured, locating, plan)))


def invent_controls(
    people: tuple[Record, ...], n: int, *, attributes: tuple[str, ...] | None = None, seed: int = 0
) -> tuple[Record, ...]:
    """Control records of invented people, with the attributes of the private records: no model was trained on them.

    What comes out for them is chance: a common occupation, a guess from the name. Nobody invented shares a name with one of
    `people`.

    Args:
        people: The records they are to stand beside.
        n: Number of invented people.
        attributes: Of which attributes at most; all those of the private records by default.
        seed: The same seed gives the same people.

    Raises:
        ImportError: Faker is not installed.
    """
    wanted = {record.attribute for record in people if record.group == "private"} & set(attributes or ATTRIBUTES)
    names = {record.subject for record in people}
    drawn = synthesize_records(groups={"control": n}, seed=seed)
    if any(record.subject in names for record in drawn):
        drawn = synthesize_records(groups={"control": n + len(names)}, seed=seed)
    others = list(dict.fromkeys(record.subject for record in drawn if record.subject not in names))[:n]
    return tuple(
        record.model_copy(update={"id": f"invented-{record.id}"})
        for record in drawn
        if record.attribute in wanted and record.subject in others
    )


def _check_folders(config: Config) -> None:
    run, checkpoint = config.run_folder, config.checkpoint_folder
    for key, folder in (("out", run), ("export.folder", checkpoint)):
        if folder is None:
            continue
        if folder.exists():
            raise FileExistsError(f"{key}: {folder} exists; give a new folder, or move that one away")
        parent = next(parent for parent in folder.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise OSError(f"{key}: {folder} cannot be made, since {parent} is no folder to write to; give another")
    if checkpoint in (run, *run.parents):
        raise ValueError(f"export.folder: {checkpoint} is or holds the run folder {run}; give another folder")


def _check_people(people: tuple[Record, ...], config: Config) -> None:
    """Some private people must choose the neurons, and others be measured."""
    asked, share = config.data.attributes or ATTRIBUTES, config.data.held_out
    n = len({record.subject for record in people if record.group == "private" and record.attribute in asked})
    if n and round(share * n) in (0, n):
        raise ValueError(
            f"data.held_out: {share:g} of {n} private people leaves nobody to "
            f"{'choose the neurons' if round(share * n) else 'measure'}; add people to the records, or change held_out"
        )


def _missing(probes: ProbeSet, measured: ProbeSet, locating: ProbeSet, plan: AuditPlan) -> Iterator[str]:
    if not len(locating.filter(group="public")):
        yield "no public people choose neurons, so nothing is subtracted from the attributions (no contrast)"
    if not len(measured.filter(group="public")):
        yield "no public people are held out, so what deactivation costs in public facts is not measured"
    if not len(measured.filter(group="control")):
        yield (
            "no control people are held out, so how often a value comes out by chance is not known; data.add_controls: true "
            "invents some"
        )
    if not len(probes.filter(group="private", attributes=plan.lens_attributes)):
        wanted = ", ".join(plan.lens_attributes) or "nothing"
        yield f"no lens: data.lens_attributes asks for {wanted}, and the private records have {', '.join(probes.attributes)}"


def _notes(audit: Audit, measured: MitigationResult) -> Iterator[str]:
    if not audit.leakage.plant_language:
        yield "model.plant_language is not given, so no language is set apart as that of the training data"
    if not audit.leakage.matrix().value.any():
        yield "nothing came out of the held-out private people before deactivation, so there is no reduction to measure"
    elif not (table(replace(audit, mitigation=measured)).reduction > 0).any():
        yield (
            "deactivation lowered extraction in no language, so a checkpoint without these neurons gives away as much as its "
            "source; try more of them (locate.top_k), export.neurons: union, or another locate.method"
        )


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
    neurons, target, started = getattr(audit.neurons, section.neurons), config.path(section.folder), time.perf_counter()
    say(f"export: {len(neurons)} neurons at zero, into {target}")
    manifest = export_model(
        config.model.source,
        neurons,
        target,
        adapter=config.model.adapter,
        tokenizer=_tokenizer(config),
        dtype=getattr(torch, section.dtype),
        mitigation=measured,
        trust_remote_code=config.model.trust_remote_code,
    )
    if not manifest.plant_language:
        manifest = replace(manifest, plant_language=audit.leakage.plant_language)
        manifest.save(target)
    audit.seconds["export"] = round(time.perf_counter() - started, 1)
    return manifest


def _rows(audit: Audit) -> list[dict[str, Any]]:
    return list(json.loads(table(audit).to_json(orient="records", double_precision=15)))
