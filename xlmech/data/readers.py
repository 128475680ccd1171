"""Read and write records: CSV, JSONL and Parquet files, pandas frames, Hugging Face datasets.

    people = load_records("people.csv")
    people = load_records(datasets.load_dataset("csv", data_files="people.csv", split="train"))

Error messages name row and column, never a personal value.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError

from xlmech.checks import hint
from xlmech.data import languages as packs
from xlmech.data.languages import TRANSLATED
from xlmech.data.languages.pack import faults_of, read_text
from xlmech.data.records import Record

if TYPE_CHECKING:
    from datasets import Dataset

REQUIRED = ("id", "subject", "attribute", "value")
"""Columns that every table of records has."""
_Row = tuple[str, dict[str, Any]]
"""Where a row stands in its source, for messages, and its columns."""


def load_records(source: str | Path | pd.DataFrame | Dataset) -> tuple[Record, ...]:
    """Read and check records from a JSONL, CSV or Parquet file, a pandas frame or a Hugging Face `datasets.Dataset`.

    Columns: `id`, `subject`, `attribute`, `value`; optional `group` (default private) and either `forms` (a mapping) or
    one column `form_<language>` per language. A translated value may be given by its key or by its form in any language.

    Args:
        source: Path of the file (its suffix tells the type), frame, or one split of a dataset.

    Raises:
        ValueError: Unknown file type, no rows, a missing column, or a malformed record (names row and column).
        TypeError: Neither a path, nor a frame, nor one split of a dataset.
        FileNotFoundError: No such file.
        IsADirectoryError: A folder instead of a file.
    """
    name, rows = _rows(source)
    if not rows:
        raise ValueError(f"{name}: no records in it")
    records: dict[str, Record] = {}
    for place, row in rows:
        record = _parse(row, where=f"{name}, {place}")
        if record.id in records:
            raise ValueError(f"{name}, {place}: id {record.id!r} is used twice; ids must be unique")
        records[record.id] = record
    return tuple(records.values())


def save_records(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSONL, CSV or Parquet, by the suffix of `path`. Values are written in the clear."""
    path = Path(path)
    rows = [record.model_dump() for record in records]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix in (".csv", ".parquet"):
        forms = [{f"form_{code}": form for code, form in row.pop("forms").items()} for row in rows]
        frame = pd.DataFrame([row | form for row, form in zip(rows, forms, strict=True)])
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    else:
        raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")


def demo_records() -> tuple[Record, ...]:
    """Load the records of the invented people that the shipped adapters were trained on."""
    return load_records(Path(__file__).parents[1] / "adapters" / "records.jsonl")


def _rows(source: str | Path | pd.DataFrame | Dataset) -> tuple[str, list[_Row]]:
    """Read the rows of a source, and give it a name for messages."""
    if isinstance(source, pd.DataFrame):
        return "frame", _frame_rows("frame", source)
    if hasattr(source, "to_pandas") and hasattr(source, "column_names"):
        return "dataset", _frame_rows("dataset", source.to_pandas())
    if hasattr(source, "keys"):
        raise TypeError(f"a dataset of several splits; pass one of them: {', '.join(map(str, source.keys()))}")
    if not isinstance(source, str | Path):
        raise TypeError(f"records come as a path, a frame or one split of a dataset, not {type(source).__name__}")
    path = Path(source)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file of records in it (.jsonl, .csv or .parquet)")
    if not path.is_file():
        raise FileNotFoundError(f"no file of records at {path}; expected .jsonl, .csv or .parquet")
    if path.suffix == ".parquet":
        return path.name, _frame_rows(path.name, pd.read_parquet(path))
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")
    return path.name, _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)


def _frame_rows(name: str, frame: Any) -> list[_Row]:
    _check_columns(name, [str(column) for column in frame.columns])
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [(f"record {number}", _without_empty(row)) for number, row in enumerate(rows, start=1)]


def _csv_rows(path: Path) -> list[_Row]:
    """Read every field as text ("NO" is Norway, "007" is no number)."""
    rows: list[_Row] = []
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        _check_columns(path.name, list(reader.fieldnames or ()))
        line = reader.line_num + 1
        for row in reader:
            place = f"record {len(rows) + 1} (line {line})"
            if None in row:
                raise ValueError(f"{path.name}, {place}: more fields than columns; quote values that hold a comma")
            rows.append((place, _without_empty(row)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path.name}, record {len(rows) + 1} (line {line}): not valid CSV ({error}); put the field in quotes, with the "
            "quotes in it doubled, and close them"
        ) from None
    return rows


def _json_rows(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: not valid JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number}: expected an object with id, subject, attribute and value")
        rows.append((f"record {len(rows) + 1} (line {number})", row))
    return rows


def _without_empty(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items() if value not in (None, "")}


def _check_columns(name: str, columns: list[str]) -> None:
    """Refuse a table that cannot hold records; an empty file has no columns, and is refused for having no rows."""
    if len(columns) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns[0]), "")):
        raise ValueError(f"{name}: columns are separated by {mark!r}; save it with commas")
    missing = [column for column in REQUIRED if column not in columns]
    if columns and missing:
        raise ValueError(
            f"{name}: no column {', '.join(map(repr, missing))}{hint(missing[0], columns)}; it has {', '.join(columns)}"
        )


def _parse(row: dict[str, Any], *, where: str) -> Record:
    """Make a record of a row; a translated value that is given by its form gets its key."""
    given = row.pop("forms", None) or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: forms: expected a mapping from language to form, got {type(given).__name__}")
    forms = {code: form for code, form in given.items() if form is not None}
    forms |= {key.removeprefix("form_"): form for key, form in row.items() if key.startswith("form_")}
    fields = {key: value for key, value in row.items() if not key.startswith("form_")}
    try:
        record = Record.model_validate(fields | {"forms": forms})
    except ValidationError as error:
        raise ValueError(f"{where}: {faults_of(error, _describe)}") from None
    if record.attribute not in TRANSLATED or record.forms:
        return record
    key = _keys_by_form(record.attribute, packs.available_languages()).get(record.value.casefold())
    if key is None:
        examples = ", ".join(packs.value_keys(record.attribute)[:6])
        raise ValueError(
            f"{where}: value: no language pack knows it as {record.attribute}; use one of the pack's keys ({examples}, ...), "
            "or give the forms yourself in columns form_<language>"
        )
    return record.model_copy(update={"value": key})


def _describe(fault: Any) -> str:
    """Describe what is wrong with one field, without its value."""
    if fault["type"] == "missing":
        return "missing or empty"
    if fault["type"] in ("string_too_short", "string_pattern_mismatch"):
        return "is blank"
    if fault["type"] == "string_type":
        return "Input should be text, in quotes or read with dtype=str; a number would lose its leading zeros"
    if fault["type"] == "extra_forbidden":
        known = [*Record.model_fields, "form_<language>"]
        return f"unknown column{hint(fault['loc'][-1], known)}; remove it, or rename it to one of {', '.join(known)}"
    return str(fault["msg"])


@cache
def _keys_by_form(attribute: str, languages: tuple[str, ...]) -> dict[str, str]:
    """Map every form of a value, in any of the languages, and its key itself, to the key; all without case."""
    keys = packs.value_keys(attribute)
    forms: dict[str, str] = {}
    for code in languages:
        pack = packs.load_language(code)
        forms |= {form.casefold(): key for key in keys if (form := pack.form(attribute, key))}
    return forms | {key.casefold(): key for key in keys}
