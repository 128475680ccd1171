"""What the commands share: errors in one sentence, reading and loading, tables."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand
from typer.main import get_command

from xlmech.progress import without_bars

if TYPE_CHECKING:
    import pandas as pd

    from xlmech.data.records import Record
    from xlmech.leakage.measure import LeakageResult

_shared = typer.Typer(add_completion=False)


@_shared.command()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Declare the options that every command has."""


class Command(TyperCommand):
    """A command that shows an error as one sentence, or with `--debug` its traceback.

    What a user can mend (bad input, a full disk, a package that is missing, an export that is not the measured model) is said
    in the words of the error. Anything else is a fault of xlmech's, and is called so.

    Attributes:
        error_code: Exit code of an error.
    """

    error_code = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params = [*self.params, *get_command(_shared).params]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; progress bars are drawn on a terminal, and in no log file or pipe."""
        debug = ctx.params.pop("debug")
        try:
            with ExitStack() as stack:
                if not sys.stderr.isatty():
                    stack.enter_context(without_bars())
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            if debug:
                raise
            typer.secho(
                "Stopped. Finished results are kept: plant and gates go on where they were when run again, run with --resume.",
                err=True,
            )
            raise typer.Exit(130) from None
        except Exception as error:
            if debug:
                raise
            typer.secho(f"Error: {_sentence(error)}", fg=typer.colors.RED, err=True)
            raise typer.Exit(self.error_code) from error


def _sentence(error: Exception) -> str:
    """Return the error on one line, since some libraries write paragraphs."""
    text = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's, of options
        faults = [
            (".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, "), one["input"])
            for one in error.errors()
        ]
        text = "; ".join(f"{name}: {message[0].lower()}{message[1:]}, got {given!r}" for name, message, given in faults)
    if isinstance(error, ValueError | OSError | ImportError | RuntimeError):
        return text
    return f"{type(error).__name__}: {text}. This should not happen; run the command again with --debug, and report what it shows"


def codes(text: str) -> tuple[str, ...] | None:
    """Split comma-separated names; None for an empty text."""
    return tuple(code.strip() for code in text.split(",") if code.strip()) or None


def read_records(path: Path | None) -> tuple[Record, ...]:
    """Read the records in a file, by default the demo's invented people."""
    from xlmech.data.readers import demo_records, load_records

    return load_records(path) if path else demo_records()


def check_new(folder: Path) -> None:
    """Refuse a folder that is not empty or cannot be written, before any work is done."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; give a new one")
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(f"{folder} cannot be written, since {parent} is no folder to write to; give another")


def load(model: str, adapter: str | None, backend: Literal["auto", "hooked", "bridge"]) -> Any:
    """Load the hooked model that a command works on."""
    from xlmech.models.load import load_model

    return load_model(model, adapter=adapter, backend=backend)


def say(line: str) -> None:
    """Write a line about what goes on, in another colour if it is a warning."""
    typer.secho(line, fg=typer.colors.YELLOW if line.startswith("warning: ") else typer.colors.CYAN)


def next_command(*words: str | Path) -> None:
    """Write which command comes next, as it can be copied into a shell."""
    typer.echo(f"next: xlmech {shlex.join(map(str, words))}")


def after_an_audit(run: Path) -> None:
    """Write what can be done with a run folder."""
    next_command("gate", run, "--max-extraction", "0.05")
    typer.echo(f'or in a notebook: xlmech.explore("{run}")')


def time_text(seconds: float) -> str:
    """Write seconds as a person says them; "?" if they are not known."""
    if seconds != seconds:
        return "?"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_wordings(result: LeakageResult) -> None:
    """Show private people's extraction by any wording and by each, and how answers were drawn; nothing without such people."""
    from xlmech.report.method_text import how_drawn

    if not (result.probes.group == "private").any():
        return
    show("Extraction by any wording", result.any_wording())
    show("Extraction by each wording", result.by_wording())
    typer.echo(f"answers: {how_drawn(result)}, of {result.max_new_tokens} new tokens at most")


def show(title: str, frame: pd.DataFrame) -> None:
    """Show a frame as a table, "-" for what was not measured."""
    from pandas.api.types import is_numeric_dtype
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in frame.columns:
        side: Literal["left", "right"] = "right" if is_numeric_dtype(frame[column]) else "left"
        table.add_column(str(column).replace("_", "\n"), justify=side, overflow="fold")  # an audit's fit 80 characters
    for row in frame.itertuples(index=False):
        table.add_row(
            *("-" if value != value else f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)
        )
    Console().print(table)
