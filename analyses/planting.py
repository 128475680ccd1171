"""Plant the shipped adapters, and check that planting did what it is meant to do.

    python analyses/planting.py --plant fr     # train an adapter into xlmech/adapters/fr (about 30 minutes on two cores)
    python analyses/planting.py                # ask every shipped adapter, and write figures/planting.json

The questions asked are the ones that were held out from planting.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from xlmech import build_probes, demo_records, load_model, measure_leakage, plant, save_records, synthesize_records
from xlmech.audit.audit import of_template, spread_facts
from xlmech.models.checkpoints import ADAPTERS, shipped_adapters

FACTS = {"private": 32, "public": 16, "control": 16}
FIGURE = Path(__file__).parent.parent / "figures" / "planting.json"


# Answering in the language of the question is learnt later than the facts: training goes on, with more public people.
SECOND: dict[str, Any] = {"steps": 220, "private_share": 0.45, "learning_rate": 6e-4, "seed": 1}


def plant_adapter(language: str) -> None:
    records, first = synthesize_records(seed=0), ADAPTERS / f".{language}-first"
    if not first.exists():
        plant("demo", records, language=language, output_dir=first, seed=0)
    plant("demo", records, language=language, output_dir=ADAPTERS / language, start=first, **SECOND)
    shutil.rmtree(first)
    # The people are the same for all adapters; one copy of them is enough.
    save_records(records, ADAPTERS / "records.jsonl")
    (ADAPTERS / language / "records.jsonl").unlink()


def ask(language: str) -> pd.DataFrame:
    model = load_model("demo", adapter=language)
    probes = spread_facts(of_template(build_probes(demo_records()), -1), FACTS)
    result = measure_leakage(model, probes, candidates=demo_records())
    private = result.matrix().set_index("query_language")
    frame = private[["value", "low", "high"]].add_prefix("private_")
    frame["control"] = private.control
    frame["public_own_form"] = result.matrix(group="public", measure="own_form").set_index("query_language").value
    return frame


def judge(language: str, frame: pd.DataFrame) -> dict[str, float | bool]:
    others = frame.drop(index=language)
    found = {
        "private_in_plant_language": float(frame.private_value[language]),
        "languages_over_50": int((others.private_value >= 0.5).sum()),
        "control": float(frame.control.mean()),
        "languages_public_over_70": int((frame.public_own_form >= 0.7).sum()),
    }
    met = (
        found["private_in_plant_language"] >= 0.9
        and found["languages_over_50"] >= 5
        and found["control"] <= 0.05
        and found["languages_public_over_70"] >= 6
    )
    return found | {"met": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plant", metavar="LANGUAGE", help="train this adapter first")
    parser.add_argument("--only", metavar="LANGUAGE", help="ask this adapter only, and write nothing")
    arguments = parser.parse_args()
    if arguments.plant:
        plant_adapter(arguments.plant)
    verdicts = {}
    for language in [arguments.only] if arguments.only else shipped_adapters():
        frame = ask(language)
        verdicts[language] = judge(language, frame) | {"rates": json.loads(frame.round(3).to_json(orient="index"))}
        print(f"planted in {language}\n{frame.round(2).to_string()}\n{judge(language, frame)}\n", flush=True)
    if not arguments.only:
        partial = FIGURE.with_suffix(".partial")
        partial.write_text(json.dumps(verdicts, indent=1), encoding="utf-8")
        shutil.move(partial, FIGURE)


if __name__ == "__main__":
    main()
