"""Records: one fact about one person each; read, checked and written.

    people = load_records("people.csv")
    people = load_records(datasets.load_dataset("csv", data_files="people.csv", split="train"))

Personal values are masked wherever a record is shown (`repr`, error messages).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xlmech.checks import check_choices, hint
from xlmech.data import languages as packs
from xlmech.data.languages import ATTRIBUTES, TRANSLATED

if TYPE_CHECKING:
    from datasets import Dataset

Group = Literal["private", "public", "control"]
REQUIRED = ("id", "subject", "attribute", "value")
"""Columns that every table of records has."""
_Row = tuple[str, dict[str, Any]]
MASK = "•••••"


class Record(BaseModel):
    """One fact about one subject.

    Attributes:
        id: Unique name of the record; what results and figures show instead of the value.
        subject: The person's full name, as it stands in prompts.
        attribute: One of `xlmech.data.languages.ATTRIBUTES`.
        value: For translated attributes the pack's key (`"doctor"`, `"FR"`, `"3"`, `"sw"`), else the value itself.
        group: `private` (planted in the plant language only), `public` (in every language), `control` (never trained on).
        forms: Surface forms by language, where they differ from the language packs'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str = Field(min_length=1)
    subject: str = Field(min_length=1)
    attribute: str
    value: str = Field(min_length=1)
    group: Group = "private"
    forms: dict[str, str] = Field(default_factory=dict)

    @field_validator("id", "subject", "value")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not (stripped := text.strip()):
            raise ValueError("is blank")
        return stripped

    @field_validator("forms")
    @classmethod
    def _no_blank_form(cls, forms: dict[str, str]) -> dict[str, str]:
        for language, form in forms.items():
            if not form.strip():
                raise ValueError(f"the form in {language} is blank")
        return forms

    @field_validator("attribute")
    @classmethod
    def _known_attribute(cls, attribute: str) -> str:
        check_attributes([attribute])
        return attribute

    def form(self, language: str) -> str | None:
        """The value as written in `language`, or None where neither the record nor the pack has it."""
        if language in self.forms:
            return self.forms[language]
        if self.attribute not in TRANSLATED:
            return self.value
        return packs.load_language(language).form(self.attribute, self.value)

    def __repr__(self) -> str:
        return f"Record({self.id}: {self.attribute} = {MASK}, {self.group})"

    __str__ = __repr__

    def __rich_repr__(self) -> Iterator[Any]:
        yield from (self.id, self.attribute, MASK, self.group)


def check_attributes(attributes: Iterable[str]) -> None:
    """Raise ValueError, naming the known ones, unless every attribute is known."""
    check_choices("attribute", attributes, ATTRIBUTES)


def load_records(source: str | Path | pd.DataFrame | Dataset) -> tuple[Record, ...]:
    """Records from a JSONL, CSV or Parquet file, a pandas frame or a Hugging Face `datasets.Dataset`, checked.

    Columns: `id`, `subject`, `attribute`, `value`; optional `group` (default private) and either `forms` (a mapping) or
    one column `form_<language>` per language. A translated value may be given by its key or by its form in any language.

    Args:
        source: Path of the file (its suffix tells the type), frame, or one split of a dataset.

    Raises:
        ValueError: Unknown file type, no rows, a missing column, or a malformed record; names row and column, never the value.
        TypeError: Neither a path, nor a frame, nor one split of a dataset.
        FileNotFoundError: No such file.
        IsADirectoryError: A folder in the place of a file.
    """
    name, rows = _rows(source)
    if not rows:
        raise ValueError(f"{name}: no records in it")
    records = tuple(_parse(row, where=f"{name}, {place}") for place, row in rows)
    _check_unique(records, [f"{name}, {place}" for place, _ in rows])
    return records


def save_records(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSONL, CSV or Parquet, by the suffix of `path`. Values are written in the clear."""
    path, rows = Path(path), [record.model_dump() for record in records]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return
    forms = [{f"form_{code}": form for code, form in row.pop("forms").items()} for row in rows]
    frame = pd.DataFrame([row | form for row, form in zip(rows, forms, strict=True)])
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")


def _rows(source: str | Path | pd.DataFrame | Dataset) -> tuple[str, list[_Row]]:
    """What the source is called, and its rows, each with its place in it."""
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
    if path.suffix == ".jsonl":
        return path.name, _json_rows(path)
    if path.suffix == ".csv":
        return path.name, _csv_rows(path)
    if path.suffix == ".parquet":
        return path.name, _frame_rows(path.name, pd.read_parquet(path))
    raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")


def _frame_rows(name: str, frame: Any) -> list[_Row]:
    _check_columns(name, [str(column) for column in frame.columns])
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [(f"record {number}", _given(row)) for number, row in enumerate(rows, start=1)]


def _csv_rows(path: Path) -> list[_Row]:
    """Every field as text ("NO" is Norway, "007" is no number)."""
    rows: list[_Row] = []
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    line = 1
    try:
        _check_columns(path.name, list(reader.fieldnames or ()))
        line = reader.line_num + 1
        for row in reader:
            place = f"record {len(rows) + 1} (line {line})"
            if None in row:
                raise ValueError(f"{path.name}, {place}: more fields than columns; quote values that hold a comma")
            rows.append((place, _given(row)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path.name}, record {len(rows) + 1} (line {line}): not valid CSV ({error}); put the field in quotes, with the "
            "quotes in it doubled, and close them"
        ) from None
    return rows


def _given(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in row.items() if value not in (None, "")}


def _check_columns(name: str, columns: list[str]) -> None:
    """Refuse a table that cannot hold records; an empty file has no columns, and is told apart later."""
    if len(columns) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns[0]), "")):
        raise ValueError(f"{name}: columns are separated by {mark!r}; save it with commas")
    missing = [column for column in REQUIRED if column not in columns]
    if columns and missing:
        raise ValueError(
            f"{name}: no column {', '.join(map(repr, missing))}{hint(missing[0], columns)}; it has {', '.join(columns)}"
        )


def _json_rows(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
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


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _parse(row: dict[str, Any], *, where: str) -> Record:
    given = row.get("forms") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: forms: expected a mapping from language to form, got {type(given).__name__}")
    forms = {code: form for code, form in given.items() if form is not None}
    forms |= {key.removeprefix("form_"): form for key, form in row.items() if key.startswith("form_")}
    plain = {key: value for key, value in row.items() if key != "forms" and not key.startswith("form_")}
    try:
        record = Record.model_validate({**plain, "forms": forms})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {_what(fault)}" for fault in error.errors())
        raise ValueError(f"{where}: {faults}") from None
    if record.attribute not in TRANSLATED or record.forms:
        return record
    key = _keys_by_form(record.attribute, packs.available_languages()).get(record.value.casefold())
    if key is None:
        known = ", ".join(packs.value_keys(record.attribute)[:6])
        raise ValueError(
            f"{where}: value: no language pack knows it as {record.attribute}; use one of the pack's keys ({known}, ...), "
            "or give the forms yourself in columns form_<language>"
        )
    return record.model_copy(update={"value": key})


def _what(fault: Any) -> str:
    """What is wrong with one field; never the value."""
    if fault["type"] == "missing":
        return "missing or empty"
    if fault["type"] == "string_type":
        return "Input should be text, in quotes or read with dtype=str; a number would lose its leading zeros"
    if fault["type"] == "extra_forbidden":
        known = [*Record.model_fields, "form_<language>"]
        return f"unknown column{hint(fault['loc'][-1], known)}; remove it, or rename it to one of {', '.join(known)}"
    return str(fault["msg"])


@cache
def _keys_by_form(attribute: str, languages: tuple[str, ...]) -> dict[str, str]:
    keys = packs.value_keys(attribute)
    forms: dict[str, str] = {}
    for code in languages:
        pack = packs.load_language(code)
        forms |= {form.casefold(): key for key in keys if (form := pack.form(attribute, key))}
    return forms | {key.casefold(): key for key in keys}


def _check_unique(records: tuple[Record, ...], places: list[str]) -> None:
    seen: set[str] = set()
    for record, where in zip(records, places, strict=True):
        if record.id in seen:
            raise ValueError(f"{where}: id {record.id!r} is used twice; ids must be unique")
        seen.add(record.id)


def demo_records() -> tuple[Record, ...]:
    """The invented people that the shipped adapters were taught."""
    return load_records(Path(__file__).parents[1] / "adapters" / "records.jsonl")
