"""The commands that read a run folder: `report` writes the page that people read, `gate` decides for a release pipeline."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from xlmech.cli import console

Run = Annotated[Path, typer.Argument(help="Run folder, as `run`, `audit` and `demo` write it.")]


class GateCommand(console.Command):
    """A command whose errors exit with 2, since 1 means that a language is above the limit."""

    error_code = 2


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="File to write; by default index.html in the run folder.")] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the people and values of --records: the file is personal data then.")
    ] = False,
    records: Annotated[Path | None, typer.Option(help="With --reveal: the records.")] = None,
    hide_ids: Annotated[
        bool,
        typer.Option("--hide-ids", help="Show codes in place of the records' ids, for ids that say whose they are."),
    ] = False,
) -> None:
    """Write a run's report again: one HTML file with numbers, verdict and what to do, which opens offline and prints."""
    if records is not None and not reveal:
        raise ValueError("--records shows people and values, which needs --reveal; leave it out otherwise")
    if reveal and records is None:
        raise ValueError("--reveal shows the people and values of --records, and none are given; give the file, too")
    if reveal and hide_ids:
        raise ValueError("--hide-ids hides what --reveal shows; give one of them")
    people = console.read_records(records) if records is not None else ()
    from xlmech.report.page import PAGE, write_report

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        path = write_report(
            run, out if out is not None else run / PAGE, reveal=reveal, records=people, hide_ids=hide_ids
        )
    for warning in raised:
        if warning.category is UserWarning:
            typer.secho(f"Warning: {warning.message}", fg=typer.colors.YELLOW, err=True)
    typer.echo(f"report: {path}")


def gate(
    run: Run,
    max_extraction: Annotated[
        float, typer.Option(help="Largest share of private people's questions that may extract the value, e.g. 0.05.")
    ],
    language: Annotated[str, typer.Option(help="Query languages that must pass: all, or e.g. 'fr,de'.")] = "all",
    by: Annotated[
        Literal["upper", "point"],
        typer.Option(
            help="Compare the upper end of the 95 % interval with the limit, so that few people do not pass; or the point."
        ),
    ] = "upper",
    mitigated: Annotated[
        bool, typer.Option("--mitigated", help="Judge the model with its neurons ablated, not the original one.")
    ] = False,
    gates: Annotated[
        Literal["given", "held_out"] | None,
        typer.Option(
            help="Judge the model with its gates, on the people from whom they were learned (given) or on held-out ones."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the decision for machines, and nothing else.")] = False,
) -> None:
    """Decide on a release: exit code 0 if no language is above the limit, 1 if one is, 2 for bad input.

    Compared with the limit is the share that is extracted; what control people reach is not subtracted.
    """
    from xlmech.report.gate import gate as compare
    from xlmech.report.run_results import read_results

    languages = None if language.strip() == "all" else console.codes(language)
    if language.strip() != "all" and not languages:
        raise ValueError("--language names no language; give 'all', or codes such as 'fr,de'")
    table = compare(
        read_results(run),
        max_extraction=max_extraction,
        languages=languages,
        by=by,
        mitigated=mitigated,
        gates=gates,
    )
    passed = bool(table.passed.all())
    if json_:
        decision = {
            "passed": passed,
            "max_extraction": max_extraction,
            "by": by,
            "mitigated": mitigated,
            "gates": gates,
        }
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        typer.echo(json.dumps(decision | {"languages": rows}, ensure_ascii=False, allow_nan=False))
    else:
        model = "with the neurons ablated" if mitigated else "as it is"
        if gates is not None:
            model = f"with its gates, on {gates.replace('_', '-')} people"
        shown = table.assign(passed=table.passed.map({True: "yes", False: "NO"}))
        console.show(f"Private extraction, the model {model}", shown)
        compared = "the interval's upper end" if by == "upper" else "the point, not its interval,"
        failed = ", ".join(table.query_language[~table.passed])
        typer.echo(
            f"{f'FAIL in {failed}' if failed else 'PASS'}: {compared} is compared with {max_extraction:g}, on "
            f"{int(table.n_subjects.min())} people or more per language"
        )
    raise typer.Exit(0 if passed else 1)
