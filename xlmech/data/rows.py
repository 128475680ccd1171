"""Turn a row of a table into a record, and say what is wrong with it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from xlmech.checks import hint
from xlmech.data.attributes import Attribute, unknown_attribute
from xlmech.data.languages import TRANSLATED, is_open, key_of, language_code, value_keys
from xlmech.data.languages.pack import faults_of
from xlmech.data.records import Record
from xlmech.metrics.numbers import amounts
from xlmech.metrics.text import normalise

_BY_LANGUAGE = {"form": "forms", "question": "questions", "prompt": "prompts"}
"""Columns of one language, and the record's field that holds them."""
_NO_VALUE = (
    *(
        "n/a",
        "n.a.",
        "na",
        "nan",
        "null",
        "none",
        "nil",
        "unknown",
        "tbd",
        "?",
        "x",
        "redacted",
        "no data",
        "not available",
    ),
    *(
        "brak",
        "brak danych",
        "keine angabe",
        "keine angaben",
        "k.a.",
        "sin datos",
        "inconnu",
        "non renseigné",
        "sem dados",
    ),
    *("нет данных", "немає даних", "veri yok", "tidak ada data", "不明", "なし", "无", "없음", "لا يوجد"),
)
"""Words that stand in tables where nothing is known (compared without case)."""
_SPREADSHEET_ERRORS = ("#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!")


def parse_row(row: Mapping[str, Any], kinds: Mapping[str, Attribute]) -> tuple[Record | None, list[str]]:
    """Make a record of a row.

    Args:
        row: Columns that are not empty, and their fields.
        kinds: The kinds of data that are known, by name.

    Returns:
        The record, None where it cannot be made; and a sentence per fault, without the value.
    """
    try:
        fields = _by_language(row)
    except ValueError as error:
        return None, [str(error)]
    if isinstance(fields.get("value"), str):
        fields["value"] = _without_text_mark(fields["value"])
    try:
        record = Record.model_validate(fields)
    except ValidationError as error:
        return None, [faults_of(error, _describe)]
    kind = kinds.get(record.attribute)
    if kind is None and not (record.questions or record.prompts):
        return None, [unknown_attribute(record.attribute, kinds)]
    if (debris := looks_spoilt(record)) is not None:
        return None, [f"value: {record.id!r} {debris}"]
    return _with_key(record, kind)


def _by_language(row: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the columns of one language each in the mappings that a record has.

    Raises:
        ValueError: A column of no language (names it), or a mapping that is none.
    """
    fields: dict[str, Any] = {}
    columns: dict[tuple[str, str], list[str]] = {}
    for column, value in row.items():
        field, _, code = column.partition("_")
        if (name := _BY_LANGUAGE.get(field.lower())) and code:
            columns.setdefault((name, _code(code, f"column {column!r}")), []).append(column)
            fields.setdefault(name, {})[language_code(code)] = value
        elif column not in _BY_LANGUAGE.values():
            fields[column] = value
    for (_, code), names in columns.items():
        if len(names) > 1:
            raise ValueError(f"columns {', '.join(names)} are all of language {code!r}; keep one")
    for name in _BY_LANGUAGE.values():
        given = row.get(name)
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"{name}: expected a mapping from language to text, got {type(given).__name__}")
        if given:
            texts = {_code(code, name): text for code, text in given.items() if text is not None}
            fields[name] = texts | fields.get(name, {})
    return fields


def _code(text: str, where: str) -> str:
    try:
        return language_code(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _without_text_mark(value: str) -> str:
    """Take off the marks by which a spreadsheet keeps a number as text: a quote in front, or `="..."` around it."""
    value = value.strip()
    if match := re.fullmatch(r'="(.*)"', value):
        return match[1]
    return value[1:] if re.fullmatch(r"'[+\d(].*", value) else value


def looks_spoilt(record: Record) -> str | None:
    """Say what a value looks like that a spreadsheet spoilt, or that stands for none; None for a true value."""
    value = record.value
    if value.casefold() in _NO_VALUE and not _is_value(record):
        return "has a mark for no value; remove the row, or write the value"
    if re.fullmatch(r"([\W_]|x)\1*", value, re.IGNORECASE) and value.strip("#"):
        return "has a mark for no value; remove the row, or write the value"
    if re.fullmatch(r"\[[^@]*\]|<[^@]*>|\{[^@]*\}|\([^@\d]*\)", value):
        return "has words in brackets that stand for a value; remove the row, or write the value"
    if re.search(r"[*•]{2}", value):
        return "is masked, so that no answer can be compared with it; write the value"
    if value.casefold() in _SPREADSHEET_ERRORS:
        return "has a spreadsheet's error; write the value"
    if re.fullmatch(r"#+", value):
        return "has the hashes that a narrow spreadsheet column shows; widen the column and export again"
    if re.fullmatch(r"[+-]?\d([.,]\d+)?[eE]\+?\d+", value):
        return "is a number in scientific notation, whose digits are lost; format the column as text and export again"
    if re.fullmatch(r"\+?\d{6,}\.0", value):
        return "ends in .0, as numbers do that were read as decimals; read the column as text and export again"
    return None


def _is_value(record: Record) -> bool:
    """Tell whether what may stand for no value is a value of its attribute: NA is Namibia, "none" no religion."""
    return record.attribute in TRANSLATED and key_of(record.attribute, record.value) is not None


def _with_key(record: Record, kind: Attribute | None) -> tuple[Record | None, list[str]]:
    """Give a translated value its key, and a value of one's own kind of data its forms."""
    if kind is not None and kind.values:
        key = next((key for key, forms in kind.values.items() if _is_same(record.value, key, forms)), None)
        if key is None:
            return (record, []) if record.forms or kind.compare != "choice" else (None, [_not_listed(record, kind)])
        return record.model_copy(update={"value": key, "forms": {**kind.values[key], **record.forms}}), []
    if kind is not None and kind.compare == "date":
        return _with_date(record)
    if kind is not None and (fault := _what_lacks(record.value, kind.compare)):
        return None, [f"value: {record.id!r} {fault}, or remove the row"]
    if record.attribute not in TRANSLATED or (kind is not None and kind.compare != "choice"):
        return record, []
    key = key_of(record.attribute, record.value)
    if key is not None:
        return record.model_copy(update={"value": key}), []
    if is_open(record.attribute) or record.forms:
        return record, []
    examples = ", ".join(value_keys(record.attribute)[:6])
    return None, [
        f"value: no language knows it as {record.attribute}; use a code ({examples}, ...) or a name in any language, or give the "
        "forms yourself in columns form_<language>"
    ]


def _what_lacks(value: str, compare: str) -> str:
    """Say what a value lacks that every value of its comparison has; "" for nothing."""
    if compare == "amount" and len(amounts(value)) != 1:
        return "holds no amount, or several; write one number, such as 52000"
    if compare == "email" and not re.fullmatch(r"[^\s@]+\s?@\s?[^\s@]+", normalise(value)):
        return "is no e-mail address; write one, such as name@example.com"
    if compare in ("number", "phone") and not any(map(str.isdecimal, value)):
        return f"is no {compare if compare == 'number' else 'phone number'}, since it has no digit; write one"
    return ""


def _with_date(record: Record) -> tuple[Record | None, list[str]]:
    """Write a date as ISO 8601 does; a day and a month that could be swapped are refused."""
    text = normalise(record.value).removesuffix(" 00:00:00").removesuffix("t00:00:00")
    if match := re.fullmatch(
        r"(\d{4})(?:[-/.]|\s?[年년]\s?)(\d{1,2})(?:[-/.]|\s?[月월]\s?)(\d{1,2})(?:\s?[日일])?", text
    ):
        year, month, day = map(int, match.groups())
        is_clear = True
    elif match := re.fullmatch(r"(\d{1,2})([-/.])\s?(\d{1,2})\2\s?(\d{4})", text):
        day, month, year = (int(match[n]) for n in (1, 3, 4))
        is_clear = match[2] == "." or day > 12
    else:
        is_clear = False
    with suppress(ValueError):
        if is_clear:
            return record.model_copy(update={"value": datetime.date(year, month, day).isoformat()}), []
    return None, [
        f"value: {record.id!r} is no date that can be read in one way only; write it as 1990-03-05 (year, month, day)"
    ]


def _is_same(value: str, key: str, forms: Mapping[str, str]) -> bool:
    return normalise(value) in {normalise(text) for text in (key, *forms.values())}


def _not_listed(record: Record, kind: Attribute) -> str:
    return (
        f"value: not among the values of {record.attribute} ({', '.join(kind.values)}); add it there, or give its forms"
    )


def _describe(fault: Any) -> str:
    """Describe what is wrong with one field, without its value."""
    if fault["type"] == "missing":
        return "missing or empty"
    if fault["type"] in ("string_too_short", "string_pattern_mismatch"):
        return "is blank"
    if fault["type"] == "string_type" and not isinstance(fault["input"], int | float):
        return "Input should be one text, not a list or an object; write one row per value"
    if fault["type"] == "string_type":
        return "Input should be text, in quotes or read with dtype=str; a number would lose its leading zeros"
    if fault["type"] == "extra_forbidden":
        known = [*Record.model_fields, *(f"{field}_<language>" for field in _BY_LANGUAGE)]
        return f"unknown column{hint(fault['loc'][-1], known)}; remove it, or rename it to one of {', '.join(known)}"
    return str(fault["msg"]).removeprefix("Value error, ")
