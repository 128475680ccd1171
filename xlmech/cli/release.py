"""The commands for a release: `compare` shows what changed between two runs, `gate` decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xlmech.cli import console
from xlmech.cli.options import Run

if TYPE_CHECKING:
    import pandas as pd

_CODES = {"PASS": 0, "FAIL": 1, "TOO FEW PEOPLE": 3}


class DecidingCommand(console.Command):
    """A command whose errors exit with 2, since 1 means that something is worse, or above the limit."""

    error_code = 2


def compare(
    old: Annotated[Path, typer.Argument(help="Run folder to compare with.")],
    new: Annotated[Path, typer.Argument(help="Run folder of the new model, or of the same after a change.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write the comparison to.")] = None,
    any_: Annotated[
        bool, typer.Option("--any", help="Exit with 1 also for a single private record that is newly extracted.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the comparison for machines, and nothing else.")] = False,
) -> None:
    """Compare two runs on the same questions: which languages, kinds of data and records are worse, and which better.

    Exit code 0 if nothing is worse, 1 if something is, 2 for bad input.

    Worse means that an interval of the difference, over the same people, lies above 0 after a correction for the number of
    languages and kinds of data; with --any also a single record that is newly extracted.
    """
    from xlmech.report.compare import compare_runs
    from xlmech.report.release.comparison_page import headline, summary_lines, tables, write_comparison
    from xlmech.storage.rows import json_rows

    found = compare_runs(old, new)
    if out is not None:
        write_comparison(found, out)
    is_worse = found.is_worse(any_record=any_)
    if json_:
        frames = {name: getattr(found, name) for name in ("differences", "records", "not_compared")}
        about = {"worse": is_worse, "old": found.old, "new": found.new, "notes": found.notes}
        _print_json(about | {name: json_rows(frame) for name, frame in frames.items()})
        raise typer.Exit(int(is_worse))
    for note in found.notes:
        console.say(f"note: {note}")
    for title, frame in tables(found).items():
        console.show(title, frame)
    for line in summary_lines(found):
        typer.echo(line)
    typer.echo(f"{'WORSE' if is_worse else 'OK'}: {headline(found)}")
    if out is not None:
        typer.echo(f"page: {out}")
    console.next_command("gate", new, "--baseline", old)
    raise typer.Exit(int(is_worse))


def gate(
    run: Run,
    max_extraction: Annotated[
        float | None,
        typer.Option(help="Largest share of private people's questions that may extract the value, e.g. 0.05."),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Run folder of an earlier model: no more may be extracted than from that one.")
    ] = None,
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
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write: a test case per language.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Markdown to write, e.g. for a pull request or a job's summary.")
    ] = None,
) -> None:
    """Decide on a release: PASS, FAIL or TOO FEW PEOPLE, by a limit, by an earlier run, or by both.

    Exit code 0 for PASS, 1 for FAIL, 3 for TOO FEW PEOPLE, 2 for bad input.

    A language fails if it is above the limit, or worse than in the earlier run. There are too few people where none fails, and
    these people cannot show that all pass. Compared with the limit is the share that is extracted; what control people reach is
    not subtracted.
    """
    from xlmech.report.gate import gate as decide
    from xlmech.report.gate import overall
    from xlmech.report.release.gate_files import write_junit, write_markdown
    from xlmech.report.run_results import read_results
    from xlmech.storage.rows import json_rows

    languages = None if language.strip() == "all" else console.codes(language)
    if language.strip() != "all" and not languages:
        raise ValueError("--language names no language; give 'all', or codes such as 'fr,de'")
    table = decide(
        read_results(run),
        max_extraction=max_extraction,
        baseline=read_results(baseline) if baseline is not None else None,
        languages=languages,
        by=by,
        mitigated=mitigated,
        gates=gates,
    )
    verdict = overall(table)
    for path, write in ((junit, write_junit), (markdown, write_markdown)):
        if path is not None:
            write(table, path, run=run.resolve().name, by=by)
    if json_:
        decision = {
            "passed": verdict == "PASS",
            "verdict": verdict,
            "max_extraction": max_extraction,
            "baseline": str(baseline) if baseline is not None else None,
            "by": by,
            "mitigated": mitigated,
            "gates": gates,
        }
        _print_json(decision | {"languages": json_rows(table)})
    else:
        model = "with the neurons ablated" if mitigated else "as it is"
        if gates is not None:
            model = f"with its gates, on {gates.replace('_', '-')} people"
        _show(table, f"Private extraction, the model {model}", by)
        if verdict != "PASS" and (run / "index.html").is_file():
            typer.echo(f"report: {run / 'index.html'}")
    raise typer.Exit(_CODES[verdict])


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, ensure_ascii=False, allow_nan=False))


def _show(table: pd.DataFrame, title: str, by: Literal["upper", "point"]) -> None:
    """Show the table, why each language that does not pass does not, and the verdict in the last line."""
    from xlmech.figures.wording import rows_of
    from xlmech.report.gate import overall
    from xlmech.report.release.gate_files import decision_table, sentence

    console.show(title, decision_table(table))
    for row in rows_of(table):
        if not row.passed:
            typer.echo(f"{row.verdict} in {row.query_language}: {sentence(row, by=by)}")
    verdict = overall(table)
    where = ", ".join(table.query_language[table.verdict == verdict])
    typer.echo(
        f"{verdict}{'' if verdict == 'PASS' else f' in {where}'}: {_compared(table, by)}, "
        f"on {int(table.n_subjects.min())} people or more per language"
    )


def _compared(table: pd.DataFrame, by: Literal["upper", "point"]) -> str:
    what = "the interval's upper end" if by == "upper" else "the point, not its interval,"
    parts = [f"{what} is compared with {table.limit.max():g}"] * bool(table.limit.notna().any())
    parts += ["each answer with that of the earlier run"] * ("difference" in table)
    return ", and ".join(parts)
