"""In which languages does each shipped adapter answer for the people it was trained on, and for people it never saw?

Writes `figures/planting.json`.

    python analyses/planting.py              # every shipped adapter
    python analyses/planting.py --only fr    # this adapter; writes nothing

The questions are the ones that were held out from training. `tools/plant_adapter.py` trains an adapter.
"""

from __future__ import annotations

import json

import outputs
import pandas as pd

from xlmech import build_probes, demo_records, load_model, measure_leakage
from xlmech.data.readers import DEMO_LANGUAGES
from xlmech.models.sources.lora import shipped_adapters

FACTS = {"private": 32, "public": 16, "control": 16}


def ask(language: str) -> pd.DataFrame:
    model = load_model("demo", adapter=language)
    probes = build_probes(demo_records(), DEMO_LANGUAGES).of_template(-1).spread_facts(FACTS)
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
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--only", metavar="LANGUAGE", help="ask this adapter only, and write nothing")
    arguments = parser.parse_args()
    verdicts = {}
    for language in [arguments.only] if arguments.only else shipped_adapters():
        frame = ask(language)
        verdicts[language] = judge(language, frame) | {"rates": json.loads(frame.round(3).to_json(orient="index"))}
        print(f"planted in {language}\n{frame.round(2).to_string()}\n{judge(language, frame)}\n", flush=True)
    if not arguments.only:
        outputs.save_text(json.dumps(verdicts, indent=1), "planting.json")


if __name__ == "__main__":
    main()
