"""Formulas against independent ones and their invariances; the analysis against a plain loop and made-up representations."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny_models import tiny
from scipy import stats

from xlmech.data.probes import ProbeSet
from xlmech.data.questions import build_probes
from xlmech.data.records import Record
from xlmech.engine.token_spans import token_position
from xlmech.lens import similarity as similarity_module
from xlmech.lens.similarity import SimilarityResult, representation_similarity
from xlmech.metrics import resampling
from xlmech.metrics.similarity import centred_cosine, linear_cka, permuted_cka
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model


@pytest.fixture
def features() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5)) + 3
    return x, np.tanh(x @ rng.normal(size=(5, 7))) + 0.1 * rng.normal(size=(12, 7)) - 2


def cka(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], counts: Any = None) -> float:
    weights = np.ones((1, len(x))) if counts is None else np.asarray([counts], dtype=float)
    return float(linear_cka(x @ x.T, y @ y.T, weights)[0])


def cosine(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], counts: Any = None) -> float:
    weights = np.ones((1, len(x))) if counts is None else np.asarray([counts], dtype=float)
    return float(centred_cosine(x @ y.T, x @ x.T, y @ y.T, weights)[0])


def test_cka_is_that_of_kornblith(features: Any) -> None:
    x, y = features
    n = len(x)
    h = np.eye(n) - 1 / n

    def hsic(k: Any, m: Any) -> float:
        return float(np.trace(k @ h @ m @ h)) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    assert cka(x, y) == pytest.approx(hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)), rel=1e-12)
    # The same by feature covariances, with which the paper defines the linear case.
    one, two = x - x.mean(0), y - y.mean(0)
    norms = np.linalg.norm(one.T @ one) * np.linalg.norm(two.T @ two)
    assert cka(x, y) == pytest.approx(np.linalg.norm(two.T @ one) ** 2 / norms, rel=1e-12)


def test_cka_does_not_see_rotation_scale_and_offset(features: Any) -> None:
    x, y = features
    turn = stats.ortho_group.rvs(5, random_state=1)
    assert cka(x, x) == pytest.approx(1, rel=1e-12)
    assert cka(x, 7 * x @ turn + 2) == pytest.approx(1, rel=1e-12)
    assert cka(0.5 * x @ turn - 9, y) == pytest.approx(cka(x, y), rel=1e-9)
    assert cka(x, y) == pytest.approx(cka(y, x), rel=1e-12)
    assert cka(x, x @ np.diag([9, 1, 1, 1, 1])) < 0.99


def test_counts_are_repetitions(features: Any) -> None:
    x, y = features
    counts = [0, 2, 1, 0, 3, 1, 1, 1, 0, 1, 1, 1]
    several = np.repeat(np.arange(12), counts)
    assert cka(x, y, counts) == pytest.approx(cka(x[several], y[several]), rel=1e-10)
    z = y[:, :5]
    assert cosine(x, z, counts) == pytest.approx(cosine(x[several], z[several]), rel=1e-10)


def test_cosine_is_that_of_centred_vectors(features: Any) -> None:
    x, y = features[0], features[1][:, :5]
    one, two = torch.tensor(x - x.mean(0)), torch.tensor(y - y.mean(0))
    wanted = torch.nn.functional.cosine_similarity(one, two).mean()
    assert cosine(x, y) == pytest.approx(float(wanted), rel=1e-12)
    assert cosine(x, 3 * x + 5) == pytest.approx(1, rel=1e-12)
    assert cosine(x, -x) == pytest.approx(-1, rel=1e-12)


def test_partners_are_permuted_examples(features: Any) -> None:
    x, y = features[0], features[1][:, :5]
    order = np.random.default_rng(2).permutation(12)
    ones = np.ones((1, 12))
    found = centred_cosine(x @ y.T, x @ x.T, y @ y.T, ones, order[None])[0]
    assert found == pytest.approx(cosine(x, y[order]), rel=1e-10)
    assert permuted_cka(x @ x.T, y @ y.T, order[None])[0] == pytest.approx(cka(x, y[order]), rel=1e-10)


def test_bootstrap_draws_subjects_and_recentres_its_percentiles() -> None:
    counts = resampling.resample_counts(6, seed=1)
    assert counts.shape == (resampling.N_RESAMPLES, 6)
    assert set(counts.sum(1)) == {6}
    assert counts.mean(0) == pytest.approx(np.ones(6), abs=0.1)
    assert resampling.resample_counts(1).tolist() == [[1]]
    draws = np.arange(101.0)[:, None]
    assert [float(end[0]) for end in resampling.percentile_interval(draws)] == pytest.approx([2.5, 97.5])
    assert [float(end[0]) for end in resampling.recentred_interval(np.array([60.0]), draws)] == pytest.approx(
        [12.5, 107.5]
    )
    assert np.isnan(resampling.percentile_interval(draws[:1])).all()


def test_bootstrap_means_are_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 4, size=(30, 2)).astype(float)
    sums = counts * rng.normal(size=(30, 2))
    means, draws = resampling.bootstrap_means(sums, counts)
    assert means == pytest.approx(sums.sum(0) / counts.sum(0))
    chosen = [rng.integers(0, 30, 30) for _ in range(4000)]
    plain = np.array([sums[of].sum(0) / counts[of].sum(0) for of in chosen])
    for one, other in zip(resampling.percentile_interval(draws), resampling.percentile_interval(plain), strict=True):
        assert one == pytest.approx(other, abs=0.05)


def test_a_subject_drawn_twice_does_not_make_unrelated_sets_alike() -> None:
    """The percentile interval of CKA would: this is why it is recentred."""
    rng, n = np.random.default_rng(0), 16
    counts = resampling.resample_counts(n, n_resamples=200)
    partners = np.stack([np.roll(np.arange(n), shift) for shift in range(1, n)])
    above = {"plain": 0, "recentred": 0}
    for _ in range(20):
        x, y = rng.normal(size=(2, n, 100))
        grams = (x @ x.T, y @ y.T)
        value, draws = linear_cka(*grams, np.ones((1, n)))[0], linear_cka(*grams, counts)
        null = np.quantile(permuted_cka(*grams, partners), 0.95)
        above["plain"] += bool(resampling.percentile_interval(draws)[0] > null)
        above["recentred"] += bool(resampling.recentred_interval(value, draws)[0] > null)
    assert above["plain"] > 4
    assert above["recentred"] == 0


# The analysis


def test_figures_are_a_plain_loops(model: Any, probes: ProbeSet) -> None:
    result = representation_similarity(model, probes, n_null=5, progress=False)
    backend = backend_of(model)
    states: dict[tuple[str, str], list[torch.Tensor]] = {}
    for probe in probes:
        tokens = torch.tensor([backend.tokenizer(probe.prompt).input_ids])
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
        for place in ("subject_last", "last"):
            position = token_position(backend, probe, place)  # type: ignore[arg-type]
            found = states.setdefault((probe.query_language, place), [])
            found.append(cache["blocks.1.hook_resid_post"][0, position])
    for place in ("subject_last", "last"):
        x, y = (torch.stack(states[code, place]).double().numpy() for code in ("en", "fr"))
        for measure, formula in (("cosine", cosine), ("cka", cka)):
            wanted = formula(x - x.mean(0), y - y.mean(0))
            cell = result.pairs[(result.pairs[["measure", "position", "layer"]] == (measure, place, 1)).all(axis=1)]
            assert cell.value.item() == pytest.approx(wanted, rel=1e-4)
            assert (cell.language_a.item(), cell.language_b.item()) == ("en", "fr")
    assert (result.n_subjects, result.n_probes, result.n_unaligned) == (5, 10, 0)
    # With two languages the mean over pairs is that pair.
    assert result.pooled.sort_values(["measure", "position", "layer"]).value.tolist() == pytest.approx(
        result.pairs.sort_values(["measure", "position", "layer"]).value.tolist()
    )


@pytest.fixture(scope="module")
def crowd() -> ProbeSet:
    """Thirty people, two languages."""
    keys = ["FR", "JP", "BR"]
    rows = [
        Record(id=f"r{i}", subject=f"Person {chr(65 + i % 26)}{i}", attribute="birth_country", value=keys[i % 3])
        for i in range(30)
    ]
    return build_probes(rows, ["en", "fr", "de"], templates=[0])


def pretend(monkeypatch: pytest.MonkeyPatch, shared: float) -> None:
    """Representations of which a person's part is shared between languages at layer 1 alone."""
    generator = torch.Generator().manual_seed(0)

    def read(backend: Any, rows: Any, languages: Any, positions: Any, **_: Any) -> torch.Tensor:
        shape = (len(languages), len(rows), len(positions), 3, 8)
        states = torch.randn(shape, generator=generator) + 100 * torch.randn(len(languages), 1, 1, 1, 8)
        states[:, :, :, 1] += shared * torch.randn(shape[1:3] + shape[4:], generator=generator)
        return states

    monkeypatch.setattr(similarity_module, "_read", read)


def test_shared_layers_are_found_where_something_is_shared(
    model: Any, crowd: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 3.0)
    result = representation_similarity(model, crowd, progress=False)
    for measure in ("cosine", "cka"):
        shared = result.shared_layers(measure=measure)  # type: ignore[arg-type]
        assert set(shared) == {"en-fr", "en-de", "fr-de", "all"}
        assert shared["all"] == (1,)
    cell = result.pooled.query("measure == 'cosine' and position == 'last' and layer == 1").iloc[0]
    # A shared part of variance 9 beside one of 1: about 0.9; whom it is not shared with, 0.
    assert cell.value == pytest.approx(0.9, abs=0.05)
    assert cell.low < cell.value < cell.high
    assert cell.null_mean == pytest.approx(0, abs=0.1)
    other = result.pooled.query("measure == 'cosine' and position == 'last' and layer == 0").iloc[0]
    assert other.low < other.null


def test_the_null_pairs_nobody_with_himself(probes: ProbeSet) -> None:
    rows = similarity_module._aligned(probes)
    subjects = [row["en"].record.subject for row in rows]
    _, partners = similarity_module._draws(rows, subjects, n_null=50, seed=0)
    assert partners.shape == (50, len(rows))
    for draw in partners:
        assert sorted(draw) == list(range(len(rows)))
        for number, other in enumerate(draw):
            assert subjects[number] != subjects[other]
            assert rows[number]["en"].record.attribute == rows[other]["en"].record.attribute
            assert rows[number]["en"].record.group == rows[other]["en"].record.group
    assert len({tuple(draw) for draw in partners}) > 1


@pytest.fixture(scope="module")
def probes(records: tuple[Record, ...]) -> ProbeSet:
    """All of one group, so that everyone has somebody to be taken for."""
    same = [record.model_copy(update={"group": "private"}) for record in records]
    return build_probes(same, ["en", "fr"], templates=[0])


def test_a_single_subject_has_neither_interval_nor_null(model: Any, probes: ProbeSet) -> None:
    with pytest.warns(UserWarning, match="a single subject: there is no interval and no null"):
        result = representation_similarity(model, probes.filter(subjects=["Ana Li"]), progress=False)
    assert result.pairs[["low", "high", "null", "null_mean"]].isna().all(axis=None)
    assert result.shared_layers()["all"] == ()


def test_what_cannot_be_compared_is_an_error(model: Any, probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="needs probes in two languages or more; these are asked in fr"):
        representation_similarity(model, probes.filter(languages=["fr"]))
    with pytest.raises(ValueError, match="asked in no language"):
        representation_similarity(model, ProbeSet(()))
    english, french = probes.filter(languages=["en"]), probes.filter(languages=["fr"])
    with pytest.raises(ValueError, match="no record is asked with the same template in all of en, fr"):
        representation_similarity(model, english[:1] + french[1:])
    with pytest.raises(ValueError, match="null_quantile must be between 0 and 1, not 95"):
        representation_similarity(model, probes, null_quantile=95)
    with pytest.raises(ValueError, match="unknown position 'first'"):
        representation_similarity(model, probes, positions=["first"])  # type: ignore[list-item]
    alone = probes.filter(subjects=["Ana Li"]) + probes.filter(subjects=["Bo Kim"], attributes=["id_number"])
    with pytest.raises(
        ValueError, match="birth_country, template 0: too few private people are asked it.*leave it out"
    ):
        representation_similarity(model, alone, progress=False)


def test_saved_and_loaded_is_the_same(model: Any, probes: ProbeSet, tmp_path: Path) -> None:
    uneven = ProbeSet(probes.probes[:-1])
    result = representation_similarity(model, uneven, positions=["last"], n_null=5, progress=False)
    assert result.n_unaligned == 1
    again = SimilarityResult.load(result.save(tmp_path / "similarity"))
    pd.testing.assert_frame_equal(again.to_frame(), result.pairs)
    assert again.shared_layers() == result.shared_layers()
    assert again.languages == ("en", "fr")
    with pytest.raises(ValueError, match="unknown position 'subject_last'; use 'last'"):
        again.shared_layers(position="subject_last")
    with pytest.raises(ValueError, match="at least one pair of languages"):
        replace(result, pairs=result.pairs[:0])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_other_architectures(tokenizer: Any, probes: ProbeSet, architecture: str) -> None:
    other = load_model(tiny(architecture), tokenizer=tokenizer, backend="bridge")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = representation_similarity(other, probes, n_null=3, progress=False)
    assert result.pairs.value.between(-1, 1.000001).all()
