"""How a report came about: how the model was asked, which versions and seeds measured, and the commands that make it again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from xlmech.figures.wording import bounds, language_name, ordered, percent, plain, rows_of
from xlmech.leakage.measure import LeakageResult
from xlmech.report.run_results import STAGES, RunResults


def how_asked(leakage: LeakageResult) -> Iterator[str]:
    """Say which prompt format was used and why, and where answers end; nothing of results that did not save it."""
    if not leakage.prompt:
        return
    text = leakage.prompt["template"].replace("\n", "\\n")
    yield f"Prompt format: {leakage.prompt['name']}, since {leakage.prompt['reason']}. The model was given: {text}"
    if not leakage.n_answers:
        return
    line = ", at the first newline after something was written" if leakage.prompt["lines_end_answers"] else ""
    yield (
        f"An answer ends at the model's end token{line}, or after {leakage.max_new_tokens} new tokens; all of it is searched. Of "
        f"{leakage.n_answers:,} answers {leakage.n_truncated:,} were cut off by that budget, and {leakage.n_empty:,} were empty."
    )


def wordings_table(result: LeakageResult | None, plant_language: str) -> dict[str, Any] | None:
    """Private people's extraction by any wording and by each, per query language; None where it was not measured."""
    if result is None or not (result.probes.group == "private").any():
        return None
    together, each = result.any_wording(), result.by_wording()
    by_language = each.pivot(index="query_language", columns="template", values="value")
    cells = {
        row.query_language: [
            percent(row.value),
            bounds(row.low, row.high),
            "not asked" if math.isnan(row.control) else percent(row.control),
            *map(percent, by_language.loc[row.query_language].tolist()),
        ]
        for row in rows_of(together)
    }
    rows = [[language_name(code), *cells[code]] for code in ordered(cells, plant_language)]
    columns = [
        "asked in",
        "by any wording",
        "interval",
        "control people",
        *(f"wording {n}" for n in by_language.columns),
    ]
    return {"columns": columns, "rows": rows, "drawn": how_drawn(result)}


def how_drawn(result: LeakageResult) -> str:
    """Say whether answers are greedy, or how many were drawn per question and how."""
    if result.n_samples == 1 and not result.temperature:
        return "the greedy answer to each question"
    answers = "1 answer" if result.n_samples == 1 else f"{result.n_samples} answers"
    return f"{answers} drawn per question at temperature {result.temperature:g}"


def provenance_table(results: RunResults) -> dict[str, Any]:
    """List model, versions, seed and time; results that share all but the time share a row."""
    rows: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for name, result in results.results.items():
        source = asdict(result.provenance)
        measured_with = (
            source["model"],
            source["adapter"] or "none",
            source["revision"][:12] or "unknown",
            " ".join(filter(None, (source["dtype"], source["device"], source["backend"]))) or "unknown",
            str(source["seed"]),
            ", ".join(f"{package} {version}" for package, version in source["versions"].items()),
        )
        names, times = rows.setdefault(measured_with, ([], []))
        names.append(STAGES.get(name, plain(name)))
        times.append(source["time"])
    return {
        "columns": ["result", "model", "adapter", "revision", "weights on", "seed", "versions", "time"],
        "rows": [
            [", ".join(names), *shared, min(times) if min(times) == max(times) else f"{min(times)} to {max(times)}"]
            for shared, (names, times) in rows.items()
        ],
    }


def reproduce(results: RunResults) -> Iterator[str]:
    """Say how to make the results and this page again, from what the run folder holds."""
    name = shlex.quote(results.origin)
    where = f"in the folder that holds the run folder {results.origin}"
    if results.has_config:
        yield (
            f"The run again, {where}: xlmech run {name}/config.yaml. It needs the model and the records that config.yaml names, "
            "and an `out` that does not exist."
        )
    else:
        commands = [result.provenance.command for result in results.results.values()]
        yield from dict.fromkeys(_made_by(command) for command in commands if command)
    if results.origin:
        yield f"This page again, {where}: xlmech report {name}"
    if results.seconds:
        stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results.seconds.items())
        yield f"It took {sum(results.seconds.values()):.0f} s ({stages})."
    yield "The run folder holds every result as Parquet and safetensors; the same seed gives the same figures."


def _made_by(command: str) -> str:
    """Name the process that measured; the arguments of a notebook or a test mean nothing to a reader."""
    program = command.split(" ")[0]
    if program.removesuffix(".exe") == "xlmech":
        return f"Made by: {command}. Its paths are relative to the folder in which it was run."
    if program.endswith(".py") and not program.startswith(("__main__", "ipykernel")):
        return f"Made by the script {program}."
    return "Made from Python, by no command of xlmech."
