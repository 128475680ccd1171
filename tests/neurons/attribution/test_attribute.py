"""Attribution over probes: means, shares, baselines and refusals; the methods themselves are in test_effects."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from helpers.tiny_models import D_MLP, N_LAYERS, tiny
from scipy.stats import spearmanr

from xlmech.data.probes import ProbeSet
from xlmech.engine.batching import run_forced
from xlmech.engine.score import answer_log_probs
from xlmech.models.backends import backend_of
from xlmech.models.load import load_model
from xlmech.models.tokens import encode_probe, subject_tokens
from xlmech.neurons.ablation import ablate
from xlmech.neurons.attribution import attribute as attribution
from xlmech.neurons.attribution.attribute import AttributionResult, attribute_neurons
from xlmech.neurons.attribution.baselines import warn_if_incomplete
from xlmech.neurons.attribution.effects import exact_effects, integrated_gradients
from xlmech.neurons.attribution.gradient import gradient_x_activation
from xlmech.neurons.attribution.task import MeanActivationTask
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.options import AttributeOptions


def test_result_holds_means_and_top_neurons_of_its_probes(model: Any, probes: ProbeSet) -> None:
    private = probes.filter(group="private")
    found = attribute_neurons(model, private, options=AttributeOptions(metric="log_prob"), progress=False)
    backend = backend_of(model)
    zero = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    normalised = []
    for probe in private.filter(languages=["fr"]):
        encoded = encode_probe(backend, probe)
        prompt, answer = encoded.prompt, encoded.answer
        scores = gradient_x_activation(backend, [(prompt, answer)], zero, positions="all")[0] / len(answer)
        normalised.append(scores / scores.max())
        top = found.top[found.top.probe == probe.id].iloc[0]
        assert top.effect == pytest.approx(float(scores.max()), rel=1e-5)
        assert (top.layer, top.neuron) == divmod(int(scores.argmax()), backend.d_mlp)
    language = found.languages.index("fr")
    torch.testing.assert_close(found.mean[language], torch.stack(normalised).mean(0).float(), rtol=1e-4, atol=1e-6)
    shares = (torch.stack(normalised) > 0.1).double().mean(0).float()
    assert float((found.share[language] - shares).abs().mean()) < 1e-3


@pytest.mark.parametrize("positions", ["all", "subject", "last"])
def test_the_mean_baseline_is_the_mean_at_the_positions_attributed(
    model: Any, probes: ProbeSet, positions: Any
) -> None:
    """Of prompts and answers of all lengths, without the special token in front."""
    backend = backend_of(model)
    task = MeanActivationTask(positions=positions, progress=False)
    found = task(backend, [encode_probe(backend, probe, max_answer_tokens=2, subject=True) for probe in probes])
    name, rows = backend.hook_name("mlp.hook_post", 1), []
    for probe in probes:
        encoded = encode_probe(backend, probe, max_answer_tokens=2)
        prompt, answer = encoded.prompt, encoded.answer
        with torch.no_grad(), backend.hooks([(name, lambda value, hook: rows.append(value[0]))]):
            backend.hidden(torch.tensor([[*prompt, *answer]]))
        span = {
            "all": slice(1, -1),
            "last": slice(len(prompt) - 1, -1),
            "subject": slice(subject_tokens(backend, probe).start, subject_tokens(backend, probe).stop),
        }[positions]
        rows[-1] = rows[-1][span]
    every = torch.cat(rows)
    assert len(every) == int(found["n"])
    torch.testing.assert_close(found["sum"][1] / found["n"], every.double().mean(0))


@pytest.fixture(scope="module")
def gentle(tokenizer: Any) -> Any:
    """A model of usual weights: those of `model` are so large that what one neuron does is far from first order."""
    return load_model(tiny("llama", scale=1.0).double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


def test_the_path_from_a_mean_leaves_special_tokens_where_they_are(gentle: Any, probes: ProbeSet) -> None:
    """By default integrated gradients move all others, and add up to what moving them takes away."""
    control, few = probes.filter(group="control"), probes.filter(group="private")[:2]
    backend = backend_of(gentle)
    task = MeanActivationTask(positions="all", progress=False)
    sums = task(backend, [encode_probe(backend, probe) for probe in control])
    mean = sums["sum"] / sums["n"]
    options = AttributeOptions(method="integrated_gradients", nodes=60, metric="log_prob")
    found = attribute_neurons(gentle, few, options=options, baseline_probes=control, progress=False)
    assert (found.baseline, found.mode) == ("mean", "") and (found.completeness.error < 1e-3).all()
    encoded = encode_probe(backend, few[0])
    prompt, answer = encoded.prompt, encoded.answer
    forced = run_forced(backend, prompt, answer, "mlp.hook_post")
    start = mean[:, None].repeat(1, len(forced.tokens), 1)
    start[:, 0] = forced.activations[:, 0]
    wanted, _ = integrated_gradients(backend, forced, start, nodes=60, positions="all")
    own = found.top[found.top.probe == few[0].id]
    at = wanted[torch.tensor(own.layer.tolist()), torch.tensor(own.neuron.tolist())] / len(answer)
    assert own.effect.tolist() == pytest.approx(at.tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["gradient_x_activation", "integrated_gradients", "exact"])
def test_the_whole_vocabulary_is_an_option(gentle: Any, probes: ProbeSet, method: Any) -> None:
    few = probes.filter(group="private", languages=["fr"])[:1]
    control = probes.filter(group="control")
    results = [
        attribute_neurons(
            gentle,
            few,
            options=AttributeOptions(method=method, whole_vocabulary=whole),
            baseline_probes=control,
            progress=False,
        )
        for whole in (False, True)
    ]
    torch.testing.assert_close(results[1].mean, results[0].mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_by_default_it_is_what_ablation_takes(gentle: Any, probes: ProbeSet, mode: Any) -> None:
    """Exact attribution is `ablate`, at all positions over whole answers; gradient x activation ranks neurons alike."""
    few, backend = probes.filter(group="private", attributes=["id_number"])[:3], backend_of(gentle)
    values = None if mode == "zero" else torch.full((N_LAYERS, D_MLP), 0.02, dtype=torch.float64)
    given: dict[str, Any] = {} if mode == "zero" else {"mode": mode, "values": values}
    every = NeuronSet(frozenset((layer, index) for layer in range(N_LAYERS) for index in range(D_MLP)), N_LAYERS, D_MLP)
    exact = attribute_neurons(
        gentle, few, options=AttributeOptions(method="exact"), track=every, progress=False, **given
    )
    estimate = attribute_neurons(gentle, few, track=every, progress=False, **given)
    assert (estimate.mode, estimate.baseline, estimate.positions) == (mode, "", "all")
    for probe in few:
        effects = exact.top[exact.top.probe == probe.id].set_index(["layer", "neuron"]).effect
        encoded = encode_probe(backend, probe)
        prompt, answer = encoded.prompt, encoded.answer
        clean = answer_log_probs(backend, [prompt], [[answer]])[0]
        for neuron in [*effects.index[:3], *effects.index[-3:]]:
            one = NeuronSet(frozenset({neuron}), N_LAYERS, D_MLP)
            with ablate(gentle, one, mode=mode, values=values):
                lost = (clean - answer_log_probs(backend, [prompt], [[answer]])[0]) / len(answer)
            assert float(effects[neuron]) == pytest.approx(float(lost), rel=1e-4, abs=1e-6)
        slopes = estimate.top[estimate.top.probe == probe.id].set_index(["layer", "neuron"]).effect
        assert spearmanr(effects, slopes.reindex(effects.index)).statistic >= 0.95


def test_the_trap_of_a_norm_after_the_mlp_is_explained(tokenizer: Any, probes: ProbeSet) -> None:
    """Gemma 3 hides any scaling of the MLP's output: from zero the integral does not converge, from the mean it does."""
    backend = backend_of(
        load_model(tiny("gemma3").double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)
    )
    few = probes.filter(group="private", languages=["en"], attributes=["birth_country"])
    controls = probes.filter(group="control")
    path = AttributeOptions(method="integrated_gradients", positions="last")
    with pytest.warns(UserWarning, match="norm after the MLP.*baseline='mean'"):
        zero = attribute_neurons(backend.model, few, options=path.updated(baseline="zero"), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = attribute_neurons(
            backend.model, few, options=path.updated(nodes=8), baseline_probes=controls, progress=False
        )
    assert mean.completeness.error.median() < 0.05 < zero.completeness.error.median()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "method\n.*'gradient_x_activation', 'integrated_gradients' or 'exact'"),
        ({"positions": "some"}, "positions\n.*'all', 'subject' or 'last'"),
        ({"metric": "loss"}, "metric\n.*'auto', 'log_prob', 'prob', 'logit' or 'log_odds'"),
        ({"nodes": 0}, "nodes\n.*greater than or equal to 1"),
        ({"threshold": 1.5}, "threshold\n.*less than 1"),
        ({"method": "integrated_gradients", "baseline": "median"}, "baseline\n.*'mean' or 'zero'"),
        (
            {"baseline": "zero"},
            "baseline applies only to integrated_gradients; gradient_x_activation estimates what ablation does",
        ),
        ({"max_answer_tokens": 0}, "max_answer_tokens\n.*greater than or equal to 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttributeOptions(**options)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (
            "integrated_gradients",
            {"baseline_values": torch.zeros(2, 64)},
            r"baseline_values must be finite, of shape .layer, neuron. .3, 64., got .2, 64.",
        ),
        ("integrated_gradients", {"mode": "mean"}, "mode and values are of an intervention"),
        ("integrated_gradients", {}, "there are no such probes: give some"),
        (
            "exact",
            {"baseline_values": torch.zeros(3, 64)},
            "baseline_values are of integrated gradients only: exact estimates an ablation; give the replacement",
        ),
        (
            "exact",
            {"mode": "mean"},
            "mode='mean' replaces by values=, which no other mode takes; see activation_moments",
        ),
        ("exact", {"values": torch.zeros(3, 64)}, "mode='mean' replaces by values=, which no other mode takes"),
        ("exact", {"mode": "noise"}, "unknown mode 'noise'; use 'zero', 'mean'"),
    ],
)
def test_bad_arguments(model: Any, probes: ProbeSet, method: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_neurons(model, probes, options=AttributeOptions(method=method), progress=False, **arguments)


def test_the_warning_is_of_the_median() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_incomplete([], "zero", remedy="", stacklevel=1)
        warn_if_incomplete([0.0, 0.09, 5.0], "zero", remedy="", stacklevel=1)
    with pytest.warns(UserWarning, match="median completeness error is 0.11. With baseline 'given'.*Do this.") as found:
        warn_if_incomplete([0.0, 0.11, 0.2], "given", remedy="Do this.", stacklevel=1)
    assert found[0].filename == __file__


def test_saturated_probes_are_attributed_by_log_odds(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound that some answers of a random model exceed: `auto` is the two metrics put together."""
    few = probes.filter(group="private")
    backend = backend_of(model)
    likely = {}
    for probe in few:
        encoded = encode_probe(backend, probe)
        prompt, answer = encoded.prompt, encoded.answer
        tokens = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            logs = model(tokens, return_type="logits")[0, len(prompt) - 1 : -1].log_softmax(-1)
        likely[probe.id] = float(logs[range(len(answer)), answer].mean().exp())
    bound = sorted(likely.values())[len(likely) // 2]
    monkeypatch.setattr(attribution, "SATURATED", bound * (1 + 1e-9))
    options = AttributeOptions(nodes=8, positions="last")
    given: dict[str, Any] = {"baseline_probes": probes.filter(group="control"), "progress": False}
    for method in ("gradient_x_activation", "integrated_gradients"):
        found = {
            metric: attribute_neurons(model, few, options=options.updated(method=method, metric=metric), **given)
            for metric in ("auto", "log_prob", "log_odds")
        }
        assert set(found["auto"].saturated) == {probe for probe, prob in likely.items() if prob > bound * (1 + 1e-9)}
        assert 0 < len(found["auto"].saturated) < len(few)
        assert found["log_prob"].saturated == found["log_odds"].saturated == ()
        for probe in few:
            like = found["log_odds" if probe.id in found["auto"].saturated else "log_prob"].top
            own = found["auto"].top
            assert own[own.probe == probe.id].effect.tolist() == pytest.approx(
                like[like.probe == probe.id].effect.tolist(), rel=1e-5, abs=1e-9
            )
    odds, plain = found["log_odds"].top.effect, found["log_prob"].top.effect
    assert not odds.equals(plain)


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_activation", "exact"])
def test_the_subjects_tokens_are_attributed(model: Any, probes: ProbeSet, method: Any) -> None:
    """Each probe's own, though their prompts differ in language and names in length."""
    few = probes.filter(group="private", attributes=["id_number"])[:4]
    backend = backend_of(model)
    base = torch.full((backend.n_layers, backend.d_mlp), 0.05, dtype=torch.float64)
    start: dict[str, Any] = {"mode": "mean", "values": base}
    if method == "integrated_gradients":
        start = {"baseline_values": base}
    options = AttributeOptions(method=method, nodes=90, max_answer_tokens=2, positions="subject")
    found = attribute_neurons(model, few, options=options, progress=False, **start)
    assert found.positions == "subject" and (found.completeness.error < 1e-3).all()
    spans = set()
    for probe in few:
        span = subject_tokens(backend, probe)
        spans.add(span)
        assert backend.tokenizer.decode(backend.tokenizer(probe.prompt).input_ids[span.start : span.stop]) == (
            probe.record.subject
        )
        encoded = encode_probe(backend, probe, max_answer_tokens=2)
        prompt, answer = encoded.prompt, encoded.answer
        forced = run_forced(backend, prompt, answer, "mlp.hook_post")
        by_method = {
            "integrated_gradients": lambda f=forced, s=span: integrated_gradients(
                backend, f, base, nodes=90, positions=s
            )[0],
            "gradient_x_activation": lambda p=(prompt, answer), s=span: gradient_x_activation(
                backend, [p], base, positions=[s]
            )[0],
            "exact": lambda f=forced, s=span: exact_effects(backend, f, base, positions=s).view_as(base),
        }
        wanted = by_method[method]() / 2
        top = found.top[found.top.probe == probe.id]
        own = wanted[torch.tensor(top.layer.tolist()), torch.tensor(top.neuron.tolist())]
        assert top.effect.tolist() == pytest.approx(own.tolist(), rel=1e-4, abs=1e-6)
    assert len(spans) > 1


def test_the_subject_needs_a_tokenizer_with_offsets(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend_of(model).tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="gives no offsets, so the subject's tokens cannot be told"):
        attribute_neurons(model, probes[:1], options=AttributeOptions(positions="subject"), progress=False)


def test_no_probes(model: Any) -> None:
    with pytest.raises(ValueError, match="no probes to attribute"):
        attribute_neurons(model, ProbeSet(()))


def test_save_and_load(model: Any, probes: ProbeSet, tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one node is too few, and says so
        path = AttributeOptions(method="integrated_gradients", baseline="zero", nodes=1, max_answer_tokens=1)
        found = attribute_neurons(model, probes[:2], options=path, progress=False)
    found = dataclasses.replace(found, metric="auto", saturated=(probes[1].id,))
    found.save(tmp_path / "a")
    again = AttributionResult.load(tmp_path / "a")
    assert (again.metric, again.saturated) == ("auto", (probes[1].id,))
    assert torch.equal(again.mean, found.mean)
    assert again.completeness.equals(found.completeness)
    assert again.provenance == found.provenance
