"""The command that learns gates: how far to turn each neuron down so that private answers go and public ones stay."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from xlmech.cli import console
from xlmech.cli.options import Loading, Model, Out, People, Prompting, Template, Wordings, next_command, wordings_of
from xlmech.options import GateOptions

_GATES = GateOptions()


def gates(
    model: Model,
    out: Out,
    people: People,
    prompting: Prompting,
    loading: Loading,
    template: Template = 0,
    wordings: Wordings = None,
    steps: Annotated[int, typer.Option(help="Largest number of steps.")] = _GATES.steps,
    private_weight: Annotated[
        float, typer.Option(help="Weight of the private answers, which are suppressed.")
    ] = _GATES.private_weight,
    public_weight: Annotated[
        float, typer.Option(help="Weight of the public answers, which are kept.")
    ] = _GATES.public_weight,
    target_reduction: Annotated[
        float | None,
        typer.Option(help="Hold a third of the facts back, and stop when their extraction is reduced by this share."),
    ] = _GATES.target_reduction,
    seed: Annotated[int, typer.Option(help="Seed of batches and of the facts held back.")] = _GATES.seed,
) -> None:
    """Learn gates that turn neurons down so that private people's answers go and public ones stay; resumes after a stop."""
    options = GateOptions(
        steps=steps,
        private_weight=private_weight,
        public_weight=public_weight,
        target_reduction=target_reduction,
        seed=seed,
    )
    from xlmech.audit.plan import AuditPlan
    from xlmech.neurons.selection.learned_gates import check_suppressed, learn_gates

    console.check_new(out)
    probes = people.probes(template, AuditPlan(**prompting.given, **wordings_of(wordings)))
    check_suppressed(probes.filter(group="private"))
    loaded = loading.load(model)
    asked = prompting.ask(loaded, probes)
    state = out.with_name(f"{out.name}.training")
    found = learn_gates(
        loaded,
        asked.filter(group="private"),
        keep=asked.filter(group="public"),
        options=options,
        checkpoint=state,
    )
    found.save(out)
    shutil.rmtree(state, ignore_errors=True)
    for label, text in found.headline().items():
        typer.echo(f"{label}: {text}")
    typer.echo(
        f"gates in {out}, learned from these people: measure others, or another question, before you rely on them"
    )
    measured = out.with_name(f"{out.name}-measured")
    next_command("ablate", model, "--neurons", out, out=measured, people=people, prompting=prompting, loading=loading)
