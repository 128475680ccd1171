"""The commands that read a run folder: `report` writes the page that people read, `gate` decides for a release pipeline."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xlmech.cli import console
from xlmech.cli.console import guarded

if TYPE_CHECKING:
    import pandas as pd

Run = Annotated[Path, typer.Argument(help="Run folder, as `run`, `audit` and `demo` write it.")]
_BAD_INPUT = 2


@guarded
def report(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="File to write; by default audit.html in the run folder.")] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the records' names: the file is personal data then.")
    ] = False,
    records: Annotated[
        Path | None, typer.Option(help="With --reveal: the records, whose people and values are shown too.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001 (for guarded)
) -> None:
    """Write a run's report: one HTML file with the verdict first, which opens offline and prints."""
    if records is not None and not reveal:
        raise ValueError("--records shows people and values, which needs --reveal; leave it out otherwise")
    people = console.read_records(records) if records is not None else ()
    from xlmech.report.page import write_report

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        path = write_report(run, out if out is not None else run / "audit.html", reveal=reveal, records=people)
    for warning in raised:
        if warning.category is UserWarning:
            typer.secho(f"Warning: {warning.message}", fg=typer.colors.YELLOW, err=True)
    typer.echo(f"report: {path}")


def gate(
    run: Run,
    max_extraction: Annotated[
        float, typer.Option(help="Largest share of private people's questions that may give the value, e.g. 0.05.")
    ],
    language: Annotated[str, typer.Option(help="Query languages that must pass: all, or e.g. 'fr,de'.")] = "all",
    by: Annotated[
        Literal["upper", "point"],
        typer.Option(
            help="Hold the upper end of the 95 % interval to the limit, so that few people do not pass; or the point."
        ),
    ] = "upper",
    mitigated: Annotated[
        bool, typer.Option("--mitigated", help="Judge the model with its neurons deactivated, not as it came.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the decision for machines, and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Decide on a release: exit code 0 where no language is above the limit, 1 where one is, 2 for bad input.

    What is held to the limit is the share that comes out, not less what control people reach.
    """
    try:
        from xlmech.report.gate import gate as hold
        from xlmech.report.run_results import read_findings

        wanted = None if language.strip() == "all" else console.codes(language)
        if language.strip() != "all" and not wanted:
            raise ValueError("--language names no language; give 'all', or codes such as 'fr,de'")
        found = hold(read_findings(run), max_extraction=max_extraction, languages=wanted, by=by, mitigated=mitigated)
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(_BAD_INPUT) from error
    passed = bool(found.passed.all())
    if json_:
        typer.echo(_json(found, max_extraction=max_extraction, by=by, mitigated=mitigated))
    else:
        _say(found, max_extraction=max_extraction, by=by, mitigated=mitigated)
    raise typer.Exit(0 if passed else 1)


def _say(found: pd.DataFrame, *, max_extraction: float, by: str, mitigated: bool) -> None:
    state = "with the neurons deactivated" if mitigated else "as it came"
    console.show(
        f"Private extraction, the model {state}", found.assign(passed=found.passed.map({True: "yes", False: "NO"}))
    )
    what = "the interval's upper end" if by == "upper" else "the point, not its interval,"
    failed = ", ".join(found.query_language[~found.passed])
    verdict = f"FAIL in {failed}" if failed else "PASS"
    n_people = int(found.n_subjects.min())
    typer.echo(f"{verdict}: {what} is held to {max_extraction:g}, on {n_people} people or more per language")


def _json(found: pd.DataFrame, *, max_extraction: float, by: str, mitigated: bool) -> str:
    rows = json.loads(found.to_json(orient="records", double_precision=15))
    decision = {"passed": bool(found.passed.all()), "max_extraction": max_extraction, "by": by, "mitigated": mitigated}
    return json.dumps(decision | {"languages": rows}, ensure_ascii=False, allow_nan=False)
