"""Put gates that `analyses/gates.py` learned beside their adapter: `python tools/ship_gates.py en gates/en/gates`.

Writes `xlmech/adapters/en/gates`, which `NeuronGates.shipped("en")` reads and `xlmech demo` measures. Their provenance names the
records that taught them by code, so that a test can tell that nobody who is measured is among them.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))

from gates import Training

from xlmech import NeuronGates
from xlmech.models.sources.lora import ADAPTERS, GATES
from xlmech.neurons.selection.learned_gates import record_codes


def as_shipped(gates: NeuronGates, language: str) -> NeuronGates:
    """Return the gates with the demo model's name, the records that taught them by code, and no path in their command.

    Raises:
        ValueError: They were learned with another adapter, or from other answers than the study's.
    """
    source = gates.provenance
    private, public = Training().probes(language)
    if Path(source.adapter).name != language:
        raise ValueError(f"these gates were learned with the adapter {source.adapter!r}, not {language!r}")
    records = {"suppressed": record_codes(private), "kept": record_codes(public)}
    if source.settings.get("records", records) != records:
        raise ValueError("these gates were learned from other records than those of Training in analyses/gates.py")
    command = re.sub(r"(?<!\S)/\S*/", "", source.command)
    made = replace(source, model="demo", adapter=language, command=command, settings={"records": records})
    return replace(gates, model="demo", provenance=made)


def main(language: str, folder: str) -> None:
    """Replace the gates of a shipped adapter."""
    gates = as_shipped(NeuronGates.load(folder), language)
    shutil.rmtree(ADAPTERS / language / GATES, ignore_errors=True)
    gates.save(ADAPTERS / language / GATES)


if __name__ == "__main__":
    main(*sys.argv[1:])
