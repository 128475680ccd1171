"""Layer x position: against TransformerLens' own patching and a plain loop; a fact with a known path is traced to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.people import PATH_HEAD, PATH_LAYER, known_path, person
from helpers.tiny_models import N_LAYERS, KeepFloat64
from transformer_lens import patching as theirs

from xlmech import figures
from xlmech.data.pairs import ProbePair
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import MASK
from xlmech.engine.token_spans import aligned_positions
from xlmech.models.backends import Backend, backend_of
from xlmech.models.tokens import subject_tokens
from xlmech.patching.between_languages import patch_languages
from xlmech.patching.estimates import AttributionPatchingResult, attribution_patching
from xlmech.patching.gradient_estimate import estimated_changes
from xlmech.patching.plan import contrast, patched_prompt, sweep_of
from xlmech.patching.positions import PositionSweep, patch_positions
from xlmech.patching.runs import run_donors

QUIET: Any = {"progress": False}


@pytest.fixture(scope="module")
def probes() -> ProbeSet:
    """The first two people's names differ in their last letter alone."""
    records = [person(0), person(1, subject="Ana Lo"), person(2)]
    return build_probes(records, ["fr", "es"], templates=[0])


@pytest.fixture(scope="module")
def alike(probes: ProbeSet) -> ProbePair:
    """Two prompts of one length, that differ in one token."""
    pair = probes.pairs(source="es", target="es")[0]
    assert {pair.sources[0].record.subject, pair.target.record.subject} == {"Ana Li", "Ana Lo"}
    return pair


@pytest.fixture(scope="module")
def across(probes: ProbeSet) -> ProbePair:
    return probes.pairs(source="fr", target="es")[1]


@pytest.fixture(scope="module")
def path(tokenizer: Any) -> Any:
    return known_path(tokenizer)


def _tokens(model: Any, probe: Probe) -> torch.Tensor:
    return torch.tensor([backend_of(model).tokenizer(probe.prompt).input_ids])


def _contrast(model: Any, pair: ProbePair, logits: torch.Tensor) -> torch.Tensor:
    forms = pair.outcomes()
    firsts = {
        outcome: [backend_of(model).tokenizer(form, add_special_tokens=False).input_ids[0] for form in of]
        for outcome, of in forms.items()
    }
    logs = logits[0, -1].double().log_softmax(-1)
    return contrast(torch.stack([logs[tokens].logsumexp(0) for tokens in firsts.values()]), list(firsts))


@pytest.mark.parametrize(
    ("component", "function"),
    [
        ("resid_pre", "get_act_patch_resid_pre"),
        ("attn_out", "get_act_patch_attn_out"),
        ("mlp_out", "get_act_patch_mlp_out"),
        ("heads", "get_act_patch_attn_head_out_by_pos"),
    ],
)
@torch.no_grad()
def test_agrees_with_transformer_lens(model: Any, alike: ProbePair, component: Any, function: str) -> None:
    sweep = patch_positions(model, alike, component=component, **QUIET)
    _, cache = model.run_with_cache(_tokens(model, alike.sources[0]))
    wanted = getattr(theirs, function)(
        model, _tokens(model, alike.target), cache, lambda logits: _contrast(model, alike, logits)
    )
    keys = ["layer", "position", "head"]
    found = sweep.effects.sort_values(keys).contrast.to_numpy()
    np.testing.assert_allclose(found, wanted.flatten().double().numpy(), atol=1e-4)
    assert np.ptp(found) > 1e-3
    assert sweep.effects.duplicated(keys).sum() == 0


@torch.no_grad()
def test_two_languages_correspond_part_by_part(model: Any, across: ProbePair) -> None:
    sweep = patch_positions(model, across, **QUIET)
    (source,), target = across.sources, across.target
    aligned = dict(aligned_positions(backend_of(model), source, target, "all"))
    _, cache = model.run_with_cache(_tokens(model, source))
    for layer in (0, 1):
        for position in (0, 5, len(aligned) - 1):

            def put(value: torch.Tensor, hook: Any, layer: int = layer, position: int = position) -> torch.Tensor:
                value = value.clone()
                value[0, position] = cache[f"blocks.{layer}.hook_resid_post"][0, aligned[position]]
                return value

            logits = model.run_with_hooks(_tokens(model, target), fwd_hooks=[(f"blocks.{layer}.hook_resid_post", put)])
            cell = sweep.effects[(sweep.effects.layer == layer) & (sweep.effects.position == position)]
            assert cell.contrast.item() == pytest.approx(float(_contrast(model, across, logits)), abs=1e-6)


def test_a_column_is_the_patch_at_that_position(model: Any, across: ProbePair) -> None:
    sweep = patch_positions(model, across, component="mlp_out", **QUIET)
    last = patch_languages(model, [across], component="mlp_out", **QUIET).outcomes
    cells = sweep.outcomes[sweep.outcomes.position == sweep.tokens.position.max()]
    assert cells.log_prob.tolist() == pytest.approx(last.log_prob.tolist(), abs=1e-9)


def test_a_fact_with_a_known_path_is_traced_to_it(path: Any, alike: ProbePair) -> None:
    """Up to the layer of the only head it is at the name's only different token, from there on at the last one."""
    sweep = patch_positions(path, alike, component="resid_pre", **QUIET)
    name, last = subject_tokens(backend_of(path), alike.target)[-1], int(sweep.tokens.position.max())
    for row in sweep.effects.itertuples():
        on_path = row.position == (name if row.layer <= PATH_LAYER else last)
        assert row.normalised == pytest.approx(1.0 if on_path else 0.0, abs=1e-6), row
    whole = patch_languages(path, [alike], component="attn_out", **QUIET).effects
    assert whole.normalised.tolist() == pytest.approx([float(layer == PATH_LAYER) for layer in range(N_LAYERS)])
    heads = patch_languages(path, [alike], component="heads", **QUIET).effects
    chosen = (heads.layer == PATH_LAYER) & (heads["head"] == PATH_HEAD)
    assert heads.normalised.tolist() == pytest.approx(chosen.astype(float).tolist())
    peak = sweep.peaks().set_index("outcome").loc["source_in_target"]
    assert peak.part in ("subject", "after")


def test_tokens_are_named_without_the_name(model: Any, across: ProbePair) -> None:
    sweep = patch_positions(model, across, **QUIET)
    shown = "".join(sweep.tokens.token[sweep.tokens.part.isin(["before", "after"])])
    assert shown.isascii() or len(shown)
    assert set(sweep.tokens.token[sweep.tokens.part == "subject"]) == {MASK}
    assert list(dict.fromkeys(sweep.tokens.part)) == ["special", "before", "subject", "after"]
    assert sweep.tokens.position.tolist() == list(range(len(sweep.tokens)))


# Attribution patching


@pytest.mark.parametrize("component", ["resid_post", "heads"])
def test_the_estimate_is_the_derivative_towards_the_source(model: Any, across: ProbePair, component: Any) -> None:
    with KeepFloat64():
        _check_derivative(model, across, component)


def _check_derivative(model: Any, across: ProbePair, component: Any) -> None:
    backend: Backend = backend_of(model)
    sweep = sweep_of(backend, component)
    item = patched_prompt(backend, across, span="subject", direction="denoising")
    (donated,) = run_donors(backend, sweep.hook, [item], batch_size=1)
    found = estimated_changes(backend, sweep, item, donated.values)
    scores = {}
    for step in (1e-4, -1e-4):

        def move(value: torch.Tensor, hook: Any, step: float = step) -> torch.Tensor:
            value = value.clone()
            places = list(item.positions)
            value[0, places] += step * (donated.values[1] - value[0, places]) * sweep.masks[1][-1]
            return value

        with torch.no_grad():
            name = backend.hook_name(sweep.hook, 1)
            logits = model.run_with_hooks(_tokens(model, across.target), fwd_hooks=[(name, move)])
        scores[step] = float(_contrast(model, across, logits))
    variant = 2 * len(sweep.masks[1]) - 1  # the last of layer 1
    assert float(found[variant]) == pytest.approx((scores[1e-4] - scores[-1e-4]) / 2e-4, rel=1e-3, abs=1e-7)


def test_estimates_stand_beside_their_errors(model: Any, probes: ProbeSet, tmp_path: Path) -> None:
    pairs = probes.pairs(source="fr", target="es")
    result = attribution_patching(model, pairs, position="subject", n_exact=2, **QUIET)
    exact = patch_languages(model, pairs[:2], position="subject", **QUIET).effects
    known = result.changes.dropna(subset="exact")
    assert known.exact.tolist() == pytest.approx((exact.contrast - exact.clean_contrast).tolist(), abs=1e-9)
    assert known.error.tolist() == pytest.approx((known.estimate - known.exact).tolist())
    assert result.changes.exact.isna().sum() == N_LAYERS
    agreement = result.agreement().set_index("layer")
    part = known[known.layer == 0]
    assert agreement.loc[0, "relative_error"] == pytest.approx(part.error.abs().sum() / part.exact.abs().sum())
    assert agreement.loc[0, "mean_exact"] == pytest.approx(part.exact.mean())
    assert agreement.n.tolist() == [2] * N_LAYERS
    assert np.isnan(agreement.loc[N_LAYERS - 1, "relative_error"]), "the last layer at the subject changes nothing"
    assert -1 <= result.rank_correlation() <= 1
    again = AttributionPatchingResult.load(result.save(tmp_path / "estimates"))
    pd.testing.assert_frame_equal(again.to_frame(), result.changes)
    sweep = patch_positions(model, pairs[0], **QUIET)
    cells = sweep.effects
    wanted = (cells.estimate - cells.change).abs().sum() / cells.change.abs().sum()
    assert sweep.estimate_error() == pytest.approx(wanted)
    loaded = PositionSweep.load(sweep.save(tmp_path / "sweep"))
    pd.testing.assert_frame_equal(loaded.to_frame(), sweep.outcomes)
    pd.testing.assert_frame_equal(loaded.peaks(), sweep.peaks())


def test_what_is_refused(model: Any, probes: ProbeSet, across: ProbePair) -> None:
    pairs = probes.pairs(source="fr", target="es")
    with pytest.raises(ValueError, match="n_exact must be at least 1, not 0: an estimate without its error"):
        attribution_patching(model, pairs, n_exact=0)
    backend = backend_of(model)
    item = patched_prompt(backend, across, span="last", direction="denoising")
    with pytest.raises(ValueError, match="estimates one layer at a time"):
        estimated_changes(backend, sweep_of(backend, "resid_post", onward=True), item, torch.empty(0))
    with pytest.raises(ValueError, match="takes no neurons; use patch_languages"):
        patch_positions(model, across, component="neurons")
    with pytest.raises(ValueError, match="expected a ProbePair, got tuple"):
        patch_positions(model, tuple(pairs))  # type: ignore[arg-type]
    (source,), target = across.sources, across.target
    short = replace(source, prompt=f"{source.record.subject}?", subject_span=(0, len(source.record.subject)))
    with pytest.raises(ValueError, match="tokens in its part 'before'.* and the source prompt .* has none"):
        patch_positions(model, ProbePair(sources=(short,), target=target))
    one, two = ({"en": f"X{end}", "fr": f"Y{end}", "es": f"Z{end}"} for end in ("a", "b"))
    same = build_probes([person(0, forms=one), person(1, forms=two)], ["fr", "es"], templates=[0])
    (first, *_) = same.pairs(source="fr", target="es")
    with pytest.raises(ValueError, match="forms of its two values share their first token.*use another pair"):
        patch_positions(model, first)
    with pytest.raises(ValueError, match="in every pair, forms of two outcomes share"):
        attribution_patching(model, [first])
    result = attribution_patching(model, pairs[:1], **QUIET)
    with pytest.raises(ValueError, match="needs the true change of one pair at least"):
        replace(result, changes=result.changes.assign(exact=float("nan")))
    sweep = patch_positions(model, across, **QUIET)
    with pytest.raises(ValueError, match="needs a cell for every position"):
        replace(sweep, tokens=sweep.tokens[:2])


def test_a_value_that_both_languages_write_alike_has_one_outcome(model: Any) -> None:
    """The demo's first pair is of this kind (Portugal): what comes out is told, not in which language."""
    alike = {"en": "Port", "fr": "Port", "es": "Port"}
    apart = {"en": "Port", "fr": "Xort", "es": "Port"}
    for values, given in ((apart, 4), (alike, 3)):
        pairs = build_probes([person(0, forms=values), person(1)], ["fr", "es"], templates=[0]).pairs(
            source="fr", target="es"
        )
        (pair,) = (one for one in pairs if one.target.record.id.startswith("r0"))
        found = patch_positions(model, pair, **QUIET)
        assert found.outcomes.outcome.nunique() == given
        whole = found.outcomes.set_index(["outcome", "layer", "position"]).log_prob
        if given == 4:
            wanted = whole["target_in_target"]
    np.testing.assert_allclose(whole["target_in_target"], wanted, rtol=1e-6)
    names = set(found.outcomes.outcome)
    assert names == {"source_in_target", "source_in_source", "target_in_target"}
    with pytest.raises(ValueError, match="unknown outcome 'target_in_source'"):
        figures.patching_positions(found, value="target_in_source")  # type: ignore[arg-type]
    figures.patching_positions(found)
