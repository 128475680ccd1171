"""What the commands share: option types, errors in one sentence, tables."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xlmech.progress import without_bars

if TYPE_CHECKING:
    import pandas as pd

    from xlmech.data.records import Record

Backend = Literal["auto", "hooked", "bridge"]
Model = Annotated[str, typer.Argument(help="'demo', a Hugging Face id, a local folder, or a .gguf file.")]
Records = Annotated[
    Path | None, typer.Option(help="JSONL, CSV or Parquet of records; by default the demo's invented people.")
]
Languages = Annotated[str, typer.Option(help="Query languages, e.g. 'en,fr'; all by default.")]
Attributes = Annotated[str, typer.Option(help="Attributes, e.g. 'phone,email'; all by default.")]
Template = Annotated[int, typer.Option(help="Question template; -1 is the last, held out from planting.")]
Adapter = Annotated[str | None, typer.Option(help="LoRA adapter: a folder, or en, fr or zh for the demo model.")]
Out = Annotated[Path, typer.Option(help="New folder for the results.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
BackendOption = Annotated[Backend, typer.Option(help="TransformerLens model to use.")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Show an error as one sentence, and give the command `--debug`, with which it shows the traceback.

    What a user can mend (bad input, a full disk, a package that is missing, an export that is not the measured model) is said
    in the words of the error. Anything else is a fault of xlmech's, and is called so.
    """
    signature = inspect.signature(command, eval_str=True)
    own = "debug" in signature.parameters

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        debug = kwargs["debug"] if own else kwargs.pop("debug", False)
        try:
            with _bars_for_terminals():
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            if debug:
                raise
            typer.secho(
                "Stopped. Finished results are kept: planting continues where it was when run again, `xlmech run` with --resume.",
                err=True,
            )
            raise typer.Exit(130) from None
        except Exception as error:
            if debug:
                raise
            typer.secho(f"Error: {_sentence(error)}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from error

    if not own:
        option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
        signature = signature.replace(parameters=[*signature.parameters.values(), option])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return run


@contextmanager
def _bars_for_terminals() -> Iterator[None]:
    """Progress bars go to stderr: they are drawn on a terminal, and in no log file or pipe."""
    with ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(without_bars())
        yield


def _sentence(error: Exception) -> str:
    """The error on one line, since some libraries write paragraphs."""
    text = " ".join(str(error).split()) or type(error).__name__
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's, of options
        faults = [(".".join(map(str, one["loc"])), one["msg"], one["input"]) for one in error.errors()]
        text = "; ".join(f"{name}: {message[0].lower()}{message[1:]}, got {given!r}" for name, message, given in faults)
    if isinstance(error, ValueError | OSError | ImportError | RuntimeError):
        return text
    return f"{type(error).__name__}: {text}. This should not happen; run the command again with --debug, and report what it shows"


def codes(text: str) -> tuple[str, ...] | None:
    """Comma-separated names as a tuple, None for an empty text."""
    return tuple(code.strip() for code in text.split(",") if code.strip()) or None


def read_records(path: Path | None) -> tuple[Record, ...]:
    """The records in a file, by default the demo's invented people."""
    from xlmech.data.readers import demo_records, load_records

    return load_records(path) if path else demo_records()


def check_new(folder: Path) -> None:
    """Refuse before any work is done, not when it is saved."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; give a new one")
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(f"{folder} cannot be written, since {parent} is no folder to write to; give another")


def load(model: str, adapter: str | None, backend: Backend) -> Any:
    """The hooked model that a command works on."""
    from xlmech.models.load import load_model

    return load_model(model, adapter=adapter, backend=backend)


def show(title: str, frame: pd.DataFrame) -> None:
    """A frame as a table, "-" where nothing was measured."""
    from pandas.api.types import is_numeric_dtype
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in frame.columns:
        side: Literal["left", "right"] = "right" if is_numeric_dtype(frame[column]) else "left"
        shown.add_column(str(column).replace("_", "\n"), justify=side, overflow="fold")  # an audit's fit 80 characters
    for row in frame.itertuples(index=False):
        shown.add_row(
            *("-" if value != value else f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)
        )
    Console().print(shown)
