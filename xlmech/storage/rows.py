"""Frames as rows for machines: what `--json`, summaries and manifests hold."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict per row, of plain values at full precision; missing numbers are None."""
    return list(json.loads(frame.to_json(orient="records", double_precision=15)))
