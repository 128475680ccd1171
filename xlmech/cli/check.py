"""The command that checks a file of records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xlmech.cli import console
from xlmech.cli.options import Kinds, Languages

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 40


def check(
    records: Annotated[Path, typer.Argument(help="File of records: .csv, .tsv, .xlsx, .jsonl or .parquet.")],
    languages: Languages = "",
    attributes_file: Kinds = None,
) -> None:
    """List every fault of a file of records, count its people, and say what so many people can show."""
    from xlmech.audit.check import check_records
    from xlmech.data.attributes import load_attributes

    kinds = load_attributes(attributes_file) if attributes_file else ()
    checked = check_records(records, console.codes(languages), kinds=kinds)
    if len(checked.people):
        console.show(
            "People per group and kind of data, and in which languages they can be asked", _in_words(checked.people)
        )
    for statement in checked.statements:
        typer.echo(f"- {statement}")
    if checked.own_values:
        n, first = len(checked.own_values), ", ".join(checked.own_values[:5])
        typer.echo(f"- {n} values are of your own and searched as they are written: {first}{', ...' if n > 5 else ''}.")
    if checked.faults:
        typer.secho(f"{len(checked.faults)} fault{'s' * (len(checked.faults) != 1)}:", fg=typer.colors.RED, err=True)
        for fault in checked.faults[:_SHOWN]:
            typer.echo(f"  {fault}", err=True)
        raise typer.Exit(1)
    typer.echo("No faults.")
    if attributes_file:
        console.next_command("init")
    else:
        given = ["--languages", languages] if languages else []
        console.next_command("audit", "MODEL", "--records", records, *given, "--out", "runs/mine")


def _in_words(people: pd.DataFrame) -> pd.DataFrame:
    """Write the languages that can ask in one column, since twenty columns fit no terminal."""
    counts, can_ask = people[["group", "attribute", "people"]], people.drop(columns=["group", "attribute", "people"])
    words = [
        f"all {len(row)}" if row.all() and len(row) > 1 else ", ".join(row.index[row.astype(bool)]) or "none"
        for _, row in can_ask.iterrows()
    ]
    return counts.assign(languages=words)
