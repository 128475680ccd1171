"""Run a config: from model and records to a run folder and, if the config asks for it, a mitigated checkpoint.

    outcome = run_config(read_config("xlmech.yaml"))
    outcome.summary()["checkpoint"]

Records of private people are enough. Without public ones nothing is subtracted from the attributions, and what ablation
costs in public facts is not measured; without control ones it is not known how often a value is extracted by chance. The
outcome says so, and `data.add_controls` invents control people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xlmech.audit.audit import Audit, run_audit
from xlmech.audit.check import too_few_people
from xlmech.audit.config import Config, ExportSection
from xlmech.audit.outcome import Outcome, exported_measurement, read_outcome
from xlmech.audit.preflight import Prepared, prepare
from xlmech.audit.publish import publish
from xlmech.audit.stage_clock import Say, StageClock
from xlmech.audit.stages.ablation import measure_ablated
from xlmech.data.questions import with_format
from xlmech.execution.resume import model_identity, resumable
from xlmech.mitigation.evaluate import MitigationResult
from xlmech.mitigation.export.checkpoint import export_model
from xlmech.mitigation.export.effect import effect_of
from xlmech.mitigation.export.manifest import Manifest, load_manifest
from xlmech.models.backends import backend_of
from xlmech.models.checkpoints import load_tokenizer
from xlmech.models.load import load_model, plant_language, provenance
from xlmech.models.prompts import prompt_format
from xlmech.neurons.ablation import Ablated
from xlmech.neurons.neuron_gates import NeuronGates
from xlmech.options import EvaluateOptions
from xlmech.report.page import PAGE, write_report
from xlmech.report.run_results import GATES
from xlmech.storage.fingerprint import fingerprint
from xlmech.storage.result import versions
from xlmech.storage.run_folder import RunFolder, is_finished, open_run_folder

CONFIG = "config.yaml"
"""In a run folder: the config that was used."""


def run_config(
    config: Config, *, resume: bool = False, say: Say = lambda _: None, show: Say | None = None, progress: bool = True
) -> Outcome:
    """Audit the config's model on its people, write the run folder, and export the checkpoint that the config asks for.

    The run folder holds `results`, figures and the report `index.html`, `config.yaml` with which the run can be repeated,
    `log.jsonl`, `run.json`, and `summary.json`. All but the last exist when the export starts, so an export that fails loses no
    result; the report is written once more when the run has ended. Work is done in shards (see `xlmech.execution.resume`): a
    run that was stopped is continued with `resume`, and ends with the same numbers.

    With the section `mitigate`, gates are learned and measured besides; their training is written into the run folder every 20
    steps, and a run that is continued goes on from there.

    No checkpoint is written if no effect was measured (`xlmech.mitigation.export.effect.effect_of`; of gates an effect on given
    people is enough, and the card then says that it is of these), unless `export.without_effect` is set. The run is finished all
    the same, and `Outcome.refused` says why. With `without_effect` and `resume`, a finished run gets its checkpoint without being
    measured again.

    Args:
        config: As `read_config` gives it.
        resume: Continue the run that was begun in the run folder; begin it if there is none.
        say: Called with one line per stage, and for what went wrong and was mended.
        show: Called with a status line, again and again.
        progress: Whether to show progress bars (none are shown if `show` is given).

    Raises:
        FileExistsError: The run folder or the checkpoint's folder exists, and there is nothing to resume in it.
        ValueError: What `prepare`, `load_model`, `run_audit` and `export_model` refuse, a `plant_language` that is not the
            adapter's, or a config, records, model or versions that are not those with which the run was begun.
        ImportError: Packages for invented people or the demo model are missing.
        RuntimeError: The checkpoint read back is not the model under `ablate` (the run folder is kept), another process works
            in the run folder, or what was computed failed every time.
        OSError: A folder that cannot be written, or not enough room for the checkpoint.
    """
    prepared = prepare(config, resume=resume)
    if resume and is_finished(config.run_folder):
        RunFolder(config.run_folder).record_settings(_settings(config, prepared))
        say(f"{config.run_folder} is finished")
        return _export_finished(config, read_outcome(config), say, show)
    for note in prepared.notes:
        say(f"note: {note}")
    for line in too_few_people(prepared.measured):
        say(f"warning: {line}")
    with open_run_folder(config.run_folder, say=say) as run:
        run.record_settings(_settings(config, prepared))
        clock = StageClock(say, log=run.log, show=show)
        if _measures_union(config, prepared):
            clock.expect_again("union", like="ablate")
        with clock("load: the model"):
            model = _load(config)
        run.record_settings(_model_settings(model))
        with resumable(run.parts, shard_size=config.shard_size, watch=clock.watch) as plan:
            audit, measured = _measure(config, prepared, model, clock, run.parts / GATES, progress and show is None)
        del model  # the export loads the source itself
        config.save(config.run_folder / CONFIG)
        publish(audit, config.run_folder, exported=measured if measured is not audit.mitigation else None)
        outcome = Outcome(
            audit=audit,
            folder=config.run_folder,
            notes=(*prepared.notes, *_notes(prepared, audit, measured)),
            failed=tuple(dict.fromkeys(plan.failed)),
            peak_mb=clock.peak_mb,
        )
        outcome = _export(config, outcome, measured, clock, say)
        outcome.save_summary()
        run.finish()
        write_report(config.run_folder, config.run_folder / PAGE)  # of the run as it ended, with what was exported
    return outcome


def _measure(
    config: Config, prepared: Prepared, model: Any, clock: StageClock, checkpoint: Path, progress: bool
) -> tuple[Audit, MitigationResult]:
    """Return the audit, and the measurement with the neurons that are exported."""
    audit = run_audit(model, prepared.people, prepared.plan, checkpoint=checkpoint, clock=clock, progress=progress)
    if config.export is not None and config.export.neurons == "gates" and audit.gates is not None:
        return audit, audit.gates.held_out
    if not _measures_union(config, prepared):
        return audit, audit.mitigation
    union = audit.neurons.union
    frame = prompt_format(model, prepared.plan.prompt, system=prepared.plan.system)
    with clock(f"union: ablate all {len(union)} neurons that are exported, and measure again"):
        return audit, measure_ablated(
            model,
            with_format(prepared.measured, frame),
            {"union": union},
            audit.leakage,
            options=EvaluateOptions(max_new_tokens=config.data.max_new_tokens),
            candidates=prepared.people,
            seed=config.seed,
            progress=progress,
        )


def _measures_union(config: Config, prepared: Prepared) -> bool:
    """Whether the exported neurons are others than those that the audit ablates: of one language alone they are the same."""
    return config.export is not None and config.export.neurons == "union" and len(prepared.measured.languages) > 1


def _exported_neurons(section: ExportSection, audit: Audit) -> Ablated | None:
    """Return the neurons or gates that are exported; None where gates are to be and none were learned."""
    if section.neurons == "gates":
        return audit.gates.gates if audit.gates is not None else None
    return audit.neurons.union if section.neurons == "union" else audit.neurons.main


def _shown_measurement(section: ExportSection, audit: Audit, measured: MitigationResult) -> MitigationResult:
    """Return the measurement that a checkpoint's card shows.

    That is the one of held-out people. Gates without an effect on these may have one on given people, and then it is that one.
    """
    if section.neurons != "gates" or audit.gates is None:
        return measured
    given, n_neurons = audit.gates.given, len(audit.gates.gates)
    on_given_alone = effect_of(given, n_neurons).measured and not effect_of(measured, n_neurons).measured
    return given if on_given_alone else measured


def _export(config: Config, outcome: Outcome, measured: MitigationResult, clock: StageClock, say: Say) -> Outcome:
    """Write the checkpoint if the config asks for one and an effect was measured, or none is required."""
    section = config.export
    if section is None:
        return outcome
    neurons = _exported_neurons(section, outcome.audit)
    if neurons is None:
        say("export: no checkpoint is written, since there are no gates")
        return replace(outcome, refused=next(iter(outcome.audit.notes), "no gates were learned"))
    shown = _shown_measurement(section, outcome.audit, measured)
    effect = effect_of(shown, len(neurons))
    if not (effect.measured or section.without_effect):
        refused = f"no effect was measured: {effect.text}; export.without_effect: true writes it all the same"
        say("export: no checkpoint is written, since no effect was measured")
        return replace(outcome, refused=refused)
    with clock(f"export: into {config.checkpoint_folder}"):
        manifest = _write_checkpoint(config, section, neurons, outcome.audit, shown, say)
    return replace(outcome, exported=measured, manifest=manifest, checkpoint=config.checkpoint_folder, refused="")


def _export_finished(config: Config, outcome: Outcome, say: Say, show: Say | None) -> Outcome:
    """Write the checkpoint of a finished run that has none, if the config now asks for it."""
    if config.export is None or outcome.checkpoint or (outcome.refused and not config.export.without_effect):
        return outcome
    with open_run_folder(outcome.folder, say=say, state="finished") as run:
        clock = StageClock(say, log=run.log, show=show)
        measured = exported_measurement(config, outcome.audit)
        outcome = _export(config, outcome, measured, clock, say)
        config.save(outcome.folder / CONFIG)
        outcome.save_summary()
    return outcome


def _settings(config: Config, prepared: Prepared) -> dict[str, Any]:
    """What must not change while a run goes on: config, records and versions, but not whether a checkpoint is written where."""
    settings: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json", exclude={"out", "xlmech"}).items():
        settings |= {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    settings["mitigate"] = "none" if config.mitigate is None else "given"
    for name in ("export.folder", "export.without_effect", "mitigate.batch_size"):
        settings.pop(name, None)
    content = fingerprint([record.model_dump() for record in prepared.people])
    return (
        settings | {"content of the records": content} | {f"version of {name}": at for name, at in versions().items()}
    )


def _model_settings(model: Any) -> dict[str, Any]:
    source, description = provenance(model), model_identity(backend_of(model))
    return {
        "model": description["name"],
        "model's weights": description["weights"],
        "model's adapter": source.adapter,
        "model's kind": source.backend,
        "model's dtype": source.dtype,
        "kind of device": source.device.split(":")[0],
    }


def _notes(prepared: Prepared, audit: Audit, measured: MitigationResult) -> Iterator[str]:
    yield from audit.notes
    if audit.lens is None and not any(note.startswith("no lens: ") for note in prepared.notes):
        yield (
            "no lens: every answer's form in the query language begins as the training language's does; "
            "ask for other attributes"
        )
    if not audit.leakage.plant_language:
        yield "model.plant_language is not given, so no language is marked as that of the training data"
    effect = effect_of(measured, next(iter(measured.chosen.values())))
    if not effect.measured and measured.mean_factors:
        yield f"no effect of the gates was measured: {effect.text}"
    elif not effect.measured:
        union = "export.neurons: union, " if len(audit.neurons.languages) > 1 else ""
        remedy = f"; try more neurons (locate.n_neurons), {union}another locate.method, or more people"
        leaked = bool(audit.leakage.matrix().value.any())
        yield f"no effect of ablation was measured: {effect.text}{remedy if leaked else ''}"


def _load(config: Config) -> Any:
    options = config.model.model_dump(exclude={"source", "tokenizer", "plant_language"})
    model = load_model(config.model.source, tokenizer=_tokenizer(config), **options)
    known, given = plant_language(model), config.model.plant_language
    if known and given and known != given:
        raise ValueError(f"model.plant_language: {given!r}, but the adapter was taught in {known!r}; leave the key out")
    model.xlmech_source = replace(model.xlmech_source, plant_language=known or given)
    return model


def _tokenizer(config: Config) -> Any:
    if config.model.tokenizer is None:
        return None
    return load_tokenizer(config.model.tokenizer, trust_remote_code=config.model.trust_remote_code)


def _write_checkpoint(
    config: Config, section: ExportSection, neurons: Ablated, audit: Audit, measured: MitigationResult, say: Say
) -> Manifest:
    """Write the checkpoint; its manifest carries what was measured, and the training language that the config knows."""
    target = config.path(section.folder)
    if target.is_dir() and any(target.iterdir()):  # this run wrote it before it was stopped, or it is another's
        manifest = load_manifest(target)
        if not manifest.is_of(neurons):
            raise FileExistsError(
                f"export.folder: {target} holds another checkpoint; give a new folder, or move it away"
            )
        return manifest
    say(f"{len(neurons)} neurons {'turned down' if isinstance(neurons, NeuronGates) else 'at zero'}")
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
