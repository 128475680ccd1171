"""A config as YAML text: read with the line of every key, written with comments, and its faults explained by line and key."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML, CommentedMap, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from xlmech.checks import hint

Sections = Mapping[str, type[BaseModel]]
"""Schema of each section; that of the whole file is under ""."""

_MOST_CHARACTERS = 100_000
_DEEPEST = 8
_MOST_FAULTS = 4


def parse_yaml(path: Path) -> tuple[CommentedMap, dict[str, Any]]:
    """Read a config file: a tree that knows the lines of its keys, and the plain content.

    Nothing of the file is quoted in an error: it may be a file of records that was given by mistake.

    Raises:
        ValueError: Not UTF-8, not YAML, empty, not a mapping, a key given twice, an alias, or more than a config can be.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        _check_size(text, path.name)
        content, tree = (_yaml(kind).load(text) for kind in ("safe", "rt"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}, line {mark.line + 1}" if mark else path.name
        if isinstance(error, DuplicateKeyError):
            raise ValueError(f"{where}: a key of this section is given twice; keep one") from None
        raise ValueError(f"{where}: not valid YAML; check indentation, colons and quotes there") from None
    if content is None:
        raise ValueError(f"{path.name}: empty; write a config with every key with: xlmech init")
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name}, line 1: expected sections such as 'model:' and 'data:', got {_kind_of(content)}"
        )
    return tree, content


def dump_yaml(content: Any, *, one_line: bool = False) -> str:
    """Write plain values as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = one_line
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = True
    yaml.width = 10**6
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def template(sections: Sections, *, left_out: Sequence[str] = ()) -> str:
    """Write a config with every key of the schema, its default (or example), and its docstring as comment.

    Args:
        sections: Schema of each section.
        left_out: Sections that are written as comments.
    """
    lines = [
        "# What `xlmech run` is told: every key, with its default. Only model.source and data.records have none: fill them in.",
        "# Paths are relative to this file's folder. Any other key may be left out; null means nothing given.",
    ]
    for name, field in sections[""].model_fields.items():
        if name not in sections:
            lines += ["", *_key(name, field)]
            continue
        section = [f"{name}:"]
        section += [f"  {line}" for key, inner in sections[name].model_fields.items() for line in _key(key, inner)]
        lines += ["", f"# {sections[name].__doc__}"]
        if name in left_out:
            lines += ["# Left out by default: take the first # away from every line to have it."]
            section = [f"#{line}" for line in section]
        lines += section
    return "\n".join(lines) + "\n"


def minimal_template(sections: Sections) -> str:
    """Write a config with the keys alone that have no default, each with its docstring as comment."""
    lines = ["# What `xlmech run` must be told. Every other key has a default: `xlmech init` writes them all."]
    for name, schema in sections.items():
        required = {key: field for key, field in schema.model_fields.items() if field.is_required() and name}
        if required:
            lines += [f"{name}:", *(f"  {line}" for key, field in required.items() for line in _key(key, field))]
    return "\n".join(lines) + "\n"


def explain(error: ValidationError, tree: CommentedMap, sections: Sections) -> str:
    """Explain the first faults in one sentence, by line: `line 3: model: unknown key (did you mean 'dtype'?)`.

    Neither keys that are not ours nor values are quoted.
    """
    found = sorted(error.errors(), key=lambda fault: _line(tree, fault["loc"]))
    shown = [f"line {_line(tree, fault['loc'])}: {_key_of(fault)}{_fault(fault, sections)}" for fault in found]
    more = len(shown) - _MOST_FAULTS
    return "; ".join([*shown[:_MOST_FAULTS], *([f"and {more} more"] if more > 0 else [])])


def _check_size(text: str, name: str) -> None:
    """Raise ValueError for what no config needs, and what would take forever to read: aliases, depth, length."""
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{name}: {len(text):,} characters, which is no config; write one with: xlmech init")
    depth = 0
    for event in _yaml("safe").parse(text):
        where = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, AliasEvent):
            raise ValueError(f"{where}: an alias (*), which a config cannot have; write the value itself")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"{where}: nested deeper than a config can be; check indentation and brackets")


def _yaml(kind: str) -> YAML:
    yaml = YAML(typ=kind, pure=True)
    yaml.version = (1, 1)
    return yaml


def _key(name: str, field: FieldInfo) -> Iterator[str]:
    choices = _choices(field)
    comment = f"{field.description} One of: {', '.join(choices)}." if choices else f"{field.description}"
    yield from (f"# {line}" for line in textwrap.wrap(comment, 110))
    value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    yield f"{name}: {json.dumps(value)}"


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _key_of(fault: Any) -> str:
    """Name the place of a fault by keys that are ours: all but one that is not known, or no text."""
    loc = fault["loc"][:-1] if fault["type"] in ("extra_forbidden", "invalid_key") else fault["loc"]
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def _fault(fault: Any, sections: Sections) -> str:
    """What is wrong with one value, and what would be right."""
    kind, loc, value = fault["type"], fault["loc"], _kind_of(fault["input"])
    fields = sections[str(loc[0]) if len(loc) > 1 else ""].model_fields
    if kind == "extra_forbidden":
        return f"unknown key{hint(loc[-1], fields) or _home(str(loc[-1]), sections)}; known: {', '.join(fields)}"
    if kind == "missing":
        inner = sections[str(loc[0])].model_fields if len(loc) == 1 else {}
        needed = [key for key, field in inner.items() if field.is_required()]
        return f"missing; it has no default{f', and needs {needed[0]!r}' if needed else ''}"
    if kind == "literal_error":
        choices = _choices(fields[str(loc[1])])
        return f"not one of the choices{hint(fault['input'], choices)}: {', '.join(choices)}"
    if kind == "model_type":
        return f"expected keys such as {next(iter(sections[str(loc[0])].model_fields))!r} below it, got {value}"
    if kind == "tuple_type":
        return f"expected a list such as [a, b], got {value}"
    if kind == "string_type":
        return f"expected text, got {value}; put it in quotes"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    return f"{fault['msg'][0].lower()}{fault['msg'][1:]}, got {value}"


def _home(key: str, sections: Sections) -> str:
    """Return the section to which a key belongs, in brackets; "" if no section has it."""
    homes = [name for name, section in sections.items() if key in section.model_fields]
    return f" (it belongs in {f'the section {homes[0]!r}' if homes[0] else 'no section'})" if homes else ""


def _kind_of(value: Any) -> str:
    """Say what kind of value stands there, not which."""
    kinds = {bool: "true or false (so are yes, no, on, off)", str: "text", int: "a number", float: "a number"}
    more: dict[type, str] = {list: "a list", dict: "keys and values", type(None): "nothing"}
    return (kinds | more).get(type(value), "another kind of value")


def _line(tree: CommentedMap, loc: Sequence[int | str]) -> int:
    """Line, from 1, of the deepest part of `loc` that stands in the file."""
    node: Any = tree
    line = tree.lc.line
    for part in loc:
        keys = {str(key): key for key in (range(len(node)) if isinstance(node, list) else node or ())}
        if str(part) not in keys:
            break
        line = node.lc.data[keys[str(part)]][0]
        node = node[keys[str(part)]]
    return int(line) + 1
