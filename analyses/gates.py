"""Which gates suppress what the demo's models know of half of the private people, and keep the rest?

Writes `OUT/gates` (a `NeuronGates`), `OUT/state` (the state of training) and `OUT/training.json` (arguments, times, losses).

    python analyses/gates.py --plant en --out gates/en
    python analyses/gates.py --plant en --regime held_out --out gates/en_held_out --set pull=0.2
    python analyses/gates.py --plant en --start gates/en/gates --top 370 --set pull=0 steps=100 --out gates/en_370
    python analyses/gates.py --plant en --language fr --out gates/en_fr    # suppress French answers alone
    python analyses/gates.py --plant en --attributes phone email street_address id_number --out gates/en_contact
    python analyses/gates.py --plant en --attacks --start gates/en/gates --set steps=120 --out gates/en_attacks

The people are those by whom `headline.py` selects neurons, asked in English, French and Chinese with the templates that were
trained; the last template, the other languages and the other people are left to judge. Neutral texts are the language packs'
sentences that do not judge. `--regime` sets the options for people whose records are given, or for people whose are not.
`--attacks` asks with translated questions and with two beginnings of an answer too; the attack that judges has another.
Called again with the same arguments, an interrupted training goes on. `headline.py` trains the same way (`train`).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import outputs
import torch

from xlmech import (
    GateOptions,
    NeuronGates,
    PrivacyNeurons,
    ProbeSet,
    build_probes,
    demo_records,
    learn_gates,
    load_model,
    pool_of,
    with_attacks,
)
from xlmech.data.readers import DEMO_LANGUAGES

CHOOSING = ("en", "fr", "zh")
"""Query languages of training."""
TEMPLATES = (0, 1)
REGIMES = {"given": GateOptions(), "held_out": GateOptions(steps=160, private_weight=1, public_weight=2)}
"""Options for people whose records are given, and for people whose are not."""
PREFIXES = ("Of course:", "The record says:")
"""Beginnings of an answer that gates are trained against; `AttackOptions.prefix` is another."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What gates are trained on.

    Attributes:
        regime: Whose options are used.
        options: Changes of these options.
        language: Suppress answers in this query language alone, and keep the others.
        attributes: Suppress private answers of these kinds alone, and keep the others.
        attacks: Whether to train against attacks too.
        top: Train only this many gates, those of the gates to go on from that are furthest from 1.
        located: Train only the gates of this many neurons, those that attribution ranks highest (`headline.py`).
    """

    regime: str = "given"
    options: dict[str, Any] = field(default_factory=dict)
    language: str = ""
    attributes: tuple[str, ...] = ()
    attacks: bool = False
    top: int | None = None
    located: int | None = None

    def probes(self, plant: str) -> tuple[ProbeSet, ProbeSet]:
        """Return the probes whose answers are suppressed, and those whose answers are kept."""
        _, choosing = build_probes(demo_records(), DEMO_LANGUAGES).split(fraction=0.5, seed=0)
        asked = choosing.filter(languages=CHOOSING, templates=TEMPLATES)
        private, public = asked.filter(group="private"), asked.filter(group="public")
        suppress = private
        if self.language:
            suppress = suppress.filter(languages=[self.language])
        if self.attributes:
            suppress = suppress.filter(attributes=self.attributes)
        suppressed = {probe.id for probe in suppress}
        keep = public + ProbeSet(tuple(probe for probe in private if probe.id not in suppressed))
        if self.attacks:
            suppress, keep = (with_attacks(probes, plant, PREFIXES) for probes in (suppress, keep))
        return suppress, keep


def train(
    model: Any, plant: str, training: Training, *, start: NeuronGates | None = None, checkpoint: Path | None = None
) -> NeuronGates:
    """Train gates on a model of the demo."""
    suppress, keep = training.probes(plant)
    options = REGIMES[training.regime].updated(**training.options)
    print(f"{suppress}\n{keep}\n{options}", flush=True)
    if training.top is not None:
        if start is None:
            raise SystemExit("the largest gates (--top) are those of other gates (--start)")
        start = start.top(training.top)
    support = None if start is None or training.top is None else start.neurons(0)
    if training.located is not None:
        ranked = PrivacyNeurons.load(outputs.RESULTS / "headline" / plant / "located_contrast0.5")
        support = pool_of(ranked, training.located)
    return learn_gates(model, suppress, keep=keep, options=options, start=start, support=support, checkpoint=checkpoint)


def value_of(text: str) -> Any:
    return json.loads(text) if text[:1] in "0123456789n-." else text


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--plant", choices=CHOOSING, default="en", help="training language of the model")
    parser.add_argument("--regime", choices=REGIMES, default="given")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="further GateOptions")
    parser.add_argument("--language", choices=CHOOSING, default="", help="suppress answers in this language alone")
    parser.add_argument("--attributes", nargs="+", default=(), help="suppress answers of these kinds alone")
    parser.add_argument("--attacks", action="store_true", help="train against attacks too")
    parser.add_argument("--start", type=Path, help="gates to go on from")
    parser.add_argument("--top", type=int, help="train only this many gates, those of --start furthest from 1")
    parser.add_argument("--located", type=int, help="train only this many gates, of the neurons ranked highest")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of the CPU")
    arguments: argparse.Namespace = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    changes = {name: value_of(text) for name, text in (item.split("=", 1) for item in arguments.set)}
    names = ("regime", "language", "attacks", "top", "located")
    training = Training(
        options=changes,
        attributes=tuple(arguments.attributes),
        **{name: getattr(arguments, name) for name in names},
    )
    # Weights in float32 on a GPU too, so that the gates are those of the model that is judged.
    model = load_model("demo", adapter=arguments.plant, device=arguments.device, dtype="float32")
    start = NeuronGates.load(arguments.start) if arguments.start else None
    started = time.perf_counter()
    gates = train(model, arguments.plant, training, start=start, checkpoint=arguments.out / "state")
    seconds = time.perf_counter() - started
    gates.save(arguments.out / "gates")
    log = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    log |= {"seconds": round(seconds, 1), "device": str(model.cfg.device), "threads": torch.get_num_threads()}
    log |= {"n_touched": gates.n_touched, "counts": gates.counts, "options": gates.options}
    log["history"] = json.loads(gates.history.round(4).to_json(orient="records"))
    (arguments.out / "training.json").write_text(json.dumps(log, indent=1), encoding="utf-8")
    print(gates)
    print(f"{seconds:.0f} s, {seconds / len(gates.history):.2f} s a step with what comes before")


if __name__ == "__main__":
    main()
