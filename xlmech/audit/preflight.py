"""What a config asks, checked as far as it can be before a model is loaded: folders, people, probes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields

from xlmech.audit.audit import AuditPlan, ask
from xlmech.audit.config import Config
from xlmech.data.languages import ATTRIBUTES
from xlmech.data.probes import ProbeSet
from xlmech.data.readers import load_records
from xlmech.data.records import Record
from xlmech.data.synthetic import invent_controls
from xlmech.models.checkpoints import adapter_folder
from xlmech.storage.run_folder import is_unfinished


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


def prepare(config: Config, *, resume: bool = False) -> Prepared:
    """The people and the plan of a run, after every check that needs no model.

    Args:
        config: As `read_config` gives it.
        resume: Whether the run's folders may be there already.

    Raises:
        FileExistsError: The run folder or the checkpoint's folder exists.
        FileNotFoundError: No such adapter.
        ValueError: Records that cannot be read or asked for, a checkpoint in place of the run folder, or too few people or
            languages to measure on others than those who choose the neurons.
        ImportError: Faker is missing, and control people are to be invented.
        OSError: A folder that cannot be written to.
    """
    _check_folders(config, resume=resume)
    planted = _planted(config)
    people, data = load_records(config.data.records), config.data
    _check_people(people, config)
    if data.add_controls:
        people += invent_controls(
            people, data.n_controls, attributes=data.attributes, planted=planted, seed=config.seed
        )
    chosen = data.model_dump() | {"locate": config.locate, "seed": config.seed}
    plan = AuditPlan(**{item.name: chosen[item.name] for item in fields(AuditPlan) if item.name in chosen})
    probes, measured, locating = ask(people, plan)
    judged = ProbeSet(tuple(probe for probe in measured if probe.record.group != "control"))
    return Prepared(people=people, plan=plan, judged=judged, notes=tuple(_missing(probes, measured, locating, plan)))


def _planted(config: Config) -> tuple[Record, ...]:
    """The records that `plant` wrote beside the model's adapter, none where there is no such adapter."""
    if not config.model.adapter:
        return ()
    folder = adapter_folder(config.model.adapter)
    told = (folder / "planting.json").is_file() and (folder / "records.jsonl").is_file()
    return load_records(folder / "records.jsonl") if told else ()


def _check_folders(config: Config, *, resume: bool) -> None:
    run, checkpoint = config.run_folder, config.checkpoint_folder
    for key, folder in (("out", run), ("export.folder", checkpoint)):
        if folder is None:
            continue
        if folder.exists() and not (resume and folder.is_dir()):
            unfinished = key == "out" and is_unfinished(folder)
            raise FileExistsError(
                f"{key}: {folder} holds a run that is not finished; continue it with --resume, or move it away"
                if unfinished
                else f"{key}: {folder} exists; give a new folder, or move that one away"
            )
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
    asked = probes.filter(group="private").attributes
    if plan.lens_attributes is not None and not {*plan.lens_attributes} & {*asked}:
        wanted = ", ".join(plan.lens_attributes) or "nothing"
        yield f"no lens: data.lens_attributes asks for {wanted}, and the private records have {', '.join(probes.attributes)}"
