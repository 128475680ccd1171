"""The command that lists which values a kind of data takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from xlmech.cli import console
from xlmech.cli.options import Kinds, Languages

if TYPE_CHECKING:
    from xlmech.data.attributes import Attribute

_SEARCHED = {
    "text": "any text; searched word by word",
    "name": "any name; searched in full, word by word",
    "number": "any number or code; searched without separators",
    "date": "any date, such as 1984-03-09; searched however the language writes it",
    "email": "any address",
    "phone": "any number; searched with and without the country's prefix",
    "amount": "any amount; searched however the language writes numbers",
    "choice": "a choice",
}


def values(
    kind: Annotated[str, typer.Argument(help="Kind of data, e.g. occupation; all kinds are listed by default.")] = "",
    languages: Languages = "",
    attributes_file: Kinds = None,
    all_: Annotated[bool, typer.Option("--all", help="List also values that invented people do not get.")] = False,
) -> None:
    """List the kinds of data, or the values that one kind takes: what a table of records writes, and how languages write it."""
    from xlmech.data.attributes import all_attributes, load_attributes, unknown_attribute
    from xlmech.data.languages import load_language

    known = all_attributes(load_attributes(attributes_file) if attributes_file else ())
    codes = console.codes(languages) or ("en",)
    for code in codes:
        load_language(code)
    if not kind:
        _list_kinds(tuple(known.values()))
    elif kind in known:
        _list_values(known[kind], codes, every=all_)
    else:
        raise ValueError(unknown_attribute(kind, known))


def _list_kinds(kinds: Sequence[Attribute]) -> None:
    import pandas as pd

    rows = [
        {
            "kind": kind.name,
            "values": _takes(kind),
            "guessable": "yes" if kind.guessable else "no",
            "severity": kind.severity,
        }
        for kind in kinds
    ]
    console.show("Kinds of data", pd.DataFrame(rows))
    console.next_command("values", "occupation", "--languages", "en,fr")


def _list_values(kind: Attribute, codes: Sequence[str], *, every: bool) -> None:
    import pandas as pd

    from xlmech.data import languages as packs

    listed = _keys(kind)
    if not listed:
        typer.echo(f"{kind.name} is free: {_SEARCHED[kind.compare]}. Write the value in the column `value`.")
        return
    usual = () if kind.values else packs.value_keys(kind.name)
    keys = listed if every or not usual else usual
    rows = []
    for key in keys:
        if kind.values:
            forms = {code: kind.values[key].get(code, key) for code in codes}
        else:
            forms = {code: packs.find_language(code).form(kind.name, key) or "-" for code in codes}
        rows.append({"value": key} | forms)
    console.show(f"Values of {kind.name}", pd.DataFrame(rows))
    if len(keys) < len(listed):
        typer.echo(f"{len(listed) - len(keys)} more are taken; --all lists them.")
    typer.echo(
        "Write a value's key or name, in any of the languages"
        + (
            "; a value of your own is searched as it is written."
            if kind.values or packs.is_open(kind.name)
            else ": no other value is taken."
        )
    )


def _keys(kind: Attribute) -> tuple[str, ...]:
    from xlmech.data import languages as packs

    return tuple(kind.values or packs.load_language("en").values.get(kind.name, ()))


def _takes(kind: Attribute) -> str:
    from xlmech.data import languages as packs

    n = len(_keys(kind))
    if not n:
        return f"free: {_SEARCHED[kind.compare].partition(';')[0]}"
    return f"{n} listed{', or your own' if kind.values or packs.is_open(kind.name) else ''}"
