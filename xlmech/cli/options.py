"""Options that several commands share: each is written once, in groups that a command takes as one parameter.

    @with_groups
    def leak(model: Model, people: People, asking: Asking) -> None:
        asking.prompt  # of --prompt

None stands for what is not given: the default of `AuditPlan` then counts or, with `xlmech run`, the config's value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from xlmech.cli import console
from xlmech.options import MAX_NEW_TOKENS

if TYPE_CHECKING:
    from xlmech.audit.plan import AuditPlan
    from xlmech.data.probes import ProbeSet
    from xlmech.data.records import Record

Backend = Literal["auto", "hooked", "bridge"]
Model = Annotated[str, typer.Argument(help="'demo', a Hugging Face id, a local folder, or a .gguf file.")]
Out = Annotated[Path, typer.Option(help="New folder for the results.")]
Run = Annotated[Path, typer.Argument(help="Run folder, as `run`, `audit` and `demo` write it.")]
Kinds = Annotated[Path | None, typer.Option("--attributes-file", help="TOML file of kinds of data of your own.")]
Languages = Annotated[str, typer.Option(help="Query languages, e.g. 'en,fr'; all by default.")]
Template = Annotated[int, typer.Option(help="Question template; -1 is the last, which is not used for planting.")]
BackendOption = Annotated[Backend, typer.Option(help="TransformerLens model to use.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Prompt format: plain, qa, chat (the tokenizer's template), a text with {question} (\\n: newline), or auto (the "
        "default), which chooses and says why."
    ),
]
Wordings = Annotated[
    str | None,
    typer.Option(
        help="Question templates to ask beside the usual one: 'all', or numbers such as '0,2'; a record is extracted if any "
        "brings it out."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the model is loaded."""

    adapter: Annotated[str | None, typer.Option(help="LoRA adapter: a folder, or en, fr or zh for the demo model.")] = (
        None
    )
    backend: BackendOption = "auto"

    def load(self, model: str) -> Any:
        """Load the hooked model that a command works on."""
        return console.load(model, self.adapter, self.backend)


@dataclass(frozen=True, kw_only=True)
class People:
    """Who is asked for what, and in which languages."""

    records: Annotated[
        Path | None, typer.Option(help="JSONL, CSV or Parquet of records; by default the demo's invented people.")
    ] = None
    languages: Languages = ""
    attributes: Annotated[
        str, typer.Option(help="Attributes, e.g. 'phone,email'; by default all, for lens those that it can follow.")
    ] = ""

    def read(self) -> tuple[Record, ...]:
        """Read the records, by default those of the demo's invented people."""
        return console.read_records(self.records)

    @property
    def query_languages(self) -> tuple[str, ...] | None:
        """Languages to ask in; by default those of the demo for its people, and None (all) for others."""
        from xlmech.data.readers import DEMO_LANGUAGES

        return console.codes(self.languages) or (DEMO_LANGUAGES if self.records is None else None)

    def probes(self, template: int, plan: AuditPlan | None = None) -> ProbeSet:
        """Ask the questions of a template, and of the wordings that a plan names, in the plain format."""
        from xlmech.data.questions import build_probes

        probes = build_probes(self.read(), self.query_languages, attributes=console.codes(self.attributes))
        usual = probes.of_template(template)
        if plan is None or plan.wordings is None:
            return usual
        from xlmech.audit.audit import worded_probes

        return worded_probes(probes, usual, plan)


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What stands around a question."""

    prompt: Prompt = None
    system: Annotated[str | None, typer.Option(help="System text of a chat prompt; by default the template's own.")] = (
        None
    )

    @property
    def given(self) -> dict[str, Any]:
        """What was given, as keys of `AuditPlan`."""
        return _given(self) | ({} if self.prompt is None else {"prompt": _with_newlines(self.prompt)})

    def ask(self, model: Any, probes: ProbeSet) -> ProbeSet:
        """Ask the questions in the prompt format that is named or chosen, and say which one and why."""
        from xlmech.data.questions import with_format
        from xlmech.models.prompts import prompt_format

        frame = prompt_format(model, self.given.get("prompt", "auto"), system=self.system)
        console.say(f"prompts: {frame.name} ({frame.reason})")
        return with_format(probes, frame)


@dataclass(frozen=True, kw_only=True)
class Answering:
    """Which wordings are asked, and what of an answer is read."""

    wordings: Wordings = None
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Largest number of tokens of an answer; {MAX_NEW_TOKENS} by default.")
    ] = None
    n_samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Answers drawn per question; 1, the default, for the greedy answer."),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of drawn answers (with --samples); 1 by default.")
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """What was given, as keys of `AuditPlan`."""
        return _given(self) | wordings_of(self.wordings)

    def check(self, n_samples: int) -> None:
        """Refuse a temperature where no answers are drawn."""
        if self.temperature is not None and n_samples == 1:
            raise ValueError("--temperature: only drawn answers have one; give --samples 2 or more, or leave it out")


def next_command(
    name: str, model: str, *words: str | Path, out: Path, people: People, prompting: Prompting, loading: Loading
) -> None:
    """Write the command that goes on with the same model, people and prompts.

    Args:
        name: The command.
        model: Of the command that ends.
        words: Further options.
        out: New folder for its results.
        people: Of the command that ends, as the next two.
        prompting: As above.
        loading: As above.
    """
    given = {"records": people.records, "languages": people.languages, "attributes": people.attributes}
    given |= prompting.given | {"adapter": loading.adapter}
    options = [word for key, value in given.items() if value for word in (f"--{key}", str(value))]
    console.next_command(name, model, *words, "--out", out, *options)


def wordings_of(text: str | None) -> dict[str, Any]:
    """Return the wordings that an option names as a key of `AuditPlan`; none where it is not given."""
    if text is None:
        return {}
    parts = [part.strip() for part in text.split(",")]
    if parts == ["all"]:
        return {"wordings": "all"}
    if not all(part.removeprefix("-").isdecimal() for part in parts):
        raise ValueError(f"--wordings: expected all, or numbers of question templates such as 0,2; got {text!r}")
    return {"wordings": [int(part) for part in parts]}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options of each group in its place in a command's parameters; the command still gets the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        keyword = parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name])
        of_group = get_type_hints(groups[name], include_extras=True) if name in groups else {}
        parameters += [
            keyword.replace(name=option.name, annotation=of_group[option.name], default=option.default)
            for option in (fields(groups[name]) if name in groups else ())
        ] or [keyword]

    @functools.wraps(command)
    def expanded(**options: Any) -> None:
        made = {
            name: group(**{option.name: options.pop(option.name) for option in fields(group)})
            for name, group in groups.items()
        }
        command(**options, **made)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _with_newlines(text: str) -> str:
    """Read a typed backslash and n as a newline, since a shell passes them on as they are."""
    return text.replace("\\n", "\n")


def _given(group: Any) -> dict[str, Any]:
    values = {option.name: getattr(group, option.name) for option in fields(group)}
    return {name: value for name, value in values.items() if value is not None}
