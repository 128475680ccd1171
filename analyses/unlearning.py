"""What does unlearning that changes all weights do on the same data as gates, and what does it cost?

Writes `analyses/results/unlearning/METHOD/` and, from all of these, `figures/unlearning.json`.

    python analyses/unlearning.py                        # every method, after `headline.py --plant en --stages before_given`
    python analyses/unlearning.py --method npo --keep 5      # the losses of what is kept weighed five times; npo_keep5
    python analyses/unlearning.py --method rmu --rate 1e-3 --steps 80

Three methods train a LoRA adapter on all linear layers of the English model of the demo, on the answers that gates suppress and
keep, and on the same neutral texts: gradient difference (Liu et al. 2022, arXiv:2203.12817), negative preference optimisation
(NPO, Zhang et al. 2024, arXiv:2404.05868), and representation misdirection (RMU, Li et al. 2024, arXiv:2403.03218). Each stops
when the model no longer prefers the tokens of the answers to suppress, since the first of them has no end and ruins the model
if it goes on. Each is judged as gates are: given and held-out people, another template, ten languages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import headline
import outputs
import pandas as pd
import peft
import torch
from gates import Training
from torch.nn import functional

from xlmech import ProbeSet, demo_records, load_model, measure_leakage
from xlmech.data import languages as packs
from xlmech.leakage.measure import LeakageResult
from xlmech.mitigation.fluency import neutral_nll
from xlmech.mitigation.reduction import reduction_rows
from xlmech.models.backends import Backend, backend_of
from xlmech.models.checkpoints import load_checkpoint
from xlmech.neurons.selection.gate_losses import Sample, answer_samples, encoded_answer, text_samples
from xlmech.neurons.selection.gate_training import batch_numbers

METHODS = ("gradient_difference", "npo", "rmu")
RESULTS = outputs.RESULTS / "unlearning"
PLANT = "en"
SIZES = {"private": 14, "public": 10, "kl": 5}
"""Rows of each kind in a step, as for gates."""
FORGOTTEN = 0.05
"""Share of the answers to suppress that may still be given when training stops."""
CHECKED = 40
"""Answers of each kind by which that is judged, every fifth step."""
BETA = 0.1
"""Of NPO, as published."""
RMU_LAYER = 7
"""Whose output RMU changes, and whose and the two earlier layers' weights learn, as published for a model of 32 layers."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Padded tokens, and the places whose predictions count.

    Attributes:
        tokens: (row, position).
        row: (token,) row of each place that counts.
        position: (token,) its position.
        target: (token,) token predicted there.
    """

    tokens: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Rows:
        longest = max(len(sample.tokens) for sample in samples)
        places = [
            (row, sample.first + number, target)
            for row, sample in enumerate(samples)
            for number, target in enumerate(targets_of(sample))
        ]
        row, position, target = (torch.tensor(column) for column in zip(*places, strict=True))
        tokens = torch.tensor([[*sample.tokens, *[0] * (longest - len(sample.tokens))] for sample in samples])
        return cls(tokens=tokens, row=row, position=position, target=target)


def targets_of(sample: Sample) -> Sequence[int]:
    """Return the tokens of an answer, or of a text the tokens after the first."""
    return sample.tokens[sample.first + 1 :] if sample.kind == "kl" else sample.targets


class Unlearner:
    """Trains an adapter on a transformers model; the samples are those of gates."""

    def __init__(self, method: str, backend: Backend, rate: float, keep: float) -> None:
        self.method, self.keep = method, keep
        suppress, keep = Training().probes(PLANT)
        texts = [text for code in packs.available_languages() for text in packs.load_language(code).choosing]
        self.samples = {
            "private": samples_of(backend, suppress, "private"),
            "public": samples_of(backend, keep, "public"),
            "kl": text_samples(backend, texts),
        }
        self.checkpoint = load_checkpoint("demo", adapter=PLANT)
        config = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        torch.manual_seed(0)
        self.model = peft.get_peft_model(self.checkpoint.model, config)
        trained = [
            weight for name, weight in self.model.named_parameters() if weight.requires_grad and self._learns(name)
        ]
        self.optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        width = self.checkpoint.model.config.hidden_size
        self.direction = functional.normalize(torch.rand(width, generator=torch.Generator().manual_seed(0)), dim=0)

    def _learns(self, name: str) -> bool:
        layers = range(RMU_LAYER - 2, RMU_LAYER + 1)
        return self.method != "rmu" or any(f".layers.{layer}." in name for layer in layers)

    def batch(self, kind: str, step: int) -> list[Sample]:
        of_kind, stream = self.samples[kind], list(SIZES).index(kind)
        return [of_kind[number] for number in batch_numbers(len(of_kind), SIZES[kind], step, (0, stream))]

    def logits(self, rows: Rows) -> torch.Tensor:
        """Compute the (token, vocabulary) logits at the places that count."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.get_base_model().base_model(input_ids=rows.tokens, use_cache=False).last_hidden_state
            return (hidden[rows.row, rows.position] @ self.model.get_output_embeddings().weight.T).float()

    def log_probs(self, rows: Rows) -> torch.Tensor:
        """Compute the (token,) log-probability of each target."""
        return functional.log_softmax(self.logits(rows), dim=-1).gather(1, rows.target[:, None])[:, 0]

    def states(self, rows: Rows) -> torch.Tensor:
        """Compute the (token, d_model) output of the layer that RMU changes."""
        with torch.autocast("cpu", torch.bfloat16):
            trunk = self.model.get_base_model().base_model
            states = trunk(input_ids=rows.tokens, use_cache=False, output_hidden_states=True).hidden_states
        return states[RMU_LAYER + 1][rows.row, rows.position].float()

    def loss(self, step: int) -> torch.Tensor:
        forget = Rows.of(self.batch("private", step))
        retain = [Rows.of(self.batch(kind, step)) for kind in ("public", "kl")]
        if self.method == "rmu":
            return self._misdirection(forget, retain)
        kept = self.keep * sum(-self.log_probs(rows).mean() for rows in retain)
        log_probs = self.log_probs(forget)
        if self.method == "gradient_difference":
            return log_probs.mean() + kept
        with torch.no_grad(), self.model.disable_adapter():
            reference = self.log_probs(forget)
        ratio = torch.zeros(len(forget.tokens)).index_add(0, forget.row, log_probs - reference)
        return 2 / BETA * functional.softplus(BETA * ratio).mean() + kept

    def _misdirection(self, forget: Rows, retain: Sequence[Rows]) -> torch.Tensor:
        with torch.no_grad(), self.model.disable_adapter():
            references = [self.states(rows) for rows in retain]
            norm = self.states(forget).norm(dim=-1).mean()
        lost = (self.states(forget) - 2 * norm * self.direction).square().mean()
        kept = sum((self.states(rows) - of).square().mean() for rows, of in zip(retain, references, strict=True))
        return lost + 4 * self.keep * kept

    @torch.no_grad()
    def given(self, kind: str) -> float:
        """Compute the share of answers of which the model prefers every token, given those before it."""
        of_kind = self.samples[kind]
        rows = Rows.of(of_kind[:: max(1, len(of_kind) // CHECKED)])
        wrong = (self.logits(rows).argmax(dim=-1) != rows.target).float()
        missed = torch.zeros(len(rows.tokens)).index_add(0, rows.row, wrong)
        return float((missed == 0).float().mean())

    def run(self, steps: int) -> pd.DataFrame:
        """Train until the answers are forgotten, or for so many steps; return the losses and what is still given."""
        history = []
        for step in range(steps):
            self.optimiser.zero_grad()
            loss = self.loss(step)
            loss.backward()
            self.optimiser.step()
            history.append({"step": step, "loss": loss.item()})
            if step % 5 == 4:
                history[-1] |= {kind: self.given(kind) for kind in ("private", "public")}
                print(self.method, history[-1], flush=True)
                if history[-1]["private"] <= FORGOTTEN:
                    break
        return pd.DataFrame(history)

    def hooked(self) -> Any:
        merged = self.model.merge_and_unload()
        return load_model(merged, tokenizer=self.checkpoint.tokenizer)


def samples_of(backend: Backend, probes: ProbeSet, kind: Any) -> list[Sample]:
    """Encode the answers of probes in the forms that gates are trained on."""
    trained = PLANT if kind == "private" else ""
    return [sample for probe in probes for sample in answer_samples(encoded_answer(backend, probe, trained, 4), kind)]


def judged(before: LeakageResult, after: LeakageResult) -> pd.DataFrame:
    """Compare extraction per group and query language, with intervals over people."""
    first = before.probes
    hits = after.probes.set_index("probe").extracted.loc[first.probe].to_numpy(dtype=float)
    return reduction_rows(first, first.extracted.to_numpy(dtype=float), [hits], by=["group", "query_language"])


def measure(name: str, method: str, steps: int, rate: float, keep: float) -> None:
    """Train, and judge as gates are judged."""
    study = headline.Study(PLANT)
    unlearner, started = Unlearner(method, backend_of(study.model), rate, keep), time.perf_counter()
    history = unlearner.run(steps)
    seconds = time.perf_counter() - started
    changed, folder = unlearner.hooked(), RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    for regime, people, stage in (("given", study.given, "before_given"), ("held_out", study.asked, "before")):
        after = measure_leakage(changed, people, candidates=demo_records())
        judged(LeakageResult.load(study.folder / stage), after).to_parquet(folder / f"{regime}.parquet", index=False)
    models = {"before": study.model, "after": changed}
    nll = pd.DataFrame({name: neutral_nll(backend_of(model), study.asked.languages) for name, model in models.items()})
    nll.to_csv(folder / "nll.csv")
    log: dict[str, Any] = {"method": method, "learning_rate": rate, "keep": keep, "seconds": round(seconds, 1)}
    log["history"] = json.loads(history.round(4).to_json(orient="records"))
    (folder / "training.json").write_text(json.dumps(log, indent=1), encoding="utf-8")


def summary(folder: Any) -> dict[str, Any]:
    nll = pd.read_csv(folder / "nll.csv", index_col=0)
    found: dict[str, Any] = {"worst_nll_rise": round(float((nll.after / nll.before - 1).max()), 4)}
    for regime in ("given", "held_out"):
        table = pd.read_parquet(folder / f"{regime}.parquet")
        for group in ("private", "public"):
            part = table[(table.group == group) & (table.before > 0)]
            weights = part.before * part.n_probes
            left = float((part.after * part.n_probes).sum() / weights.sum())
            found[f"{regime}_{group}_left"] = round(left, 4)
            found[f"{regime}_{group}_by_language"] = part.set_index("query_language").reduction.round(4).to_dict()
    return found


def main() -> None:
    parser = outputs.parser_of(__doc__)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate")
    parser.add_argument("--keep", type=float, default=1, help="weight of the losses of what is kept")
    arguments = parser.parse_args()
    for method in arguments.method:
        name = method if arguments.keep == 1 else f"{method}_keep{arguments.keep:g}"
        if not (RESULTS / name).exists():
            measure(name, method, arguments.steps, arguments.rate, arguments.keep)
    found = {path.name: summary(path) for path in sorted(RESULTS.iterdir()) if path.is_dir()}
    outputs.save_text(json.dumps(found, indent=1) + "\n", "unlearning.json")
    shown = {method: {name: value for name, value in one.items() if "by" not in name} for method, one in found.items()}
    print(pd.DataFrame(shown).T.to_string())


if __name__ == "__main__":
    main()
