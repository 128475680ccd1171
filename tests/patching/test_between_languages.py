"""Patching against a plain full-sequence loop, its identities, and TransformerLens' own; pairs, and what is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.people import person
from helpers.tiny_models import D_MLP, N_LAYERS

from xlmech.data.pairs import OUTCOMES, ProbePair
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import MASK, Record
from xlmech.engine.token_spans import aligned_positions, prompt_spans
from xlmech.metrics.intervals import mean_interval
from xlmech.models.backends import Backend, backend_of
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.patching.between_languages import PatchingResult, patch_languages
from xlmech.patching.plan import HOOKS, patched_prompt, sweep_of
from xlmech.patching.positions import patch_positions
from xlmech.patching.runs import Donor, patched_log_probs, run_donors

COMPONENTS = ("resid_pre", "resid_post", "attn_out", "mlp_out", "heads", "neurons")
NEURONS = NeuronSet(frozenset({(0, 3), (0, 9), (1, 1)}), N_LAYERS, D_MLP)
QUIET: Any = {"progress": False}
CACHES: dict[tuple[int, str], Any] = {}


@pytest.fixture(scope="module")
def probes() -> ProbeSet:
    records = [person(number, kind) for number in range(5) for kind in ("birth_country", "birth_month")]
    return build_probes(records, ["en", "fr", "es"], templates=[0])


@pytest.fixture(scope="module")
def pairs(probes: ProbeSet) -> tuple[ProbePair, ...]:
    return probes.filter(attributes=["birth_country"]).pairs(source="fr", target="es")


@pytest.fixture(scope="module")
def backend(model: Any) -> Backend:
    return backend_of(model)


def _tokens(model: Any, probe: Probe) -> torch.Tensor:
    return torch.tensor([backend_of(model).tokenizer(probe.prompt).input_ids])


def _hook(component: str) -> str:
    return HOOKS.get(component, f"hook_{component}")


@torch.no_grad()
def _loop(
    model: Any, pair: ProbePair, component: str, position: str, layers: list[int], head: int = -1, form: str = ""
) -> torch.Tensor:
    """Log-probabilities of every following token in a plain run with hooks in these layers, (position, token)."""
    aligned = [aligned_positions(backend_of(model), source, pair.target, position) for source in pair.sources]  # type: ignore[arg-type]
    for source in pair.sources:
        if (id(model), source.id) not in CACHES:
            CACHES[id(model), source.id] = model.run_with_cache(_tokens(model, source))[1]
    caches = [CACHES[id(model), source.id] for source in pair.sources]
    tail = backend_of(model).tokenizer(form, add_special_tokens=False).input_ids if form else []
    tokens = torch.tensor([[*_tokens(model, pair.target)[0].tolist(), *tail]])

    def put(layer: int) -> tuple[str, Any]:
        name = f"blocks.{layer}.{_hook(component)}"

        def hook_function(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value = value.clone()
            for place in range(len(aligned[0])):
                target = aligned[0][place][0]
                new = torch.stack([cache[name][0, of[place][1]] for cache, of in zip(caches, aligned, strict=True)])
                where: Any = slice(None)
                if component == "neurons":
                    where = NEURONS.by_layer()[layer]
                elif component == "heads":
                    where = head
                value[0, target, where] = new.mean(0)[where]
            return value

        return name, hook_function

    logits = model.run_with_hooks(tokens, fwd_hooks=[put(layer) for layer in layers])
    return logits[0].double().log_softmax(-1)


def _first(model: Any, form: str) -> int:
    return int(backend_of(model).tokenizer(form, add_special_tokens=False).input_ids[0])


def _check_outcomes(model: Any, pair: ProbePair, part: pd.DataFrame, wanted: torch.Tensor, column: str) -> None:
    for outcome, texts in pair.outcomes().items():
        tokens = [_first(model, text) for text in texts]
        found = part[part.outcome == outcome][column]
        assert len(found) == 1
        assert found.item() == pytest.approx(float(wanted[tokens].logsumexp(0)), abs=1e-6), outcome


# Against a loop


@pytest.mark.parametrize("position", ["last", "subject_last", "subject", "all"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_rows_equal_the_full_sequence_loop(
    model: Any, pairs: tuple[ProbePair, ...], component: Any, position: Any
) -> None:
    neurons = NEURONS if component == "neurons" else None
    result = patch_languages(model, pairs[:3], component=component, position=position, neurons=neurons, **QUIET)
    heads = (0, 3) if component == "heads" else (-1,)
    assert set(result.outcomes.layer) == ({0, 1} if neurons else set(range(N_LAYERS)))
    moved = []
    for pair in pairs[:3]:
        clean = _loop(model, pair, component, position, [])[-1]
        for layer in (0, 1 if neurons else 2):
            for head in heads:
                frame = result.outcomes
                part = frame[(frame.pair == pair.id) & (frame.layer == layer) & (frame["head"] == head)]
                wanted = _loop(model, pair, component, position, [layer], head)[-1]
                _check_outcomes(model, pair, part, wanted, "log_prob")
                _check_outcomes(model, pair, part, clean, "clean_log_prob")
                moved.append(float((wanted - clean).abs().max()))
    assert max(moved) > 1e-4, "an intervention without effect tests nothing"


@pytest.mark.parametrize("component", ["resid_post", "mlp_out", "heads", "neurons"])
def test_onward_is_a_loop_with_hooks_in_all_later_layers(
    model: Any, pairs: tuple[ProbePair, ...], component: Any
) -> None:
    neurons = NEURONS if component == "neurons" else None
    options: Any = {"component": component, "position": "subject", "neurons": neurons} | QUIET
    result = patch_languages(model, pairs[:2], layers="onward", **options)
    single = patch_languages(model, pairs[:2], **options)
    assert not np.allclose(result.outcomes.log_prob, single.outcomes.log_prob, rtol=1e-9, atol=0)
    for pair in pairs[:2]:
        for layer in (0, 1 if neurons else 2):
            later = [other for other in range(layer, N_LAYERS) if neurons is None or other in neurons.by_layer()]
            wanted = _loop(model, pair, component, "subject", later, head=1)[-1]
            frame = result.outcomes[(result.outcomes.pair == pair.id) & (result.outcomes.layer == layer)]
            part = frame[frame["head"] == (1 if component == "heads" else -1)]
            _check_outcomes(model, pair, part, wanted, "log_prob")


@torch.no_grad()
def test_several_sources_are_averaged(model: Any, probes: ProbeSet) -> None:
    pairs = probes.filter(attributes=["birth_country"]).pairs(source=["fr", "en"], target="es")[:2]
    assert {pair.source_language for pair in pairs} == {"fr+en"}
    result = patch_languages(model, pairs, position="subject", **QUIET)
    for pair in pairs:
        part = result.outcomes[(result.outcomes.pair == pair.id) & (result.outcomes.layer == 1)]
        _check_outcomes(model, pair, part, _loop(model, pair, "resid_post", "subject", [1])[-1], "log_prob")
        own = [model(_tokens(model, source))[0, -1].double().softmax(-1) for source in pair.sources]
        _check_outcomes(model, pair, part, torch.stack(own).mean(0).log(), "donor_log_prob")


def test_whole_values_are_forced(model: Any, pairs: tuple[ProbePair, ...]) -> None:
    result = patch_languages(model, pairs[:2], position="subject_last", whole_values=True, **QUIET)
    for pair in pairs[:2]:
        frame = result.outcomes[(result.outcomes.pair == pair.id) & (result.outcomes.reading == "whole_value")]
        n_prompt = _tokens(model, pair.target).shape[1]
        for outcome, (form,) in pair.outcomes().items():
            row = frame[(frame.outcome == outcome) & (frame.layer == 1)].iloc[0]
            tokens = backend_of(model).tokenizer(form, add_special_tokens=False).input_ids
            for column, layers in (("log_prob", [1]), ("clean_log_prob", [])):
                logs = _loop(model, pair, "resid_post", "subject_last", layers, form=form)
                wanted = sum(float(logs[n_prompt - 1 + place, token]) for place, token in enumerate(tokens))
                assert row[column] == pytest.approx(wanted, abs=1e-5)
            turned = replace(pair, target=pair.sources[0], sources=(pair.target,))  # the source's own run
            logs = _loop(model, turned, "resid_post", "last", [], form=form)
            start = _tokens(model, pair.sources[0]).shape[1] - 1
            wanted = sum(float(logs[start + place, token]) for place, token in enumerate(tokens))
            assert row.donor_log_prob == pytest.approx(wanted, abs=1e-5)
    assert len(result.summary(reading="whole_value")) == len(result.summary()) == 4 * N_LAYERS


def test_noising_is_denoising_with_the_runs_exchanged(model: Any, pairs: tuple[ProbePair, ...]) -> None:
    pair = pairs[0]
    turned = ProbePair(sources=(pair.target,), target=pair.sources[0])
    there = patch_languages(model, [pair], direction="noising", **QUIET).outcomes
    back = patch_languages(model, [turned], **QUIET).outcomes
    names = {  # the other's value is the source's, and the other's language the target's
        "source_in_target": "target_in_source",
        "source_in_source": "target_in_target",
        "target_in_target": "source_in_source",
        "target_in_source": "source_in_target",
    }
    merged = there.merge(back.assign(outcome=back.outcome.map(names)), on=["layer", "outcome"])
    assert len(merged) == 4 * N_LAYERS
    for column in ("log_prob", "clean_log_prob", "donor_log_prob"):
        assert merged[f"{column}_x"].tolist() == pytest.approx(merged[f"{column}_y"].tolist(), abs=1e-9)
    assert there.clean_log_prob.tolist() != pytest.approx(there.donor_log_prob.tolist())


# Identities


@pytest.mark.parametrize("onward", [False, True])
@pytest.mark.parametrize("component", COMPONENTS)
def test_patching_a_run_into_itself_changes_nothing(
    backend: Backend, pairs: tuple[ProbePair, ...], component: Any, onward: bool
) -> None:
    sweep = sweep_of(backend, component, neurons=NEURONS if component == "neurons" else None, onward=onward)
    for span in ("last", "subject", "all"):
        item = patched_prompt(backend, pairs[0], span=span, direction="denoising")  # type: ignore[arg-type]
        itself = replace(item, donors=(Donor(prompt=item.prompt, positions=item.positions, forms=item.forms),))
        (donated,) = run_donors(backend, sweep.hook, [itself], batch_size=1)
        (scores,) = patched_log_probs(backend, sweep, [itself], [donated.values], batch_size=1)
        torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(donated.log_prob, scores[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layers", ["single", "onward"])
def test_all_of_the_last_residual_stream_answers_as_the_source(
    model: Any, pairs: tuple[ProbePair, ...], layers: Any
) -> None:
    result = patch_languages(model, pairs, position="all", layers=layers, **QUIET)
    last = result.outcomes[result.outcomes.layer == N_LAYERS - 1]
    assert last.log_prob.tolist() == pytest.approx(last.donor_log_prob.tolist(), abs=1e-6)
    effects = result.effects[result.effects.layer == N_LAYERS - 1]
    assert effects.normalised.tolist() == pytest.approx([1] * len(pairs), abs=1e-5)


def test_effects_are_those_of_the_outcomes(model: Any, pairs: tuple[ProbePair, ...]) -> None:
    result = patch_languages(model, pairs, **QUIET)
    frame = result.outcomes
    for row in result.effects.itertuples():
        part = frame[(frame.pair == row.pair) & (frame.layer == row.layer)].set_index("outcome")
        found = []
        for column in ("log_prob", "clean_log_prob", "donor_log_prob"):
            prob = np.exp(part[column])
            sides = [sum(prob[name] for name in OUTCOMES if name.startswith(who)) for who in ("source", "target")]
            found.append(np.log(sides[0] / sides[1]))
        assert [row.contrast, row.clean_contrast, row.donor_contrast] == pytest.approx(found, abs=1e-6)
        assert row.normalised == pytest.approx((found[0] - found[1]) / (found[2] - found[1]), rel=1e-5)


# Summaries


def _toy(n: int) -> PatchingResult:
    """The source's value peaks at layer 1 in the target's form, at 2 in the source's."""
    curves = {"source_in_target": (0.1, 0.8, 0.2), "source_in_source": (0.0, 0.1, 0.7)}
    rows = [
        {"pair": f"p{i}", "kind": "cross_language", "source_subject": f"s{i}", "target_subject": f"s{(i + 1) % n}"}
        | {"source_language": "fr", "target_language": "es", "reading": "first_token", "layer": layer, "head": -1}
        | {"outcome": outcome, "log_prob": np.log(prob + 0.01 * (i + 1)), "clean_log_prob": np.log(0.05)}
        for outcome, curve in curves.items()
        for layer, prob in enumerate(curve)
        for i in range(n)
    ]
    frame = pd.DataFrame(rows)
    effects = frame[frame.outcome == "source_in_target"].assign(normalised=np.exp(frame.log_prob))
    from xlmech.storage.result import Provenance

    return PatchingResult(
        outcomes=frame, effects=effects, component="resid_post", position="last", layers="single",
        direction="denoising", provenance=Provenance(model="toy"),
    )  # fmt: skip


def test_summary_means_and_peaks() -> None:
    result = _toy(4)
    summary = result.summary().set_index(["outcome", "layer"])
    row = summary.loc[("source_in_target", 1)]
    assert row["prob"] == pytest.approx(0.825)
    assert row["change"] == pytest.approx(0.775)
    assert row["change_log_prob"] == pytest.approx(np.mean(np.log([0.81, 0.82, 0.83, 0.84]) - np.log(0.05)))
    found = mean_interval([0.81, 0.82, 0.83, 0.84], bounds=(0, 1))
    assert (row["prob"], row["prob_low"], row["prob_high"]) == pytest.approx(found)
    assert row["n_pairs"] == 4
    peaks = result.peaks().set_index("outcome")
    assert peaks.layer.to_dict() == {"source_in_target": 1, "source_in_source": 2}
    assert peaks.low.tolist() == peaks.high.tolist() == [1, 2]
    assert peaks.prob.tolist() == pytest.approx([0.825, 0.725])
    assert result.effect_summary().normalised.tolist() == pytest.approx([0.125, 0.825, 0.225])


def test_pairs_of_the_same_two_people_are_drawn_together() -> None:
    result = _toy(2)  # each is the other's source
    with pytest.warns(UserWarning, match=r"a single pair of subjects \(cross_language, fr, es\).*patch more pairs"):
        summary = result.summary()
    assert summary[["prob_low", "prob_high", "change_low", "change_log_prob_high"]].isna().all(axis=None)
    assert summary.prob.notna().all()
    assert result.peaks().low.isna().all()


def test_known_pairs_are_those_whose_runs_give_their_own_value() -> None:
    def row(pair: str, outcome: str, clean: float, donor: float, kind: str = "cross_language") -> dict[str, Any]:
        logs = {"clean_log_prob": np.log(clean), "donor_log_prob": np.log(donor), "log_prob": -1.0}
        return {"pair": pair, "outcome": outcome, "kind": kind, "reading": "first_token", "layer": 0} | logs

    rows = [
        *(row("both", "source_in_target", 0.1, 0.2), row("both", "source_in_source", 0.1, 0.4)),
        *(row("both", "target_in_target", 0.7, 0.1), row("both", "target_in_source", 0.1, 0.1)),
        *(row("weak donor", "source_in_target", 0.1, 0.4), row("weak donor", "target_in_target", 0.9, 0.1)),
        *(row("weak run", "source_in_target", 0.1, 0.9), row("weak run", "target_in_target", 0.4, 0.1)),
        *(row("null", name, 0.6, 0.0001, "other_attribute") for name in ("source_in_target", "target_in_target")),
    ]
    frame = pd.DataFrame(rows)
    result = replace(_toy(2), outcomes=frame, effects=frame[["pair"]])
    kept = result.known()
    assert kept.outcomes.pair.unique().tolist() == ["both", "null"]
    assert kept.effects.pair.nunique() == 2
    assert "weak donor" in set(result.known(at_least=0.4).outcomes.pair)
    # Noising runs the source: there the clean run must give the source's value.
    assert (
        replace(result, direction="noising").known(at_least=0.15).outcomes.pair.tolist() == ["both"] * 4 + ["null"] * 2
    )
    with pytest.raises(ValueError, match="in no pair both runs give their own value at least 0.99"):
        result.known(at_least=0.99)


def test_saved_and_loaded_is_the_same(model: Any, pairs: tuple[ProbePair, ...], tmp_path: Path) -> None:
    result = patch_languages(model, pairs, component="heads", **QUIET)
    again = PatchingResult.load(result.save(tmp_path / "patching"))
    pd.testing.assert_frame_equal(again.to_frame(), result.outcomes)
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    assert (again.component, again.position, again.layers, again.direction) == ("heads", "last", "single", "denoising")
    text = again.to_frame().to_csv() + (tmp_path / "patching" / "meta.json").read_text()
    for pair in pairs:
        for probe in (*pair.sources, pair.target):
            assert probe.record.subject not in text
            assert not any(form in text for form in probe.answers.values())
    with pytest.raises(ValueError, match="at least one pair"):
        replace(result, outcomes=result.outcomes[:0])
    with pytest.raises(ValueError, match="no reading 'whole_value' in this result; it has first_token"):
        again.summary(reading="whole_value")


# Pairs


def test_controls(probes: ProbeSet) -> None:
    pairs = probes.filter(attributes=["birth_country", "birth_month"]).pairs(source="fr", target="es", controls=True)
    kinds = [pair.kind for pair in pairs]
    assert [kinds.count(kind) for kind in ("cross_language", "same_language", "other_attribute")] == [10, 10, 10]
    for cross, same, other in zip(pairs[:10], pairs[10:20], pairs[20:], strict=True):
        assert cross.target == same.target == other.target
        assert cross.answer.record == same.answer.record == other.answer.record
        assert same.languages == ("es",)
        assert tuple(same.outcomes()) == ("source_in_target", "target_in_target")
        assert other.sources[0].record.attribute != other.target.record.attribute
        assert other.sources[0].query_language == "fr"
        people = {cross.answer.record.subject, cross.target.record.subject}
        assert other.sources[0].record.subject not in people
        assert tuple(other.outcomes()) == OUTCOMES
        assert tuple(other.outcomes().values()) == tuple(cross.outcomes().values())
    itself = probes.pairs(source="es", target="es")
    assert {pair.kind for pair in itself} == {"same_language"}
    assert "r" in repr(itself[0])
    assert not any(subject in repr(pair) for pair in pairs for subject in probes.subjects)


def test_controls_are_patched_beside_the_pairs(model: Any, probes: ProbeSet) -> None:
    pairs = probes.pairs(source="fr", target="es", controls=True)
    result = patch_languages(model, pairs, **QUIET)
    summary = result.summary()
    assert set(summary.kind) == {"cross_language", "same_language", "other_attribute"}
    assert set(summary[summary.kind == "same_language"].outcome) == {"source_in_target", "target_in_target"}
    cross, other = (result.outcomes[result.outcomes.kind == kind] for kind in ("cross_language", "other_attribute"))
    assert cross.clean_log_prob.tolist() == pytest.approx(other.clean_log_prob.tolist())


def test_attributes_written_alike_have_two_outcomes(model: Any) -> None:
    people = [Record(id=f"r{n}", subject=f"P {n}", attribute="id_number", value=f"{n}7") for n in range(3)]
    pairs = build_probes(people, ["en", "fr"], templates=[0]).pairs(source="en", target="fr")
    result = patch_languages(model, pairs, **QUIET)
    assert list(result.outcomes.outcome.unique()) == ["source_in_target", "target_in_target"]
    with pytest.raises(ValueError, match="no other-attribute control for .*build the probes of a second attribute"):
        build_probes(people, ["en", "fr"], templates=[0]).pairs(source="en", target="fr", controls=True)
    alone = ProbeSet(tuple(p for p in build_probes(people, ["en", "fr"], templates=[0]) if p.id != "r1/fr/0"))
    with pytest.raises(ValueError, match="no same-language control for r1/en -> r0/fr/0"):
        alone.pairs(source="en", target="fr", controls=True)


def test_collisions_are_left_out_and_counted(model: Any, probes: ProbeSet) -> None:
    same = person(0, forms={"en": "Aen", "fr": "Bfr", "es": "Bes"})
    other = build_probes([same, person(1), person(2)], ["en", "fr", "es"], attributes=["birth_country"], templates=[0])
    pairs = other.pairs(source="fr", target="es")
    result = patch_languages(model, pairs, **QUIET)
    assert (result.n_collisions, result.outcomes.pair.nunique()) == (2, 1)
    with pytest.raises(ValueError, match="in every pair, forms of two outcomes share their first token"):
        patch_languages(model, [pair for pair in pairs if "r0" in pair.id], **QUIET)


def test_a_single_pair_whose_value_begins_alike_is_read_without_the_sources_form(model: Any) -> None:
    """The contrast is what `patch_positions` finds at the last token, where the two are the same run."""
    alike = [person(0, forms={"en": "Aone", "fr": "Atwo"}), person(1, forms={"en": "Bone", "fr": "Btwo"})]
    probes = build_probes(alike, ["en", "fr"], attributes=["birth_country"], templates=[0])
    pair = probes.pairs(source="en", target="fr")[0]
    result = patch_languages(model, [pair], **QUIET)
    assert result.outcomes.outcome.unique().tolist() == ["source_in_target", "target_in_target"]
    sweep = patch_positions(model, pair, component="resid_post", progress=False).effects
    last = sweep[sweep.position == sweep.position.max()].sort_values("layer")
    effects = result.effects[result.effects.reading == "first_token"].sort_values("layer")
    assert effects.contrast.tolist() == pytest.approx(last.contrast.tolist(), abs=1e-5)


# Aligned positions


def test_positions_are_aligned_part_by_part(backend: Backend, pairs: tuple[ProbePair, ...]) -> None:
    for pair in pairs:
        (source,), target = pair.sources, pair.target
        ours, theirs = prompt_spans(backend, target), prompt_spans(backend, source)
        found = dict(aligned_positions(backend, source, target, "all"))
        assert list(found) == list(range(len(backend.tokenizer(target.prompt).input_ids)))
        for part in ours:
            if len(ours[part]):
                places = [found[place] for place in ours[part]]
                assert places == sorted(places)
                assert set(places) <= set(theirs[part])
                assert places[-1] == theirs[part][-1]
                if len(ours[part]) > 1:
                    assert places[0] == theirs[part][0]
        assert aligned_positions(backend, source, target, "subject") == [(at, found[at]) for at in ours["subject"]]
        assert aligned_positions(backend, source, target, "subject_last") == [
            (ours["subject"][-1], theirs["subject"][-1])
        ]
        itself = aligned_positions(backend, target, target, "all")
        assert itself == [(place, place) for place in found]


def test_a_part_without_counterpart_is_an_error(backend: Backend, pairs: tuple[ProbePair, ...]) -> None:
    (source,), target = pairs[0].sources, pairs[0].target
    name = source.record.subject
    short = replace(source, prompt=f"{name}?", subject_span=(0, len(name)))
    with pytest.raises(ValueError, match="has tokens in its part 'before'.*has none; use templates") as caught:
        aligned_positions(backend, short, target, "all")
    assert MASK in str(caught.value)
    assert name not in str(caught.value)
    assert target.record.subject not in str(caught.value)


# What is refused


def test_pairs_that_cannot_be_told_apart_are_refused(probes: ProbeSet) -> None:
    one, two = probes["r0-birth_country/fr/0"], probes["r1-birth_country/es/0"]
    month = probes["r1-birth_month/es/0"]
    with pytest.raises(ValueError, match="records 'r0-birth_country' and 'r1-birth_month' have different attributes"):
        ProbePair(sources=(one,), target=month)
    alike = replace(two, answers=two.answers | {"en": one.answers["en"]})
    with pytest.raises(ValueError, match="values of records 'r0-birth_country' and 'r1-birth_country' share a form"):
        ProbePair(sources=(one,), target=alike)
    with pytest.raises(ValueError, match="one source record, got r0-birth_country, r2-birth_country"):
        ProbePair(sources=(one, probes["r2-birth_country/fr/0"]), target=two)
    with pytest.raises(ValueError, match="one source record, got none"):
        ProbePair(sources=(), target=two)
    speechless = replace(two, answers={"es": two.answers["es"]})
    with pytest.raises(ValueError, match="record 'r1-birth_country' has no form in fr; add it"):
        ProbePair(sources=(one,), target=speechless)


def test_bad_calls(model: Any, pairs: tuple[ProbePair, ...], probes: ProbeSet) -> None:
    def refuses(message: str, given: Any = pairs, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            patch_languages(model, given, **options, **QUIET)

    refuses("no pairs to patch", ())
    refuses("expected a ProbePair, got tuple", [(pairs[0].sources[0], pairs[0].target)])
    refuses("is given twice", [pairs[0], pairs[0]])
    refuses("unknown component 'mlp' \(did you mean 'mlp_out'\?\); use 'resid_pre', ", component="mlp")
    refuses("unknown position 'first'; use 'subject_last', 'last', 'subject', 'all'", position="first")
    refuses("unknown layers 'all'; use 'single', 'onward'", layers="all")
    refuses("unknown direction 'both'; use 'denoising', 'noising'", direction="both")
    refuses("component 'neurons' and neurons=None do not fit", component="neurons")
    refuses("component 'heads' and neurons=NeuronSet", component="heads", neurons=NEURONS)
    empty, large = NeuronSet(frozenset(), N_LAYERS, D_MLP), NeuronSet(frozenset({(0, 1)}), 40, D_MLP)
    refuses("the set of neurons to patch is empty", component="neurons", neurons=empty)
    refuses("the neurons are of a model of 40 layers of 64; this one has 3", component="neurons", neurons=large)
    several = probes.pairs(source=["fr", "en"], target="es")
    refuses("noising runs the source, so it takes one source language", several, direction="noising")
    source = replace(pairs[0].sources[0], prompt="Où ?")
    refuses("the subject is not at its span", [replace(pairs[0], sources=(source,))], position="subject")


def test_components_that_are_not_there(model: Any, pairs: tuple[ProbePair, ...], monkeypatch: Any) -> None:
    hooks = {name: point for name, point in model.hook_dict.items() if not name.endswith("attn.hook_z")}
    backend = backend_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        class Poor:
            cfg, hook_dict = model.cfg, hooks

        monkeypatch.setattr(backend, "model", Poor())
    with pytest.raises(ValueError, match=r"no hook point 'attn\.hook_z' in layer 0; it has .*mlp\.hook_post"):
        sweep_of(backend, "heads")
