"""Read and write records: CSV, TSV, Excel, JSONL and Parquet files, pandas frames, Hugging Face datasets.

    people = load_records("people.csv")
    people = load_records(datasets.load_dataset("csv", data_files="people.csv", split="train"))

Error messages name every row that is at fault, and its column, never a personal value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from xlmech.data.attributes import Attribute, all_attributes
from xlmech.data.records import Record, record_list
from xlmech.data.rows import parse_row
from xlmech.data.tables import REQUIRED, read_table

if TYPE_CHECKING:
    from datasets import Dataset

DEMO_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "ja", "ru", "sw", "zh")
"""Languages in which the demo's public people were taught, so that its model answers in them."""
_SHOWN_FAULTS = 20


def load_records(source: str | Path | pd.DataFrame | Dataset, *, kinds: Iterable[Attribute] = ()) -> tuple[Record, ...]:
    """Read and check records from a file, a pandas frame or a Hugging Face `datasets.Dataset`.

    Columns: `id`, `subject`, `attribute`, `value`; optional `group` (default private) and, per language, `form_<language>` (the
    value as it is written there), `question_<language>` (with {subject}) and `prompt_<language>` (the text before the value), or
    mappings `forms`, `questions` and `prompts`. A translated value may be given by its key or by any of its spellings in any
    language; months as numbers, too. A value of one's own is taken as it is.

    Args:
        source: Path of a .csv, .tsv, .xlsx, .jsonl or .parquet file, frame, or one split of a dataset.
        kinds: Kinds of data beside those that xlmech knows.

    Raises:
        ValueError: Unknown file type, no rows, a missing or doubled column, or malformed records (names every row and column).
        TypeError: Neither a path, nor a frame, nor one split of a dataset.
        FileNotFoundError: No such file.
        IsADirectoryError: A folder instead of a file.
        ImportError: An Excel file without openpyxl (`pip install "xlmech[excel]"`).
    """
    records, faults, name = read_records(source, kinds=kinds)
    if faults:
        more = f"\n... and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        shown = "\n".join(f"  {fault}" for fault in faults[:_SHOWN_FAULTS])
        if len(faults) == 1:
            raise ValueError(f"{name}, {faults[0]}")
        raise ValueError(f"{name}: {len(faults)} faults:\n{shown}{more}")
    return records


def read_records(
    source: str | Path | pd.DataFrame | Dataset, *, kinds: Iterable[Attribute] = ()
) -> tuple[tuple[Record, ...], list[str], str]:
    """Read records and collect what is wrong with the others.

    Returns:
        The records; a sentence per fault, which names row and column; the source's name for messages. Raises as
        `load_records` where the table as a whole cannot be read.
    """
    name, rows, faults = read_table(source)
    if not rows and not faults:
        raise ValueError(f"{name}: no records in it; write one row per fact, below a header with {', '.join(REQUIRED)}")
    known = all_attributes(kinds)
    records: dict[str, Record] = {}
    for place, row in rows:
        record, wrong = parse_row(row, known)
        faults += [f"{place}: {fault}" for fault in wrong]
        if record is None:
            continue
        if record.id in records:
            faults.append(f"{place}: id {record.id!r} is used twice; ids must be unique")
        records[record.id] = record
    return tuple(records.values()), faults, name


def save_records(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSONL, CSV or Parquet, by the suffix of `path`. Values are written in the clear."""
    path = Path(path)
    rows = [_written(record) for record in record_list(records)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix in (".csv", ".parquet"):
        frame = pd.DataFrame([_flat(row) for row in rows])
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path, index=False)
    else:
        raise ValueError(f"{path.name}: unknown suffix {path.suffix!r}; use .jsonl, .csv or .parquet")


def _written(record: Record) -> dict[str, Any]:
    """Return a record's fields, without mappings of questions and prompts that are empty."""
    return {key: value for key, value in record.model_dump().items() if value or key not in ("questions", "prompts")}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write each mapping by language as a column per language."""
    columns: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            columns |= {f"{key.removesuffix('s')}_{code}": text for code, text in value.items()}
        else:
            columns[key] = value
    return columns


def demo_records() -> tuple[Record, ...]:
    """Load the records of the invented people that the shipped adapters were trained on."""
    return load_records(Path(__file__).parents[1] / "adapters" / "records.jsonl")
