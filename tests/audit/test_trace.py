"""The path of one record: a thin composition, so it must say what its parts say; the known path is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.people import PATH_HEAD, PATH_LAYER, known_path, person
from helpers.tiny_models import N_LAYERS

from xlmech.audit.trace import RecordTrace, trace_record
from xlmech.data.pairs import ProbePair
from xlmech.data.questions import build_probes
from xlmech.data.records import MASK
from xlmech.models.backends import backend_of
from xlmech.patching.between_languages import patch_languages

LANGUAGES = ["fr", "es", "en"]
ONE, OTHER = person(0), person(2)


@pytest.fixture(scope="module")
def path(tokenizer: Any) -> Any:
    return known_path(tokenizer)


@pytest.fixture(scope="module")
def trace(path: Any) -> RecordTrace:
    return trace_record(path, ONE, LANGUAGES, counterfactual=OTHER, n_heads=4 * N_LAYERS, progress=False)


def test_only_the_head_on_the_path_changes_anything(trace: RecordTrace) -> None:
    top = trace.top_heads(4 * N_LAYERS)
    assert top.change.is_monotonic_decreasing
    moved = top[top.change.abs() > 1e-9]
    assert moved[["layer", "head"]].values.tolist() == [[PATH_LAYER, PATH_HEAD]]
    assert set(trace.attention.groupby(["layer", "head"]).groups) >= {(PATH_LAYER, PATH_HEAD)}


def test_attention_is_the_models(path: Any, trace: RecordTrace) -> None:
    probe = build_probes([ONE], ["es"], templates=[0])[0]
    tokens = backend_of(path).tokenizer(probe.prompt).input_ids
    with torch.no_grad():
        _, cache = path.run_with_cache(torch.tensor([tokens]))
    wanted = cache[f"blocks.{PATH_LAYER}.attn.hook_pattern"][0, PATH_HEAD]
    frame = trace.attention
    frame = frame[(frame.query_language == "es") & (frame.layer == PATH_LAYER) & (frame["head"] == PATH_HEAD)]
    found = torch.zeros(len(tokens), len(tokens), dtype=wanted.dtype)
    found[frame.destination.tolist(), frame.source.tolist()] = torch.tensor(frame.weight.tolist()).to(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    shown = trace.tokens[trace.tokens.query_language == "es"]
    assert len(shown) == len(tokens)
    assert set(shown.token[shown.part == "subject"]) == {MASK}


def test_the_frame_puts_the_parts_side_by_side(path: Any, trace: RecordTrace) -> None:
    frame = trace.to_frame()
    assert frame[["query_language", "layer"]].values.tolist() == [[c, n] for c in LANGUAGES for n in range(N_LAYERS)]
    cell = frame[(frame.query_language == "es") & (frame.layer == 2)].iloc[0]
    own, others = (build_probes([one], LANGUAGES, templates=[0]) for one in (ONE, OTHER))
    pairs = [
        ProbePair(sources=(source,), target=others["r2-birth_country/es/0"])
        for source in own
        if source.query_language != "es"
    ]
    outcomes = patch_languages(path, pairs, progress=False).outcomes.query("layer == 2")
    for column, outcome in (("patched_query", "source_in_target"), ("patched_source", "source_in_source")):
        assert cell[column] == pytest.approx(np.exp(outcomes[outcomes.outcome == outcome].log_prob).mean())
    lens = trace.lens.readings
    reading = lens[(lens.query_language == "es") & (lens.layer == 2) & (lens.form == "query")].prob.item()
    assert cell.lens_query == pytest.approx(reading)
    assert frame.groupby("query_language").neurons.sum().tolist() == [20] * 3
    assert len(trace.top_neurons(7)) == 21
    heads = trace.heads.effects.assign(change=lambda part: part.contrast - part.clean_contrast)
    mean = heads[(heads.target_language == "es") & (heads.layer == PATH_LAYER)].groupby("head").change.mean()
    row = frame[(frame.query_language == "es") & (frame.layer == PATH_LAYER)].iloc[0]
    assert row.heads == pytest.approx(mean.max())


def test_saved_and_loaded_is_the_same(trace: RecordTrace, tmp_path: Path) -> None:
    again = RecordTrace.load(trace.save(tmp_path / "trace"))
    pd.testing.assert_frame_equal(again.to_frame(), trace.to_frame())
    pd.testing.assert_frame_equal(again.attention, trace.attention)
    assert (again.record, again.counterfactual, again.languages) == (ONE.id, OTHER.id, tuple(LANGUAGES))
    texts = [file.read_text() for file in (tmp_path / "trace").rglob("meta.json")] + [trace.tokens.to_csv()]
    assert len(texts) == 6
    assert not any(ONE.subject in text or "Ana" in text for text in texts)


def test_what_is_refused(path: Any, trace: RecordTrace) -> None:
    def refuses(message: str, record: Any = ONE, languages: Any = LANGUAGES, **more: Any) -> None:
        with pytest.raises(ValueError, match=message):
            trace_record(path, record, languages, **({"counterfactual": OTHER, "progress": False} | more))

    refuses("needs two languages or more, got fr", languages=["fr"])
    refuses("are about one person", counterfactual=person(1, subject=ONE.subject))
    refuses("have different attributes", counterfactual=person(2, "birth_month"))
    refuses("share a form", counterfactual=person(2, forms=dict(ONE.forms)))
    refuses("no language pack", languages=["fr", "tlh"])
    refuses("no question template 99", template=99)
    with pytest.raises(ValueError, match="needs two languages or more, got fr"):
        replace(trace, languages=("fr",))
