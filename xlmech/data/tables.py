"""Read a table of any file type into rows of text, with where each row stands."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xlmech.checks import hint
from xlmech.data.languages.pack import read_text

REQUIRED = ("id", "subject", "attribute", "value")
"""Columns that every table of records has."""
SUFFIXES = (".csv", ".tsv", ".xlsx", ".jsonl", ".parquet")
_Row = tuple[str, dict[str, Any]]
"""Where a row stands in its source, for messages, and its columns."""
_Rows = tuple[list[_Row], list[str]]
"""Rows, and a sentence per row that cannot be read."""


def read_table(source: Any) -> tuple[str, list[_Row], list[str]]:
    """Read the rows of a source that hold anything, and give it a name for messages; raises as `load_records`.

    Returns:
        The source's name; the rows; a sentence per row that cannot be read.
    """
    name, (rows, faults) = _read_rows(source)
    return name, _without_index(name, rows), faults


def _read_rows(source: Any) -> tuple[str, _Rows]:
    if isinstance(source, pd.DataFrame):
        return "frame", (_frame_rows("frame", source), [])
    if hasattr(source, "to_pandas") and hasattr(source, "column_names"):
        return "dataset", (_frame_rows("dataset", source.to_pandas()), [])
    if hasattr(source, "keys") and all(hasattr(split, "column_names") for split in source.values()):
        raise TypeError(f"a dataset of several splits; pass one of them: {', '.join(map(str, source.keys()))}")
    if not isinstance(source, str | Path):
        raise TypeError(f"records come as a path, a frame or one split of a dataset, not {type(source).__name__}")
    path = Path(source)
    types = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file of records in it ({types})")
    if not path.is_file():
        raise FileNotFoundError(f"no file of records at {path}; expected {types}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use {types}")
    if suffix == ".parquet":
        return path.name, (_frame_rows(path.name, pd.read_parquet(path)), [])
    if suffix == ".xlsx":
        return path.name, (_frame_rows(path.name, _read_excel(path), word="row", first=2), [])
    if suffix == ".jsonl":
        return path.name, _json_rows(path)
    return path.name, _text_rows(path, "\t" if suffix == ".tsv" else ",")


def _read_excel(path: Path) -> pd.DataFrame:
    try:
        return pd.read_excel(path, dtype=str, keep_default_na=False)
    except ImportError as error:
        raise ImportError('an Excel file needs openpyxl: pip install "xlmech[excel]"') from error
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"{path.name}: not a readable .xlsx file ({type(error).__name__}); save it again, or as .csv"
        ) from None


def _frame_rows(name: str, frame: Any, *, word: str = "record", first: int = 1) -> list[_Row]:
    columns = _columns(name, [str(column) for column in frame.columns])
    rows = frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)
    return [
        (f"{word} {number}", _without_empty(dict(zip(columns, row, strict=True))))
        for number, row in enumerate(rows, start=first)
        if _has_any(row)
    ]


def _text_rows(path: Path, delimiter: str) -> _Rows:
    """Read every field as text ("NO" is Norway, "007" is no number)."""
    rows: list[_Row] = []
    faults: list[str] = []
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, delimiter=delimiter)
    number, line = 0, 1
    try:
        columns = _columns(path.name, next(reader, []), delimiter)
        line = reader.line_num + 1
        for fields in reader:
            number += bool(fields)
            place = f"record {number} (line {line})"
            line = reader.line_num + 1
            if not _has_any(fields):
                continue
            if len(fields) > len(columns):
                mark = "comma" if delimiter == "," else "tab"
                faults.append(f"{place}: more fields than columns; quote values that hold a {mark}")
                continue
            rows.append((place, _without_empty(dict(zip(columns, fields, strict=False)))))
    except csv.Error as error:
        if "field limit" in str(error):
            raise ValueError(
                f"{path.name}, record {number + 1} (line {line}): a field has more than {csv.field_size_limit():,} characters; "
                "close the quotes that it begins with, or shorten it"
            ) from None
        raise ValueError(
            f"{path.name}, record {number + 1} (line {line}): not valid CSV ({error}); put the field in quotes, with the "
            "quotes in it doubled, and close them"
        ) from None
    return rows, faults


def _json_rows(path: Path) -> _Rows:
    rows: list[_Row] = []
    faults: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            faults.append(f"line {number}: not valid JSON ({error.msg})")
            continue
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        if not isinstance(row, dict):
            faults.append(f"line {number}: expected an object with id, subject, attribute and value")
            continue
        fields = _without_empty({_column(str(column)): value for column, value in row.items()})
        rows.append((f"record {len(rows) + 1} (line {number})", fields))
    return rows, faults


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]:
        raise ValueError(f"key {', '.join(map(repr, twice))} is there twice; remove one")
    return dict(pairs)


def _has_any(fields: Any) -> bool:
    return any(field is not None and str(field).strip() for field in fields)


def _without_empty(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items() if value is not None and str(value).strip()}


def _column(text: str) -> str:
    """Return a column's name in one spelling; "" for none, as pandas calls "Unnamed: 0"."""
    name = text.strip()
    if re.fullmatch(r"Unnamed: \d+", name):
        return ""
    return name.lower() if name.lower() in REQUIRED + ("group",) else name


def _without_index(name: str, rows: list[_Row]) -> list[_Row]:
    """Leave out a column without a name that counts the rows, as pandas writes it.

    Raises:
        ValueError: A column without a name that holds anything else.
    """
    if not all(str(row.get("", 0)).isdecimal() for _, row in rows):
        raise ValueError(f"{name}: a column has no name in the header; name it, or remove it")
    return [(place, {column: value for column, value in row.items() if column}) for place, row in rows]


def _columns(name: str, header: list[str], delimiter: str = ",") -> list[str]:
    """Return a table's column names in one spelling; an empty file has none, and is refused for having no rows.

    Raises:
        ValueError: Another separator; a column that is missing or there twice.
    """
    columns = [_column(column) for column in header]
    if len(columns) == 1 and (mark := next((mark for mark in ";\t|," if mark in columns[0] and mark != delimiter), "")):
        wanted = "commas" if delimiter == "," else "tabs, or name it .csv"
        raise ValueError(f"{name}: columns are separated by {mark!r}; save it with {wanted}")
    if twice := [column for column, n in Counter(columns).items() if n > 1 and column]:
        raise ValueError(f"{name}: column {', '.join(map(repr, twice))} is there twice; remove one")
    missing = [column for column in REQUIRED if column not in columns]
    if columns and len(missing) == len(REQUIRED):
        raise ValueError(f"{name}: the first row is no header; it must name the columns {', '.join(REQUIRED)}")
    if columns and missing:
        raise ValueError(
            f"{name}: no column {', '.join(map(repr, missing))}{hint(missing[0], columns)}; it has {', '.join(columns)}"
        )
    return columns
