"""Attribution over probes: means, shares, baselines and refusals; the methods themselves are in test_effects."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from models import tiny

from xlmech import attribution
from xlmech.attribution import AttributionResult, attribute_neurons, encode_probe
from xlmech.backends import backend_of
from xlmech.baselines import mean_baseline, warn_if_incomplete
from xlmech.effects import exact_effects, gradient_x_activation, integrated_gradients
from xlmech.models import load_model
from xlmech.positions import subject_tokens
from xlmech.probes import ProbeSet
from xlmech.runner import run_forced


def test_result_holds_means_and_top_neurons_of_its_probes(model: Any, probes: ProbeSet) -> None:
    private = probes.filter(group="private")
    found = attribute_neurons(model, private, method="gradient_x_activation", baseline="zero", progress=False)
    backend = backend_of(model)
    zero = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
    normalised = []
    for probe in private.filter(languages=["fr"]):
        prompt, answer = encode_probe(backend, probe)
        scores = gradient_x_activation(backend, [(prompt, answer)], zero, positions="last")[0] / len(answer)
        normalised.append(scores / scores.max())
        top = found.top[found.top.probe == probe.id].iloc[0]
        assert top.effect == pytest.approx(float(scores.max()), rel=1e-5)
        assert (top.layer, top.neuron) == divmod(int(scores.argmax()), backend.d_mlp)
    language = found.languages.index("fr")
    torch.testing.assert_close(found.mean[language], torch.stack(normalised).mean(0).float(), rtol=1e-4, atol=1e-6)
    shares = (torch.stack(normalised) > 0.1).double().mean(0).float()
    assert float((found.share[language] - shares).abs().mean()) < 1e-3


def test_mean_baseline_is_the_mean_at_the_predicting_position(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    found = mean_baseline(backend, [probe.prompt for probe in probes], progress=False)
    name, rows = backend.hook_name("mlp.hook_post", 1), []
    with torch.no_grad(), backend.hooks([(name, lambda value, hook: rows.append(value[0, -1]))]):
        for probe in probes:
            backend.hidden(torch.tensor([backend.tokenizer(probe.prompt).input_ids]))
    torch.testing.assert_close(found[1], torch.stack(rows).mean(0))


def test_the_trap_of_a_norm_after_the_mlp_is_explained(tokenizer: Any, probes: ProbeSet) -> None:
    """Gemma 3 hides any scaling of the MLP's output: from zero the integral does not converge, from the mean it does."""
    backend = backend_of(
        load_model(tiny("gemma3").double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)
    )
    few = probes.filter(group="private", languages=["en"], attributes=["birth_country"])
    with pytest.warns(UserWarning, match="norm after the MLP.*baseline='mean'"):
        zero = attribute_neurons(backend.model, few, method="integrated_gradients", baseline="zero", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = attribute_neurons(backend.model, few, method="integrated_gradients", nodes=8, progress=False)
    assert mean.completeness.error.median() < 0.05 < zero.completeness.error.median()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"positions": "some"}, "unknown positions 'some'"),
        ({"metric": "loss"}, "unknown metric 'loss'; use 'auto', 'log_prob', 'prob', 'logit', 'log_odds'"),
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"threshold": 1.5}, "threshold between 0 and 1"),
        ({"baseline": "median"}, "unknown baseline 'median'"),
        ({"baseline": torch.zeros(2, 64)}, r"baseline must be of shape .layer, neuron. .3, 64., got .2, 64."),
        ({"max_answer_tokens": 0}, "max_answer_tokens must be at least 1, or None for whole answers; got 0"),
    ],
)
def test_bad_arguments(model: Any, probes: ProbeSet, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_neurons(model, probes, progress=False, **arguments)


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
        prompt, answer = encode_probe(backend, probe)
        tokens = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            logs = model(tokens, return_type="logits")[0, len(prompt) - 1 : -1].log_softmax(-1)
        likely[probe.id] = float(logs[range(len(answer)), answer].mean().exp())
    bound = sorted(likely.values())[len(likely) // 2]
    monkeypatch.setattr(attribution, "SATURATED", bound * (1 + 1e-9))
    options: dict[str, Any] = {"baseline": "mean", "progress": False, "max_answer_tokens": None}
    for method in ("gradient_x_activation", "integrated_gradients"):
        found = {
            metric: attribute_neurons(model, few, method=method, metric=metric, nodes=8, **options)  # type: ignore[arg-type]
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
    options: dict[str, Any] = {"method": method, "baseline": base, "nodes": 90, "max_answer_tokens": 2}
    found = attribute_neurons(model, few, positions="subject", progress=False, **options)
    assert found.positions == "subject" and (found.completeness.error < 1e-3).all()
    spans = set()
    for probe in few:
        span = subject_tokens(backend, probe)
        spans.add(span)
        assert backend.tokenizer.decode(backend.tokenizer(probe.prompt).input_ids[span.start : span.stop]) == (
            probe.record.subject
        )
        prompt, answer = encode_probe(backend, probe, 2)
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
        attribute_neurons(model, probes[:1], positions="subject", progress=False)


def test_no_probes(model: Any) -> None:
    with pytest.raises(ValueError, match="no probes to attribute"):
        attribute_neurons(model, ProbeSet(()))


def test_save_and_load(model: Any, probes: ProbeSet, tmp_path: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one node is too few, and says so
        found = attribute_neurons(model, probes[:2], progress=False, nodes=1, baseline="mean", max_answer_tokens=1)
    found = dataclasses.replace(found, metric="auto", saturated=(probes[1].id,))
    found.save(tmp_path / "a")
    again = AttributionResult.load(tmp_path / "a")
    assert (again.metric, again.saturated) == ("auto", (probes[1].id,))
    assert torch.equal(again.mean, found.mean)
    assert again.completeness.equals(found.completeness)
    assert again.provenance == found.provenance


def test_exact_attribution_goes_with_the_gradient(model: Any, probes: ProbeSet) -> None:
    few = probes.filter(group="private", languages=["en"], attributes=["birth_country"])[:1]
    exact = attribute_neurons(model, few, method="exact", baseline="zero", progress=False, max_answer_tokens=1)
    linear = attribute_neurons(
        model, few, method="gradient_x_activation", baseline="zero", progress=False, max_answer_tokens=1
    )
    both = torch.stack([exact.mean.flatten(), linear.mean.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.8, "a small change of one neuron is nearly its gradient"
    assert exact.method == "exact" and exact.completeness.empty
