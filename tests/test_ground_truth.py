"""A small model that knows facts through neurons put there by hand: every method must give back exactly those.

People whose name holds a J are private, those with a K public. The first layer's attention carries these letters, and the French
é, to the last position; three neurons, one in each layer, fire for a J and write the private value; three others fire for
a K and write the public one; a seventh fires for a J in French only, and so does an eighth that writes another answer, which
would win there without the seventh. All other neurons write noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.tiny_models import D_MLP, D_MODEL, D_VOCAB, tiny
from typer.testing import CliRunner

from xlmech.audit.audit import run_audit
from xlmech.audit.plan import AuditPlan
from xlmech.cli.app import app
from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.readers import save_records
from xlmech.data.records import Record
from xlmech.leakage.measure import measure_leakage
from xlmech.mitigation.specificity import specificity_matrix
from xlmech.models.load import load_model
from xlmech.neurons.ablation import ablate
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.selection.learned_gates import learn_gates
from xlmech.neurons.selection.locate import locate_privacy_neurons
from xlmech.neurons.selection.minimal_set import fewest_neurons
from xlmech.neurons.selection.published import apneap, depn, knowledge_neurons
from xlmech.neurons.selection.verify import neurons_of, verify_neurons
from xlmech.options import LocateOptions

PRIVATE = ((0, 40), (1, 17), (2, 5))
PUBLIC = ((0, 3), (1, 50), (2, 30))
FRENCH, RIVAL = (1, 9), (1, 20)
NOISE = ((0, 7), (1, 7), (2, 7))
VALUES = {"private": "X7", "public": "Y8"}


@pytest.fixture(scope="module")
def planted(tokenizer: Any) -> Any:
    """The model of this module's docstring, in float64."""
    network = tiny("gpt2", scale=1.0).double()
    drawn = torch.Generator().manual_seed(0)

    def noise(*shape: int, size: float) -> torch.Tensor:
        return size * torch.randn(*shape, generator=drawn, dtype=torch.float64)

    def token(text: str) -> int:
        return int(tokenizer(text, add_special_tokens=False).input_ids[-1])

    zero_mean = noise(D_MODEL, D_MODEL - 1, size=1)
    basis = torch.linalg.qr(zero_mean - zero_mean.mean(0)).Q.T  # LayerNorm takes nothing from what lies in it
    j, k, french, x, z, y, w, end, other = basis[:9]
    rest = basis[9:]
    embed, head = network.transformer.wte.weight, torch.nn.Linear(D_MODEL, D_VOCAB, bias=False).double()
    with torch.no_grad():
        embed.copy_(noise(D_VOCAB, len(rest), size=0.02) @ rest)
        network.transformer.wpe.weight.copy_(noise(len(network.transformer.wpe.weight), len(rest), size=0.02) @ rest)
        head.weight.copy_(noise(D_VOCAB, len(rest), size=0.2) @ rest)
        for text, direction in (
            ("J", j),
            ("K", k),
            ("é", french),
            ("X", 6 * z),
            ("7", 6 * end),
            ("Y", 6 * w),
            ("8", 6 * end),
        ):
            embed[token(text)] += direction
        for text, direction in (
            ("X", 1.6 * x),
            ("Y", 1.6 * y),
            ("7", 3 * z),
            ("8", 3 * w),
            ("\n", 3 * end),
            ("?", 1.6 * other),
        ):
            head.weight[token(text)] = direction
        for block in network.transformer.h:
            block.attn.c_attn.weight.zero_()
            block.attn.c_proj.weight.zero_()
            block.mlp.c_fc.weight.copy_(noise(D_MODEL, D_MLP, size=0.2))
            block.mlp.c_proj.weight.copy_(noise(D_MLP, D_MODEL, size=0.01))
        attention = network.transformer.h[0].attn  # the mean over what stands before, of these three directions
        attention.c_attn.weight[:, 2 * D_MODEL : 2 * D_MODEL + 3] = torch.stack([j, k, french], dim=1)
        attention.c_proj.weight[:3] = torch.stack([20 * j, 20 * k, 8 * french])
        wired = [(neuron, 4 * j, -8.0, x) for neuron in PRIVATE] + [(neuron, 4 * k, -8.0, y) for neuron in PUBLIC]
        both = (4 * j + 8 * french - 8 * k, -30.0)
        for (layer, index), fires_for, bias, writes in [*wired, (FRENCH, *both, x), (RIVAL, *both, 1.2 * other)]:
            mlp = network.transformer.h[layer].mlp
            mlp.c_fc.weight[:, index], mlp.c_fc.bias[index] = fires_for, bias
            mlp.c_proj.weight[index] = 0.1 * writes
    network.lm_head, network.config.tie_word_embeddings = head, False
    return load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


@pytest.fixture(scope="module")
def people() -> list[Record]:
    """Three private and three public people."""
    named = [
        ("Ana Ji", "private"),
        ("Bo Jim", "private"),
        ("Cy Joe", "private"),
        ("Di Kox", "public"),
        ("Ed Kan", "public"),
    ]
    return [
        Record(id=f"{group}-{n}", subject=name, attribute="id_number", value=VALUES[group], group=group)  # type: ignore[arg-type]
        for n, (name, group) in enumerate([*named, ("Flo Kay", "public")])
    ]


@pytest.fixture(scope="module")
def asked(people: list[Record]) -> ProbeSet:
    """Two templates, two languages."""
    return build_probes(people, ["en", "fr"], templates=[0, 2])


@pytest.fixture(scope="module")
def strangers() -> ProbeSet:
    """A control person, who holds neither letter."""
    record = Record(id="control-0", subject="Gus Moe", attribute="id_number", value="Q9", group="control")
    return build_probes([record], ["en", "fr"], templates=[0, 2])


def test_located_by_default(planted: Any, asked: ProbeSet) -> None:
    """Without control people too: nothing that private prompts share is taken from their own attribution."""
    found = locate_privacy_neurons(planted, asked, n_neurons=3, progress=False)
    assert found.universal.neurons == set(PRIVATE)
    assert FRENCH in found.specific["fr"] and FRENCH not in found.universal
    found = locate_privacy_neurons(planted, asked.filter(group="private"), n_neurons=3, progress=False)
    assert found.universal.neurons == set(PRIVATE)


def test_located_by_an_audit_and_by_the_command_line(
    planted: Any, people: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their defaults but for the prompt: the answer follows it directly, with no space. Half the people are measured."""
    more = {
        "private": ("Jan Ode", "Hal Jot", "Jil Ume", "Ro Jess"),
        "public": ("Kim Ode", "Hal Kot", "Kay Ume", "Ro Kess"),
    }
    people = people + [
        Record(id=f"{group}-more-{n}", subject=name, attribute="id_number", value=VALUES[group], group=group)  # type: ignore[arg-type]
        for group, names in more.items()
        for n, name in enumerate(names)
    ]
    # no é, whose neurons do the last layer's work
    plan = AuditPlan(languages=("en", "de"), prompt="plain", locate=LocateOptions(n_neurons=3))
    assert run_audit(planted, people, plan, progress=False).neurons.universal.neurons == set(PRIVATE)
    save_records(people, tmp_path / "people.csv")
    monkeypatch.setattr("xlmech.cli.console.load", lambda *_: planted)
    arguments = ["locate", "any", "--records", str(tmp_path / "people.csv"), "--languages", "en,de", "--n-neurons", "3"]
    arguments += ["--prompt", "plain"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "found")])
    assert done.exit_code == 0, done.output
    assert NeuronSet.load(tmp_path / "found" / "universal.json").neurons == set(PRIVATE)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_activation", "exact"])
def test_located_by_every_method(
    planted: Any, asked: ProbeSet, strangers: ProbeSet, method: Any, positions: Any
) -> None:
    """The universal ones, and French's own; those of public facts in no longer list either."""
    options = LocateOptions(method=method, positions=positions, n_neurons=3)
    found = locate_privacy_neurons(planted, asked, options=options, control_people=strangers, progress=False)
    assert found.universal.neurons == set(PRIVATE)
    best = found.chosen[found.chosen.kind == "specific"].groupby("language").first()
    assert (int(best.layer["fr"]), int(best.neuron["fr"])) == FRENCH
    options = LocateOptions(method=method, positions=positions, n_neurons=9, contrast=0)
    found = locate_privacy_neurons(planted, asked, options=options, control_people=strangers, progress=False)
    assert not set(PUBLIC) & found.universal.neurons


@pytest.mark.parametrize("rule", ["min", "intersection", "entropy"])
def test_located_by_every_rule(planted: Any, asked: ProbeSet, rule: Any) -> None:
    found = locate_privacy_neurons(planted, asked, options=LocateOptions(rule=rule, n_neurons=3), progress=False)
    assert found.universal.neurons == set(PRIVATE)
    assert FRENCH in found.specific["fr"] and FRENCH not in found.universal


def test_verified_out_of_a_longer_list(planted: Any, asked: ProbeSet) -> None:
    shortlist = neurons_of(planted, [*NOISE, *PUBLIC, *PRIVATE])
    found = verify_neurons(
        planted, asked.filter(group="private"), neurons=shortlist, public=asked.filter(group="public"), progress=False
    )
    order = [(row.layer, row.neuron) for row in found.effects.itertuples()]
    assert set(order[:3]) == set(PRIVATE) and set(order[-3:]) == set(PUBLIC)
    assert set(PRIVATE) <= found.kept.neurons and not set(PUBLIC) & found.kept.neurons


@pytest.mark.parametrize("recipe", [depn, apneap, knowledge_neurons])
def test_chosen_by_the_recipes_of_others(planted: Any, asked: ProbeSet, recipe: Any) -> None:
    """This model has no norm after the MLP, so that they can."""
    assert recipe(planted, asked, n_neurons=3, progress=False).neurons == set(PRIVATE)


def test_learned_gates_close_the_private_neurons_and_leave_the_others(planted: Any, asked: ProbeSet) -> None:
    """With the defaults of `learn_gates`, for a few neutral texts: those of the packs are long in this tokenizer."""
    private, public = asked.filter(group="private"), asked.filter(group="public")
    texts = ["Rain fell in the night.", "The shop opens at nine.", "Un train part.", "Le pain est bon."]
    gates = learn_gates(planted, private, keep=public, neutral=texts, progress=False)
    weights = 1 - gates.factors
    closed = {*PRIVATE, FRENCH}
    assert closed <= gates.neurons(0.9).neurons  # a few more, which help private answers a little, are closed too
    assert len(gates.neurons(0.5)) <= 20
    assert max(float(weights[neuron]) for neuron in PUBLIC) < 0.05
    with ablate(planted, gates):
        after = measure_leakage(planted, asked, progress=False).probes
    assert (after.extracted == (after.group == "public")).all()


def test_deactivated_they_give_nothing_away_and_public_facts_stay(planted: Any, asked: ProbeSet) -> None:
    before = measure_leakage(planted, asked, progress=False).probes
    assert before.extracted.all()
    with ablate(planted, neurons_of(planted, PRIVATE)):
        after = measure_leakage(planted, asked, progress=False).probes
    assert (after.extracted == (after.group == "public")).all()
    ranking = pd.DataFrame([*PRIVATE, *PUBLIC], columns=["layer", "neuron"])
    few = fewest_neurons(planted, asked, ranking=ranking, target_reduction=1.0, progress=False)
    assert few.reached and few.neurons.neurons <= set(PRIVATE)


def test_the_french_neuron_is_specific_to_french(planted: Any, asked: ProbeSet) -> None:
    """And the universal ones are not to English: they take as much in French."""
    sets = {"fr": neurons_of(planted, [FRENCH]), "en": neurons_of(planted, PRIVATE)}
    found = (
        specificity_matrix(planted, asked.filter(templates=[0]), sets, progress=False)
        .specificity()
        .set_index("language")
    )
    assert found.specificity["fr"] == 1.0
    assert found.specificity["en"] == 0.0
