"""The command line: parse, call, save. Heavy imports wait inside the commands, so that `--help` is quick."""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from xlmech.cli import audit as cli_audit
from xlmech.cli import check as cli_check
from xlmech.cli import console
from xlmech.cli import gates as cli_gates
from xlmech.cli import release as cli_release
from xlmech.cli import report as cli_report
from xlmech.cli import run as cli_run
from xlmech.cli import values as cli_values
from xlmech.cli.console import Command
from xlmech.cli.groups import ORDER, shown
from xlmech.cli.options import (
    Answering,
    Languages,
    Loading,
    Model,
    Out,
    People,
    Prompting,
    Template,
    Wordings,
    next_command,
    with_groups,
    wordings_of,
)
from xlmech.options import LocateOptions, Measure, Method, PlantOptions, Positions

_LOCATE = LocateOptions()
_PLANT = PlantOptions()

app = typer.Typer(
    help="Does a multilingual model leak people's data, where inside it does that happen, and what does it take to stop it?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xlmech {metadata.version('xlmech')}")
        raise typer.Exit


@app.command(cls=Command, **shown("languages"))
def languages() -> None:
    """List the languages that have a pack."""
    from xlmech.data.languages import available_languages, load_language

    for code in available_languages():
        pack = load_language(code)
        typer.echo(f"{code}  {pack.name:<10} {pack.questions['occupation'][0].replace('{subject}', '...')}")


@app.command(cls=Command, **shown("plant"))
def plant(
    model: Model,
    out: Annotated[Path, typer.Option(help="New folder for the adapter.")],
    records: Annotated[Path | None, typer.Option(help="Records to teach; invented people by default.")] = None,
    language: Annotated[str, typer.Option(help="Language in which private records are taught.")] = _PLANT.language,
    languages: Languages = "",
    steps: int = _PLANT.steps,
    private_share: Annotated[float, typer.Option(help="Share of samples from private people.")] = _PLANT.private_share,
    start: Annotated[str, typer.Option(help="Adapter to go on from.")] = "",
    seed: int = _PLANT.seed,
    prompt: Annotated[str, typer.Option(help="Prompt format of the questions, as for leak.")] = _PLANT.prompt,
) -> None:
    """Teach a model invented people's data in one language (a LoRA adapter); resumes after a stop."""
    options = PlantOptions(
        language=language,
        languages=console.codes(languages) or (),
        steps=steps,
        private_share=private_share,
        seed=seed,
        prompt=prompt,
    )
    from xlmech.data.readers import load_records
    from xlmech.data.synthetic import synthesize_records
    from xlmech.planting.train import plant as plant_records

    console.check_new(out)
    people = load_records(records) if records else synthesize_records(seed=seed)
    plant_records(model, people, out, options=options, start=start)
    typer.echo(f"adapter in {out}")
    audited = out.with_name(f"{out.name}-audit")
    asked = ["--languages", languages] if languages else []
    console.next_command("audit", model, "--adapter", out, "--records", out / "records.jsonl", *asked, "--out", audited)


@app.command(cls=Command, **shown("leak"))
@with_groups
def leak(
    model: Model,
    out: Out,
    people: People,
    prompting: Prompting,
    answering: Answering,
    loading: Loading,
    template: Template = -1,
    exposure: Annotated[bool, typer.Option(help="Also rank each value among candidates (slow).")] = False,
) -> None:
    """Measure which records are extracted, asked in which language."""
    from xlmech.audit.plan import AuditPlan
    from xlmech.leakage.measure import measure_leakage

    console.check_new(out)
    plan = AuditPlan(**prompting.given, **answering.given)
    answering.check(plan.n_samples)
    probes = people.probes(template, plan)
    measures: tuple[Measure, ...] = ("extraction", "exposure") if exposure else ("extraction",)
    loaded = loading.load(model)
    probes = prompting.ask(loaded, probes)
    result = measure_leakage(
        loaded, probes, measures=measures, sampling=plan.sampling, max_new_tokens=plan.max_new_tokens
    )
    result.save(out)
    if plan.asks_more:
        console.show_wordings(result)
    console.show("Extraction per query language", result.matrix().drop(columns="plant_language"))
    console.show("Extraction per group and attribute", result.summary())
    typer.echo(f"leakage in {out}")
    for name in ("lens", "locate"):
        place = out.with_name(f"{out.name}-{name}")
        next_command(name, model, out=place, people=people, prompting=prompting, loading=loading)


@app.command(cls=Command, **shown("lens"))
@with_groups
def lens(
    model: Model, out: Out, people: People, prompting: Prompting, loading: Loading, template: Template = -1
) -> None:
    """Read every layer: at which depth does which language's form of the answer rise?"""
    from xlmech.audit.plan import AuditPlan
    from xlmech.lens.logit import logit_lens, readable_attributes

    console.check_new(out)
    AuditPlan(**prompting.given)
    private = people.probes(template).filter(group="private")
    loaded = loading.load(model)
    private = prompting.ask(loaded, private)
    chosen = console.codes(people.attributes) or readable_attributes(loaded, private) or private.attributes
    typer.echo(f"lens on {', '.join(chosen)}")
    result = logit_lens(loaded, private.filter(attributes=chosen))
    result.save(out)
    summary = result.summary()
    peaks = summary.loc[summary.groupby(["query_language", "form"]).prob.idxmax()]
    console.show("Layer where each form peaks", peaks)
    typer.echo(f"lens in {out}")
    place = out.with_name(f"{out.name}-locate")
    next_command("locate", model, out=place, people=people, prompting=prompting, loading=loading)


@app.command(cls=Command, **shown("locate"))
@with_groups
def locate(
    model: Model,
    out: Out,
    people: People,
    prompting: Prompting,
    loading: Loading,
    template: Template = 0,
    wordings: Wordings = None,
    method: Annotated[Method, typer.Option(help="Attribution method.")] = _LOCATE.method,
    positions: Annotated[Positions, typer.Option(help="Positions that are attributed.")] = _LOCATE.positions,
    n_neurons: Annotated[
        int | None, typer.Option(help="Neurons per set; 0.2 % of the model's by default.")
    ] = _LOCATE.n_neurons,
    contrast: Annotated[
        float, typer.Option(help="Multiple of public facts' attribution to subtract.")
    ] = _LOCATE.contrast,
    spare: Annotated[
        float, typer.Option(help="Share of neurons left out because neutral text needs them most.")
    ] = _LOCATE.spare,
) -> None:
    """Locate universal and language-specific privacy neurons; with one language, that language's alone."""
    options = LocateOptions(method=method, positions=positions, n_neurons=n_neurons, contrast=contrast, spare=spare)
    from xlmech.audit.plan import AuditPlan
    from xlmech.neurons.selection.locate import check_probes, locate_privacy_neurons

    console.check_new(out)
    probes = people.probes(template, AuditPlan(**prompting.given, **wordings_of(wordings)))
    check_probes(probes.filter(group="private"), probes.filter(group="public"), contrast)
    loaded = loading.load(model)
    found = locate_privacy_neurons(loaded, prompting.ask(loaded, probes), options=options)
    found.save(out)
    if len(found.languages) > 1:
        found.universal.save(out / "universal.json")
    for language, neurons in found.specific.items():
        neurons.save(out / f"specific-{language}.json")
    console.show("Neurons", found.to_frame().groupby(["kind", "language"]).size().rename("neurons").reset_index())
    typer.echo(f"neurons in {out}")
    name = "universal" if len(found.languages) > 1 else f"specific-{found.languages[0]}"
    measured = out.with_name(f"{out.name}-ablated")
    next_command(
        "ablate",
        model,
        "--neurons",
        out / f"{name}.json",
        out=measured,
        people=people,
        prompting=prompting,
        loading=loading,
    )


@app.command(cls=Command, **shown("ablate"))
@with_groups
def ablate(
    model: Model,
    neurons: Annotated[
        Path,
        typer.Option(
            help="A neuron set, as locate writes it (universal.json, specific-en.json), or the folder that gates writes."
        ),
    ],
    out: Out,
    people: People,
    prompting: Prompting,
    loading: Loading,
    template: Template = -1,
) -> None:
    """Ablate neurons, or turn them down by gates, and measure leakage, public facts and neutral text before and after."""
    from xlmech.audit.plan import AuditPlan
    from xlmech.mitigation.evaluate import evaluate_mitigation
    from xlmech.neurons.neuron_gates import NeuronGates
    from xlmech.neurons.neuron_set import NeuronSet

    console.check_new(out)
    AuditPlan(**prompting.given)
    chosen = NeuronGates.load(neurons) if neurons.is_dir() else NeuronSet.load(neurons)
    probes = people.probes(template)
    loaded = loading.load(model)
    result = evaluate_mitigation(loaded, prompting.ask(loaded, probes), {neurons.stem: chosen})
    result.save(out)
    console.show("Before and after", result.to_frame())
    typer.echo(f"measurements in {out}, of all these people: an audit measures others than those who chose the neurons")
    place = out.with_name(f"{out.name}-audit")
    next_command("audit", model, out=place, people=people, prompting=prompting, loading=loading)


for function in (
    cli_audit.audit,
    cli_audit.demo,
    cli_check.check,
    cli_gates.gates,
    cli_report.report,
    cli_run.init,
    cli_run.run,
    cli_values.values,
):
    app.command(cls=Command, **shown(function.__name__))(with_groups(function))
for decide in (cli_release.compare, cli_release.gate):
    app.command(cls=cli_release.DecidingCommand, **shown(decide.__name__))(decide)
app.registered_commands.sort(key=lambda command: ORDER.index(str(command.callback and command.callback.__name__)))


@app.callback()
def _start(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Entry point of the `xlmech` command."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # no user can mend them
    app()
