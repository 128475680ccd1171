"""The commands that do a whole audit: `audit` by options, `demo` by nothing at all; and what every audit shows at its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xlmech.cli import console
from xlmech.cli.options import Answering, BackendOption, Loading, Model, Out, People, Prompting

if TYPE_CHECKING:
    import pandas as pd

    from xlmech.audit.audit import Audit
    from xlmech.audit.outcome import Outcome
    from xlmech.audit.plan import AuditPlan
    from xlmech.data.records import Record
    from xlmech.neurons.neuron_gates import NeuronGates


def audit(model: Model, out: Out, people: People, prompting: Prompting, answering: Answering, loading: Loading) -> None:
    """Do a whole audit without a config file: leakage, lens, neurons, ablation on held-out people, figures."""
    from xlmech.audit.plan import AuditPlan

    console.check_new(out)
    plan = AuditPlan(
        languages=people.query_languages,
        attributes=console.codes(people.attributes),
        **prompting.given,
        **answering.given,
    )
    answering.check(plan.n_samples)
    _audit(model, people.read(), plan, out, loading)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures and results; its content is replaced.")] = Path(
        "figures/demo"
    ),
    adapter: Annotated[
        str, typer.Option(help="Language in which the demo's people were planted: en, fr or zh.")
    ] = "en",
    backend: BackendOption = "auto",
) -> None:
    """Audit Gemma 3 270M, which was taught invented people's data in one language (minutes on two cores).

    Neurons are located and ablated as in any audit. Gates take longer to learn, so those that come with the adapter are measured.
    """
    from xlmech.audit.plan import AuditPlan
    from xlmech.data.readers import DEMO_LANGUAGES
    from xlmech.models.sources.lora import shipped_gates
    from xlmech.neurons.neuron_gates import NeuronGates

    _audit(
        "demo",
        console.read_records(None),
        AuditPlan(languages=DEMO_LANGUAGES),
        out,
        Loading(adapter=adapter, backend=backend),
        NeuronGates.shipped(adapter) if adapter in shipped_gates() else None,
    )


def _audit(
    model: str,
    people: tuple[Record, ...],
    plan: AuditPlan,
    out: Path,
    how: Loading,
    gates: NeuronGates | None = None,
) -> None:
    from xlmech.audit.audit import run_audit, select_probes
    from xlmech.audit.check import too_few_people
    from xlmech.audit.publish import publish
    from xlmech.neurons.privacy_neurons import one_language_note

    _, measured, locating = select_probes(people, plan)  # refuses bad input before the model is loaded
    for line in too_few_people(measured) if model != "demo" else ():
        console.say(f"warning: {line}")
    if note := one_language_note(locating.filter(group="private").languages):
        console.say(f"note: {note}")
    started = time.perf_counter()
    loaded = how.load(model)
    loading = round(time.perf_counter() - started, 1)
    found = run_audit(loaded, people, plan, gates=gates, say=console.say)
    found.seconds["load"] = loading
    index = publish(found, out)
    _show_audit(found)
    typer.echo(f"report: {index}")
    console.after_an_audit(out)


def show_outcome(outcome: Outcome) -> None:
    """Show what a run measured and wrote, and what it could not."""
    exported = outcome.exported_audit
    if outcome.exported is outcome.audit.mitigation or (outcome.exported and outcome.exported.mean_factors):
        exported = None  # shown already, of gates as what they do to held-out people
    _show_audit(outcome.audit, exported)
    for note in outcome.notes:
        typer.echo(f"note: {note}")
    for stage, item in outcome.failed:
        typer.echo(f"failed: {item} failed every time in {stage}, and is not in the results")
    typer.echo(f"run: {outcome.folder}")
    if outcome.refused:
        typer.echo(f"checkpoint: not written, since {outcome.refused}")
    if outcome.checkpoint is not None:
        typer.echo(f"checkpoint: {outcome.checkpoint}")


def _show_audit(found: Audit, exported: Audit | None = None) -> None:
    """Show the audit's table, that with the exported neurons, what ablation reduces and costs, and how long it took."""
    from xlmech.audit.audit import effects_table, table
    from xlmech.audit.publish import gate_lines, summary_lines

    _show_table("Held-out people, asked with a question that was not used for planting or locating", table(found))
    if exported is not None:
        _show_table("The same with the neurons that were exported", table(exported))
    if found.gates is not None:
        for who, result in (("given", found.gates.given), ("held-out", found.gates.held_out)):
            frame = effects_table(result, found.leakage).dropna(axis="columns", how="all")
            _show_table(f"With gates in place of ablation: {who} people", frame)
    if found.wordings is not None:
        console.show_wordings(found.wordings)
    for line in (*summary_lines(found), *gate_lines(found)):
        typer.echo(line)
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in found.seconds.items())
    typer.echo(f"time: {sum(found.seconds.values()):.0f} s ({seconds})")


def _show_table(title: str, frame: pd.DataFrame) -> None:
    """Show a table of effects, and below it why a reduction or its interval is not known."""
    console.show(title, frame.drop(columns="reason"))
    for reason, part in frame[frame.reason.fillna("") != ""].groupby("reason"):
        typer.echo(f"{', '.join(part.query_language)}: {reason}")
