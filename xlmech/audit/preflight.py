"""Check what a config asks for, as far as it can be done before a model is loaded: folders, people, probes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xlmech.audit.audit import select_probes
from xlmech.audit.config import Config
from xlmech.audit.plan import AuditPlan, Selection
from xlmech.audit.stages.gates import select_gate_probes
from xlmech.data.languages import find_language
from xlmech.data.probes import ProbeSet
from xlmech.data.readers import load_records
from xlmech.data.records import Record
from xlmech.data.synthetic import invent_controls
from xlmech.models.sources.lora import adapter_folder, is_adapter_folder
from xlmech.neurons.privacy_neurons import one_language_note
from xlmech.storage.run_folder import is_unfinished


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What a run measures, checked as far as it can be without a model.

    Attributes:
        people: The records, with invented control people if the config asks for them.
        plan: Of the audit.
        measured: Probes of held-out people.
        notes: What the records do not allow to measure; one sentence each.
    """

    people: tuple[Record, ...]
    plan: AuditPlan
    measured: ProbeSet
    notes: tuple[str, ...] = ()


def prepare(config: Config, *, resume: bool = False) -> Prepared:
    """Return the people and the plan of a run, after every check that needs no model.

    Args:
        config: As `read_config` gives it.
        resume: Whether the run's folders may exist already.

    Raises:
        FileExistsError: The run folder or the checkpoint's folder exists.
        FileNotFoundError: No such adapter.
        ValueError: Records that cannot be read or asked for, a checkpoint in place of the run folder, or too few people
            to measure on others than those who choose the neurons.
        ImportError: Faker is missing, and control people are to be invented.
        OSError: A folder that cannot be written to.
    """
    _check_folders(config, resume=resume)
    planted = _planted(config)
    data = config.data
    people = load_records(data.records, kinds=data.kinds)
    _check_people(people, config)
    if data.add_controls:
        people += invent_controls(
            people, data.n_controls, attributes=data.attributes, planted=planted, seed=config.seed
        )
    selection = data.model_dump(include=set(Selection.model_fields))
    plan = AuditPlan(**selection, locate=config.locate, mitigate=config.mitigate, seed=config.seed)
    probes, measured, locating = select_probes(people, plan)
    if plan.mitigate is not None:
        select_gate_probes(probes, measured, plan)  # refuses what cannot be learned from, or measured
    return Prepared(
        people=people, plan=plan, measured=measured, notes=tuple(_missing(probes, measured, locating, plan))
    )


def _planted(config: Config) -> tuple[Record, ...]:
    """Return the records that `plant` wrote beside the model's adapter, none if there is no such adapter."""
    source = Path(config.model.source)
    if not config.model.adapter and not is_adapter_folder(source):
        return ()
    folder = adapter_folder(config.model.adapter) if config.model.adapter else source
    planted = (folder / "planting.json").is_file() and (folder / "records.jsonl").is_file()
    return load_records(folder / "records.jsonl") if planted else ()


def _check_folders(config: Config, *, resume: bool) -> None:
    run, checkpoint = config.run_folder, config.checkpoint_folder
    for key, folder in (("out", run), ("export.folder", checkpoint)):
        if folder is None:
            continue
        if folder.exists() and not (resume and folder.is_dir()):
            if key == "out" and is_unfinished(folder):
                raise FileExistsError(
                    f"{key}: {folder} holds a run that is not finished; continue it with --resume, or move it away"
                )
            raise FileExistsError(f"{key}: {folder} exists; give a new folder, or move that one away")
        parent = next(parent for parent in folder.parents if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise OSError(f"{key}: {folder} cannot be made, since {parent} is no folder to write to; give another")
    if checkpoint in (run, *run.parents):
        raise ValueError(f"export.folder: {checkpoint} is or holds the run folder {run}; give another folder")


def _check_people(people: tuple[Record, ...], config: Config) -> None:
    """Refuse to run unless some private people choose the neurons, and others are measured."""
    share = config.data.held_out
    n = len(
        {
            record.subject
            for record in people
            if record.group == "private" and record.attribute in (config.data.attributes or [record.attribute])
        }
    )
    if n and round(share * n) in (0, n):
        raise ValueError(
            f"data.held_out: {share:g} of {n} private people leaves no people to "
            f"{'choose the neurons' if round(share * n) else 'measure'}; add people to the records, or change held_out"
        )


def _missing(probes: ProbeSet, measured: ProbeSet, locating: ProbeSet, plan: AuditPlan) -> Iterator[str]:
    if note := one_language_note(locating.filter(group="private").languages):
        yield note
    if not len(locating.filter(group="public")):
        yield "no public people choose neurons, so nothing is subtracted from the attributions (no contrast)"
        if plan.mitigate is not None:
            yield "no public people are given, so gates keep neutral text alone, and no public answers"
    if not len(measured.filter(group="public")):
        yield "no public people are held out, so what ablation costs in public facts is not measured"
    if not len(measured.filter(group="control")):
        yield (
            "no control people are held out, so how often a value is extracted by chance is not known; "
            "data.add_controls: true invents some"
        )
    if plain := [code for code in probes.languages if not find_language(code).neutral]:
        yield f"no language pack for {', '.join(plain)}: neutral text and base knowledge are not measured there"
    if plan.lens_attributes is not None and not {*plan.lens_attributes} & {*probes.filter(group="private").attributes}:
        wanted = ", ".join(plan.lens_attributes) or "nothing"
        yield f"no lens: data.lens_attributes asks for {wanted}, and the private records have {', '.join(probes.attributes)}"
