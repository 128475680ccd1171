"""The commands with a config file: `init` writes one, `run` runs it, or says what it would do."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xlmech.cli import console
from xlmech.cli.audit import show_outcome
from xlmech.cli.options import Answering, Prompting
from xlmech.progress import without_bars

if TYPE_CHECKING:
    from xlmech.audit.config import Config


def init(
    path: Annotated[Path, typer.Argument(help="New file.")] = Path("xlmech.yaml"),
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Write only what must be filled in; the rest keeps its defaults.")
    ] = False,
) -> None:
    """Write a config with every key, its default and what it means, for `xlmech run`."""
    from xlmech.audit.config import write_template

    typer.echo(f"config in {write_template(path, minimal=minimal)}: fill in model.source and data.records")
    console.next_command("run", path, "--dry-run")


def run(
    config: Annotated[Path, typer.Argument(help="Config file; write one with `xlmech init`.")],
    prompting: Prompting,
    answering: Answering,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check config, records and model files, and say what would be measured and about how long it takes; nothing is "
            "loaded or written.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped; begin it if there is none.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(help="Work on Ray: 'auto' (this machine's cluster, or one of its own), 'local', or an address."),
    ] = None,
    actors: Annotated[int, typer.Option(min=1, help="With --ray: processes that hold the model.")] = 2,
    cpus: Annotated[float, typer.Option(min=0, help="With --ray: CPUs of each.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each.")] = 0.0,
    json_: Annotated[bool, typer.Option("--json", help="Print a summary for machines, and nothing else.")] = False,
) -> None:
    """Run a config file: audit your model on your records, and write the mitigated checkpoint.

    The options from --prompt to --temperature take the place of the config's keys, where they are given.

    A run that was stopped is continued with --resume and ends with the same numbers. The exit status is 4 if the checkpoint
    was not written, since no effect was measured, and else 3 if probes failed every time; both runs are finished, with all
    results.
    """
    from xlmech.audit.config import read_config

    read = read_config(config)  # before torch is imported
    read = read.model_copy(update={"data": read.data.updated(**prompting.given, **answering.given)})
    answering.check(read.data.n_samples)
    if dry_run:
        if json_:
            raise ValueError("--json: a dry run has no summary for machines; leave one of the two out")
        _forecast(read, resume=resume)
        console.next_command("run", config, *(["--resume"] if resume else []))
        return
    with ExitStack() as stack:
        stack.enter_context(without_bars())  # a status line is in their place
        from rich.console import Console

        from xlmech.audit.run import run_config

        if json_:
            stack.enter_context(redirect_stdout(sys.stderr))
        if ray is not None:
            from xlmech.execution.ray_pool import on_ray

            stack.enter_context(on_ray(ray, actors=actors, num_cpus=cpus, num_gpus=gpus))
        status = stack.enter_context(Console(stderr=True, quiet=json_).status("starting"))
        outcome = run_config(read, resume=resume, say=console.say, show=status.update, progress=not json_)
    if json_:
        typer.echo(json.dumps(outcome.summary(), ensure_ascii=False, allow_nan=False))
    else:
        show_outcome(outcome)
        console.after_an_audit(outcome.folder)
    if outcome.refused:
        raise typer.Exit(4)
    if outcome.failed:
        raise typer.Exit(3)


def _forecast(config: Config, *, resume: bool) -> None:
    """Say what a run would do."""
    from xlmech.audit.check import too_few_people
    from xlmech.audit.preflight import prepare
    from xlmech.audit.stages.forecast import forecast

    prepared = prepare(config, resume=resume)
    for note in prepared.notes:
        console.say(f"note: {note}")
    for line in too_few_people(prepared.measured):
        console.say(f"warning: {line}")
    found = forecast(config, prepared)
    low, high = (found.stages[name].map(console.time_text) for name in ("low", "high"))
    console.show(
        "What would be done", found.stages[["stage", "questions"]].assign(**{"at least": low, "at most, about": high})
    )
    for note in found.notes:
        console.say(f"note: {note}")
    least, most = map(console.time_text, found.seconds)
    typer.echo(f"time: {least} to {most}, if nothing else runs on this machine, and loading the model")
    for what, size in (("memory", found.memory_bytes), ("disk", found.disk_bytes)):
        typer.echo(f"{what}: {'not known' if size is None else f'about {size / 1e9:.2g} GB'}")
    typer.echo("nothing was loaded or written")
