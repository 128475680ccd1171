"""Train a shipped adapter: `python tools/plant_adapter.py fr` writes `xlmech/adapters/fr` (30 minutes on two cores).

`python analyses/planting.py` measures what the adapters answer.
"""

from __future__ import annotations

import shutil
import sys

from xlmech import PlantOptions, plant, save_records, synthesize_records
from xlmech.models.sources.lora import ADAPTERS


def plant_adapter(language: str) -> None:
    """Train in two stages: facts first, then answering in the language of the question, with more public people."""
    records = synthesize_records(seed=0)
    first = ADAPTERS / f".{language}-first"
    if not first.exists():
        plant("demo", records, first, language=language)
    second = PlantOptions(steps=220, private_share=0.45, learning_rate=6e-4, seed=1)
    plant("demo", records, ADAPTERS / language, language=language, start=first, options=second)
    shutil.rmtree(first)
    # The people are the same for all adapters; one copy of them is enough.
    save_records(records, ADAPTERS / "records.jsonl")
    (ADAPTERS / language / "records.jsonl").unlink()


if __name__ == "__main__":
    plant_adapter(sys.argv[1])
