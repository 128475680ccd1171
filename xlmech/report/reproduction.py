"""How to reproduce a report: versions and seeds of each result, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from xlmech.figures.wording import plain
from xlmech.report.run_results import STAGES, RunResults


def provenance_table(results: RunResults) -> dict[str, Any]:
    """List model, versions, seed and time, one row per result."""
    rows = []
    for name, result in results.results.items():
        source = asdict(result.provenance)
        rows.append(
            [
                STAGES.get(name, plain(name)),
                source["model"],
                source["adapter"] or "none",
                source["revision"][:12] or "unknown",
                " ".join(filter(None, (source["dtype"], source["device"], source["backend"]))) or "unknown",
                source["seed"],
                ", ".join(f"{package} {version}" for package, version in source["versions"].items()),
                source["time"],
            ]
        )
    return {
        "columns": ["result", "model", "adapter", "revision", "weights on", "seed", "versions", "time"],
        "rows": rows,
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
