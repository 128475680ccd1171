"""A config as YAML text: read with the line of every key, written with comments, and its faults explained by line and key."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_WIDTH = 110
_LONGEST_VALUE = 60
_HEAD = """\
# What `xlmech run` is told: every key, with its default. Only model.source and data.records have none: fill them in.
# Paths are relative to this file's folder. Any other key may be left out; null means nothing given.
"""
Sections = Mapping[str, type[BaseModel]]
"""Schema of each section; that of the whole file is under ""."""


def parse_yaml(path: Path) -> tuple[yaml.Node, dict[str, Any]]:
    """The file's tree, which knows lines, and its content.

    Raises:
        ValueError: Not UTF-8, not YAML, empty, not a mapping, or a key given twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_bytes().decode("utf-8-sig"))
        root = loader.get_single_node()
        content = loader.construct_document(root) if root is not None else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(_not_yaml(path, error)) from None
    if root is None or content is None:
        raise ValueError(f"{path.name}: empty; write a config with every key with: xlmech init")
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name}, line {root.start_mark.line + 1}: expected sections such as 'model:' and 'data:', got {_shown(content)}"
        )
    _check_keys_once(path, root)
    return root, content


def dump_yaml(content: dict[str, Any]) -> str:
    """Plain values as YAML."""
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def template(sections: Sections) -> str:
    """A config with every key of the schema, its default (or example), and its docstring as comment."""
    lines = []
    for name, field in sections[""].model_fields.items():
        section = sections.get(name)
        if section is None:
            lines += ["", *_key(name, field)]
            continue
        lines += ["", f"# {section.__doc__}", f"{name}:"]
        lines += [f"  {line}" for key, inner in section.model_fields.items() for line in _key(key, inner)]
    return _HEAD + "\n".join(lines) + "\n"


def explain(error: ValidationError, root: yaml.Node, sections: Sections) -> str:
    """All faults in one sentence, by line: `line 3: model.dtyp: unknown key (did you mean 'dtype'?)`."""
    faults = [
        (_line(root, fault["loc"]), ".".join(map(str, fault["loc"])), _what(fault, sections))
        for fault in error.errors()
    ]
    return "; ".join(f"line {line}: {key}: {what}" for line, key, what in sorted(faults, key=lambda fault: fault[0]))


def _key(name: str, field: FieldInfo) -> Iterator[str]:
    choices = _choices(field)
    comment = f"{field.description} One of: {', '.join(choices)}." if choices else f"{field.description}"
    yield from (f"# {line}" for line in textwrap.wrap(comment, _WIDTH))
    value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    yield f"{name}: {json.dumps(value)}"


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _what(fault: Any, sections: Sections) -> str:
    """What is wrong with one value, and what would be right."""
    kind, loc, value = fault["type"], fault["loc"], _shown(fault["input"])
    fields = sections[str(loc[0]) if len(loc) > 1 else ""].model_fields
    if kind == "extra_forbidden":
        return f"unknown key{_hint(loc, fields, sections)}; known: {', '.join(fields)}"
    if kind == "missing":
        inner = sections[str(loc[0])].model_fields if len(loc) == 1 else {}
        needed = [key for key, field in inner.items() if field.is_required()]
        return f"missing; it has no default{f', and needs {needed[0]!r}' if needed else ''}"
    if kind == "literal_error":
        choices = _choices(fields[str(loc[1])])
        return f"{value} cannot be used{_close(fault['input'], choices)}; choices: {', '.join(choices)}"
    if kind == "model_type":
        return f"expected keys such as {next(iter(sections[str(loc[0])].model_fields))!r} below it, got {value}"
    if kind == "tuple_type":
        return f"expected a list such as [a, b], got {value}"
    if kind == "string_type":
        return f"expected text, got {value}; put it in quotes"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    return f"{fault['msg'][0].lower()}{fault['msg'][1:]}, got {value}"


def _hint(loc: Sequence[int | str], fields: Mapping[str, FieldInfo], sections: Sections) -> str:
    key = str(loc[-1])
    homes = [name for name, section in sections.items() if key in section.model_fields]
    if close := _close(key, list(fields)):
        return close
    return f" (it belongs in {f'the section {homes[0]!r}' if homes[0] else 'no section'})" if homes else ""


def _close(word: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shown(value: Any) -> str:
    """A value as it would stand in YAML, shortened."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _line(root: yaml.Node, loc: Sequence[int | str]) -> int:
    """Line, from 1, of the last part of `loc` that stands in the file."""
    node, line = root, int(root.start_mark.line)
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(part)]
            if not found:
                break
            key, node = found[0]
            line = int(key.start_mark.line)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = int(node.start_mark.line)
    return line + 1


def _check_keys_once(path: Path, root: Any) -> None:
    """YAML takes the last of two keys without a word."""
    sections = [value for _, value in root.value if isinstance(value, yaml.MappingNode)]
    for mapping in (root, *sections):
        seen: dict[Any, int] = {}
        for key, _ in mapping.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise ValueError(
                    f"{path.name}, line {line}: {name} is given twice (first in line {seen[name]}); keep one"
                )
            seen[name] = line


def _not_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path.name}, line {mark.line + 1}" if mark else path.name
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{where}: not valid YAML ({what}); check indentation, colons and quotes there"
