"""The command that writes a run's report, the page that people read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from xlmech.cli import console
from xlmech.cli.options import Run


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
