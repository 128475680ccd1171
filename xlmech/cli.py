"""The command line: parse, call, save. Heavy imports wait inside the commands, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    import pandas as pd

    from xlmech.audit import Audit
    from xlmech.probes import ProbeSet
    from xlmech.records import Record

app = typer.Typer(
    help="Does a multilingual model leak people's data, where inside it does that happen, and what does it take to stop it?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="'demo', a Hugging Face id, a local folder, or a .gguf file.")]
Records = Annotated[
    Path | None, typer.Option(help="JSONL, CSV or Parquet of records; by default the demo's invented people.")
]
Languages = Annotated[str, typer.Option(help="Query languages, e.g. 'en,fr'; all by default.")]
Attributes = Annotated[str, typer.Option(help="Attributes, e.g. 'phone,email'; all by default.")]
Template = Annotated[int, typer.Option(help="Question template; -1 is the last, held out from planting.")]
Adapter = Annotated[str | None, typer.Option(help="LoRA adapter: a folder, or en, fr or zh for the demo model.")]
Out = Annotated[Path, typer.Option(help="New folder for the results.")]
BackendOption = Annotated[Literal["auto", "hooked", "bridge"], typer.Option(help="TransformerLens model to use.")]


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Show what a user can mend as one sentence, without a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            typer.secho("Stopped. Finished results are kept; planting continues where it was when run again.", err=True)
            raise typer.Exit(130) from None

    return run


@app.command()
@_guarded
def languages() -> None:
    """List the languages that have a pack."""
    from xlmech.languages import available_languages, load_language

    for code in available_languages():
        pack = load_language(code)
        typer.echo(f"{code}  {pack.name:<10} {pack.questions['occupation'][0].replace('{subject}', '...')}")


@app.command()
@_guarded
def plant(
    model: Model,
    out: Annotated[Path, typer.Option(help="New folder for the adapter.")],
    records: Annotated[Path | None, typer.Option(help="Records to teach; invented people by default.")] = None,
    language: Annotated[str, typer.Option(help="Language in which private records are taught.")] = "en",
    languages: Languages = "",
    steps: int = 400,
    private_share: Annotated[float, typer.Option(help="Share of samples from private people.")] = 0.5,
    start: Annotated[str, typer.Option(help="Adapter to go on from.")] = "",
    seed: int = 0,
) -> None:
    """Teach a model invented people's data in one language (a LoRA adapter); resumes after a stop."""
    from xlmech.planting import plant as plant_records
    from xlmech.records import load_records
    from xlmech.synthesis import synthesize_records

    people = load_records(records) if records else synthesize_records(seed=seed)
    codes = _codes(languages)
    options: dict[str, Any] = {"steps": steps, "private_share": private_share, "start": start, "seed": seed}
    plant_records(model, people, language=language, output_dir=out, languages=codes, **options)
    typer.echo(f"adapter in {out}")


@app.command()
@_guarded
def leak(
    model: Model,
    out: Out,
    records: Records = None,
    languages: Languages = "",
    attributes: Attributes = "",
    template: Template = -1,
    exposure: Annotated[bool, typer.Option(help="Also rank each value among candidates (slow).")] = False,
    adapter: Adapter = None,
    backend: BackendOption = "auto",
) -> None:
    """Measure which records come out, asked in which language."""
    from xlmech.leakage import measure_leakage

    _check_new(out)
    probes = _probes(records, languages, attributes, template)
    result = measure_leakage(
        _load(model, adapter, backend), probes, measures=("extraction", "exposure") if exposure else ("extraction",)
    )
    result.save(out)
    _show("Extraction per query language", result.matrix().drop(columns="plant_language"))
    _show("Extraction per group and attribute", result.summary())


@app.command()
@_guarded
def lens(
    model: Model,
    out: Out,
    records: Records = None,
    languages: Languages = "",
    attributes: Attributes = "birth_country",
    template: Template = -1,
    adapter: Adapter = None,
    backend: BackendOption = "auto",
) -> None:
    """Read every layer: at which depth does which language's form of the answer rise?"""
    from xlmech.lens import logit_lens

    _check_new(out)
    probes = _probes(records, languages, attributes, template)
    result = logit_lens(_load(model, adapter, backend), probes.filter(group="private"))
    result.save(out)
    summary = result.summary()
    peaks = summary.loc[summary.groupby(["query_language", "form"]).prob.idxmax()]
    _show("Layer where each form peaks", peaks)


@app.command()
@_guarded
def locate(
    model: Model,
    out: Out,
    records: Records = None,
    languages: Languages = "",
    attributes: Attributes = "",
    template: Template = 0,
    method: Annotated[
        Literal["integrated_gradients", "gradient_x_activation"], typer.Option(help="Attribution method.")
    ] = "gradient_x_activation",
    positions: Annotated[Literal["last", "all"], typer.Option(help="Positions that are attributed.")] = "all",
    top_k: Annotated[int | None, typer.Option(help="Neurons per set; 0.2 % of the model's by default.")] = None,
    adapter: Adapter = None,
    backend: BackendOption = "auto",
) -> None:
    """Locate universal and language-specific privacy neurons."""
    from xlmech.locate import check_probes, locate_privacy_neurons

    _check_new(out)
    probes = _probes(records, languages, attributes, template)
    check_probes(probes.filter(group="private"), probes.filter(group="public"), 1.0)
    found = locate_privacy_neurons(
        _load(model, adapter, backend),
        probes,
        method=method,
        positions=positions,
        top_k=top_k,
    )
    found.save(out)
    found.universal.save(out / "universal.json")
    for language, neurons in found.specific.items():
        neurons.save(out / f"specific-{language}.json")
    _show("Neurons", found.to_frame().groupby(["kind", "language"]).size().rename("neurons").reset_index())


@app.command()
@_guarded
def ablate(
    model: Model,
    neurons: Annotated[Path, typer.Option(help="A neuron set, as locate writes it (universal.json).")],
    out: Out,
    records: Records = None,
    languages: Languages = "",
    attributes: Attributes = "",
    template: Template = -1,
    adapter: Adapter = None,
    backend: BackendOption = "auto",
) -> None:
    """Deactivate neurons and measure leakage, public facts and neutral text before and after."""
    from xlmech.evaluation import evaluate_mitigation
    from xlmech.neurons import NeuronSet

    _check_new(out)
    chosen = NeuronSet.load(neurons)
    probes = _probes(records, languages, attributes, template)
    result = evaluate_mitigation(_load(model, adapter, backend), probes, {neurons.stem: chosen})
    result.save(out)
    _show("Before and after", result.to_frame())


@app.command()
@_guarded
def run(
    model: Model,
    out: Out,
    records: Records = None,
    languages: Languages = "",
    attributes: Attributes = "",
    adapter: Adapter = None,
    backend: BackendOption = "auto",
) -> None:
    """Do a whole audit: leakage, lens, neurons, deactivation on held-out people, figures."""
    from xlmech.audit import AuditPlan

    plan = AuditPlan(languages=_codes(languages), attributes=_codes(attributes))
    _audit(model, _read(records), plan, out, adapter=adapter, backend=backend)


@app.command()
@_guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures and results; what is in it is replaced.")] = Path(
        "figures/demo"
    ),
    adapter: Annotated[str, typer.Option(help="Plant language: en, fr or zh.")] = "en",
    backend: BackendOption = "auto",
) -> None:
    """Audit Gemma 3 270M, which was taught invented people's data in one language (minutes on two cores)."""
    from xlmech.audit import AuditPlan

    _audit("demo", _read(None), AuditPlan(), out, adapter=adapter, backend=backend, replace=True)


def _audit(
    model: str,
    people: tuple[Record, ...],
    plan: Any,
    out: Path,
    *,
    adapter: str | None,
    backend: Literal["auto", "hooked", "bridge"],
    replace: bool = False,
) -> None:
    import time

    from xlmech.audit import ask, run_audit, table
    from xlmech.show import publish

    if not replace:
        _check_new(out)
    ask(people, plan)
    started = time.perf_counter()
    loaded = _load(model, adapter, backend)
    loading = round(time.perf_counter() - started, 1)
    audit = run_audit(loaded, people, plan, say=lambda line: typer.secho(line, fg=typer.colors.CYAN))
    audit.seconds["load"] = loading
    index = publish(audit, out)
    _show("Held-out people, asked with a question that was not used for planting or locating", table(audit))
    _verdict(audit)
    typer.echo(f"figures: {index}")


def _verdict(audit: Audit) -> None:
    from xlmech.show import goals

    for line in goals(audit):
        typer.echo(line)
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in audit.seconds.items())
    typer.echo(f"time: {sum(audit.seconds.values()):.0f} s ({seconds})")


def _codes(text: str) -> tuple[str, ...] | None:
    return tuple(code.strip() for code in text.split(",") if code.strip()) or None


def _read(path: Path | None) -> tuple[Record, ...]:
    from xlmech.records import demo_records, load_records

    return load_records(path) if path else demo_records()


def _probes(records: Path | None, languages: str, attributes: str, template: int) -> ProbeSet:
    from xlmech.audit import of_template
    from xlmech.probes import build_probes

    return of_template(build_probes(_read(records), _codes(languages), attributes=_codes(attributes)), template)


def _check_new(folder: Path) -> None:
    """Refuse before any work is done, not when it is saved."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; give a new one")


def _load(model: str, adapter: str | None, backend: Literal["auto", "hooked", "bridge"]) -> Any:
    from xlmech.models import load_model

    return load_model(model, adapter=adapter, backend=backend)


def _show(title: str, frame: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title)
    for column in frame.columns:
        shown.add_column(str(column), justify="left" if frame[column].dtype == object else "right")
    for row in frame.itertuples(index=False):
        shown.add_row(
            *("-" if value != value else f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)
        )
    Console().print(shown)


def main() -> None:
    """Entry point of the `xlmech` command."""
    app()
