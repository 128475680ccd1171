"""Which gates suppress what the demo's models know of half of the private people, and keep the rest?

Writes `OUT/gates` (a `NeuronGates`), `OUT/state` (the state of training) and `OUT/training.json` (arguments, times, losses).

    python analyses/gates.py --plant en --regime given --out gates/en
    python analyses/gates.py --plant en --regime held_out --out gates/en_held_out --set steps=260 public_weight=4
    python analyses/gates.py --plant en --top 370 --start gates/en/gates --out gates/en_370 --set pull=0 steps=100
    python analyses/gates.py --plant en --language fr --out gates/en_fr    # suppress French answers alone

The people are those by whom `headline.py` selects neurons, asked in English, French and Chinese with the templates that were
trained; the last template, the other languages and the other people are left to judge. Neutral texts are the language packs'
sentences that do not judge. `--regime` sets the options for people whose records are given, or for people whose are not.
Called again with the same arguments, an interrupted training goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import outputs
import torch

from xlmech import GateOptions, NeuronGates, ProbeSet, build_probes, demo_records, learn_gates, load_model
from xlmech.data.readers import DEMO_LANGUAGES

CHOOSING = ("en", "fr", "zh")
"""Query languages of training."""
TEMPLATES = (0, 1)
REGIMES = {"given": GateOptions(steps=260, private_weight=2, public_weight=4), "held_out": GateOptions()}
"""Options for people whose records are given, and for people whose are not."""


def training_probes(n_people: int | None = None) -> tuple[ProbeSet, ProbeSet]:
    """Return the private and the public probes of training, of `n_people` of each group or of half of the demo's."""
    _, choosing = build_probes(demo_records(), DEMO_LANGUAGES).split(fraction=0.5, seed=0)
    asked = choosing.filter(languages=CHOOSING, templates=TEMPLATES)
    private, public = asked.filter(group="private"), asked.filter(group="public")
    if n_people is not None:
        private, public = private.sample(n_people), public.sample(n_people)
    return private, public


def options_of(arguments: argparse.Namespace) -> GateOptions:
    changes = dict(item.split("=", 1) for item in arguments.set)
    values = {name: json.loads(text) if text[:1] in "0123456789n-." else text for name, text in changes.items()}
    return REGIMES[arguments.regime].updated(**values)


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--plant", choices=CHOOSING, default="en", help="training language of the model")
    parser.add_argument("--regime", choices=REGIMES, default="given")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="further GateOptions")
    parser.add_argument("--people", type=int, help="people of each group to train on; half of the demo's by default")
    parser.add_argument(
        "--language", choices=CHOOSING, help="suppress answers in this query language alone, keep the others"
    )
    parser.add_argument("--start", type=Path, help="gates to go on from")
    parser.add_argument("--top", type=int, help="train only this many gates, those of --start furthest from 1")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of the CPU")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options, (private, public) = options_of(arguments), training_probes(arguments.people)
    if arguments.language:
        others = private.filter(languages=set(CHOOSING) - {arguments.language})
        private, public = private.filter(languages=[arguments.language]), public + others
    start = NeuronGates.load(arguments.start) if arguments.start else None
    if arguments.top:
        if start is None:
            parser.error("--top takes gates from --start")
        start = start.top(arguments.top)
    # Weights in float32 on a GPU too, so that the gates are those of the model that is judged.
    model = load_model("demo", adapter=arguments.plant, device=arguments.device, dtype="float32")
    print(f"{private}\n{public}\n{options}", flush=True)
    started = time.perf_counter()
    gates = learn_gates(
        model,
        private,
        keep=public,
        options=options,
        start=start,
        support=start.neurons(0) if arguments.top else None,
        checkpoint=arguments.out / "state",
    )
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
