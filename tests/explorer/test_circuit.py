"""The explorer's numbers: each the library's own, computed once and when it is looked at, and told by three lines of Python."""

from __future__ import annotations

from typing import Any, get_args

import pandas as pd
import pytest
from helpers.people import person

import xlmech
from xlmech.data.records import MASK, Record
from xlmech.explorer import Circuit, ExplorerState, code_of
from xlmech.explorer import circuit as circuit_module
from xlmech.explorer.code import Panel, neurons_code
from xlmech.explorer.memory import Memory
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.patching.heads import top_heads
from xlmech.storage.result import Result

LANGUAGES = ("en", "fr", "es")
RECORDS: tuple[Record, ...] = (
    *(person(number) for number in range(3)),
    *(person(number, group="public") for number in (3, 4)),
)
ABLATED = frozenset({(0, 3), (1, 17), *((2, index) for index in range(64))})

pytestmark = pytest.mark.filterwarnings(
    "ignore:every neuron of layer", "ignore:pairs of subjects", "ignore:an interval"
)


@pytest.fixture(scope="module")
def circuit(model: Any) -> Circuit:
    return Circuit(model, RECORDS, LANGUAGES, prompt="plain", max_new_tokens=4)


@pytest.fixture(scope="module")
def state(circuit: Circuit) -> ExplorerState:
    return circuit.start("r0-birth_country")


def same(found: Any, wanted: Any) -> None:
    """Compare numbers, whatever holds them."""
    if isinstance(wanted, Result):
        pd.testing.assert_frame_equal(found.to_frame(), wanted.to_frame())
    elif isinstance(wanted, pd.DataFrame):
        pd.testing.assert_frame_equal(found, wanted)
    elif isinstance(wanted, pd.Series):
        pd.testing.assert_series_equal(found, wanted)
    else:
        assert found == wanted


@pytest.mark.parametrize("ablated", [frozenset(), ABLATED], ids=["whole", "ablated"])
@pytest.mark.parametrize("panel", get_args(Panel))
def test_three_lines_of_python_give_the_panels_numbers(
    circuit: Circuit, state: ExplorerState, panel: Panel, ablated: frozenset[tuple[int, int]], model: Any
) -> None:
    looked_at = state.at(ablated=ablated, language="es", source="fr", layer=1, position=4, form="en", template=1)
    code = code_of(circuit, looked_at, panel)
    assert len(code.splitlines()) == 3
    names: dict[str, Any] = {"model": model, "records": RECORDS}
    exec(code, names)
    method = {"answers": "written", "cost": "_nll"}.get(panel, panel)
    same(names["result"], getattr(circuit, method)(looked_at))
    assert not any(record.subject in code or record.forms["en"] in code for record in RECORDS)


def test_code_says_what_it_needs(circuit: Circuit, state: ExplorerState) -> None:
    with pytest.raises(ValueError, match="no layer is selected"):
        code_of(circuit, state, "patched")
    with pytest.raises(ValueError, match="unknown panel 'x'"):
        code_of(circuit, state, "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no other record of the kind birth_country"):
        code_of(circuit, state.at(other=""), "flow")


def test_whole_layers_are_written_short(circuit: Circuit) -> None:
    chosen = circuit.neuron_set(ABLATED)
    code = neurons_code(chosen)
    assert len(code) < 200 and eval(code, {"xlmech": xlmech}) == chosen
    assert eval(neurons_code(NeuronSet(frozenset(), 3, 64)), {"xlmech": xlmech}) == NeuronSet(frozenset(), 3, 64)


def test_answers_are_those_of_before_and_after(circuit: Circuit, state: ExplorerState, model: Any) -> None:
    table = circuit.answers(state.at(ablated=ABLATED))
    assert table.query_language.tolist() == list(LANGUAGES)
    probes = xlmech.build_probes(RECORDS[:1], LANGUAGES, templates=[0], prompt=circuit.questions.frame)
    before = xlmech.written_answers(model, probes, candidates=RECORDS, max_new_tokens=4)
    with xlmech.ablate(model, circuit.neuron_set(ABLATED)):
        after = xlmech.written_answers(model, probes, candidates=RECORDS, max_new_tokens=4)
    assert table.prob.tolist() == after.prob.tolist() and table.prob_before.tolist() == before.prob.tolist()
    assert (table.prob != table.prob_before).all()
    assert circuit.cost(state.at(ablated=ABLATED)).rise.notna().all()
    clean = circuit.answers(state)
    assert (clean.prob == clean.prob_before).all() and (circuit.cost(state).rise == 0).all()
    assert set(table.answer) == {MASK}
    assert MASK not in set(circuit.answers(state.at(reveal=True)).answer)


def test_nothing_is_computed_that_is_not_looked_at(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in (
        *("written_answers", "neutral_nll", "logit_lens", "predicted_tokens", "patch_positions", "patched_answer"),
        *("attribute_neurons", "ablation_effects", "promoted_tokens", "lape", "patch_languages", "attention_patterns"),
    ):
        real = getattr(circuit_module, name)
        monkeypatch.setattr(
            circuit_module, name, lambda *a, _real=real, _name=name, **k: (calls.append(_name), _real(*a, **k))[1]
        )
    circuit = Circuit(model, RECORDS, LANGUAGES, prompt="plain", max_new_tokens=2)
    state = circuit.start()
    assert calls == []
    circuit.lens(state)
    circuit.lens(state.at(layer=2, position=1, language="es"))
    assert calls == ["logit_lens"]
    circuit.answers(state)
    assert calls[1:] == ["written_answers"]
    circuit.answers(state.at(ablated=ABLATED))
    assert calls[2:] == ["written_answers"]
    circuit.cost(state.at(ablated=ABLATED))
    assert calls[3:] == ["neutral_nll", "neutral_nll"]
    circuit.answers(state), circuit.answers(state.at(layer=1)), circuit.ranked(state)  # noqa: B018
    assert calls[5:] == ["attribute_neurons"]
    circuit.exact(state.at(ablated=ABLATED)), circuit.exact(state)  # noqa: B018
    assert calls[6:] == ["ablation_effects"]


def test_memory_forgets_the_oldest() -> None:
    memory, made = Memory(2), list[int]()
    for key in (1, 2, 1, 3, 2, 1):
        assert memory.recall((key,), lambda key=key: (made.append(key), key)[1]) == key  # type: ignore[misc]
    assert made == [1, 2, 3, 2, 1]


def test_exact_effects_are_those_of_exact_attribution(circuit: Circuit, state: ExplorerState, model: Any) -> None:
    exact = circuit.exact(state, 5)
    options = xlmech.AttributeOptions(method="exact")
    probes = circuit.questions.probes(state.at(languages=(state.language,)))
    every = xlmech.attribute_neurons(model, probes, options=options, progress=False).top
    wanted = exact.merge(every, on=["probe", "layer", "neuron"])
    assert len(wanted) == 5
    assert wanted.effect_x.to_numpy() == pytest.approx(wanted.effect_y.to_numpy(), rel=1e-4, abs=1e-6)


def test_ranked_neurons_are_the_attributions(circuit: Circuit, state: ExplorerState) -> None:
    ranked = circuit.ranked(state, 7)
    assert len(ranked) == 7 and ranked.effect.is_monotonic_decreasing
    (mean,) = circuit.attribution(state).mean
    best = [divmod(unit, mean.shape[1]) for unit in mean.flatten().topk(7).indices.tolist()]
    assert list(zip(ranked.layer, ranked.neuron, strict=True)) == best
    assert set(zip(circuit.promoted(state, 7).layer, circuit.promoted(state, 7).neuron, strict=True)) == set(best)


def test_public_facts_and_language_neurons(circuit: Circuit, state: ExplorerState, model: Any) -> None:
    public = circuit.public(state)
    assert public is not None and public.languages == (state.language,)
    assert set(public.probes.probe) == {f"r{number}-birth_country/{state.language}/0" for number in (3, 4)}
    assert circuit.language_neurons(state).keys() == set(LANGUAGES)
    assert circuit.language_neurons(state.at(languages=("en",))) == {}
    assert Circuit(model, RECORDS[:2], LANGUAGES, prompt="plain").public(state) is None


def test_contributions_and_attention(circuit: Circuit, state: ExplorerState) -> None:
    sweep = circuit.contributions(state, "fr")
    assert sweep.effects.source_language.unique().tolist() == sweep.effects.target_language.unique().tolist() == ["fr"]
    heads = top_heads(circuit.heads(state))
    assert set(zip(heads.layer, heads["head"], strict=True)) == set(
        zip(circuit.attention(state).layer, circuit.attention(state)["head"], strict=True)
    )


def test_the_start_is_a_private_record_from_the_training_language(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_module, "plant_language", lambda model: "fr")
    circuit = Circuit(model, (person(3, group="public"), *RECORDS[:3]), LANGUAGES, prompt="plain")
    state = circuit.start()
    assert (state.record, state.other, state.source, state.language) == (
        "r0-birth_country",
        "r1-birth_country",
        "fr",
        "en",
    )
    assert circuit.questions.others_of("r0-birth_country") == [
        "r1-birth_country",
        "r2-birth_country",
        "r3-birth_country",
    ]
    assert circuit.questions.n_templates(state.record, LANGUAGES) == 3
    assert circuit.questions.n_templates(state.record, ("xx",)) == 0


def test_five_languages_to_begin_with_of_all_that_have_a_pack(model: Any) -> None:
    questions = Circuit(model, RECORDS).questions
    assert questions.languages == xlmech.available_languages()
    assert questions.start().languages == ("en", "fr", "es", "de", "zh")


def test_wrong_records_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="no records to explore"):
        Circuit(model, [])
    with pytest.raises(ValueError, match="no languages to ask in"):
        Circuit(model, RECORDS, [])
    with pytest.raises(ValueError, match="unknown record 'nobody'"):
        Circuit(model, RECORDS, LANGUAGES, prompt="plain").start("nobody")


def test_states_are_checked_and_follow_their_languages() -> None:
    state = ExplorerState(record="r", other="", languages=("en", "fr"), language="fr", source="en")
    assert state.at(languages=("fr",)) == ExplorerState(
        record="r", other="", languages=("fr",), language="fr", source="fr"
    )
    assert state.at(form="en").at(languages=("fr",)).form == ""
    selected = state.at(layer=2, position=7)
    assert selected.at(source="fr").position == 7
    assert (selected.at(language="en").layer, selected.at(language="en").position) == (2, None)
    assert selected.at(template=1, position=3).position == 3
    with pytest.raises(ValueError, match="source 'es' is none of the languages en"):
        ExplorerState(record="r", other="", languages=("en",), language="en", source="es")
    with pytest.raises(ValueError, match="asks in one language at least"):
        state.at(languages=())
