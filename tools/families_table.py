"""Write the page of families of models: which xlmech reads, each checked on a tiny random model (half a minute).

    python tools/families_table.py > docs/families.md

The checks are those of `tests/helpers/families.py`; a slow test holds page and code together.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.families import CHECKS, EXPERTS, FAMILIES, REFUSED, TOLERANCE, Family, countries, passed
from helpers.tiny_models import save_tokenizer

_INTRODUCTION = """# Families of models

{n_passed} of {n} families pass all five checks. Each was checked on a tiny random model made from its transformers config,
against transformers alone, in float32 (differences up to {tolerance:g} of the largest logit are rounding). `load_model`
compares every model that it loads with transformers' own as well, and refuses it where they differ.

{checks}

`python tools/families_table.py > docs/families.md` makes this page, and a test holds it to the code. It is about
TransformerBridge of TransformerLens 4.
"""
_REFUSED = """
## Refused

`load_model` refuses these, since a number about them would be wrong or cannot be had, and says why:
"""
_EXPERTS = """
## Mixtures of experts

They load, and leakage, the lens and patching of whole layers work. Whatever reads or changes neurons is refused, because a neuron
there belongs to an expert that only some tokens visit.
"""


def page(results: Mapping[str, Mapping[str, bool]]) -> str:
    """Return the page, with each family's results by check."""
    n_passed = sum(all(checks.values()) for checks in results.values())
    checks = "\n".join(f"- **{name}**: {meaning}" for name, meaning in CHECKS.items())
    rows = [
        [f"`{name}`", FAMILIES[name].models, *("yes" if checks[check] else "**no**" for check in CHECKS)]
        for name, checks in results.items()
    ]
    text = _INTRODUCTION.format(n_passed=n_passed, n=len(results), tolerance=TOLERANCE, checks=checks)
    text += "\n" + _table(["family", "models", *CHECKS], rows)
    text += _REFUSED + "\n" + _table(["family", "models", "the message says"], _refusals(REFUSED))
    return text + _EXPERTS + "\n" + _table(["family", "models", "the message about neurons says"], _refusals(EXPERTS))


def _refusals(families: Mapping[str, Family]) -> list[list[str]]:
    return [[f"`{name}`", family.models, f"... {family.refusal} ..."] for name, family in families.items()]


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]) + "\n"


def main() -> None:
    """Run all checks and print the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer, probes = save_tokenizer(folder / "tokenizer"), countries()
        results = {name: passed(family, tokenizer, probes, folder / name) for name, family in FAMILIES.items()}
    print(page(results), end="")


if __name__ == "__main__":
    main()
