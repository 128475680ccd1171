"""Location end to end on tiny models, and a model in which the neuron to be found was put by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import D_MLP, N_LAYERS, tiny

from xlmech.backends import backend_of
from xlmech.locate import locate_privacy_neurons
from xlmech.models import load_model
from xlmech.neurons import PrivacyNeurons
from xlmech.probes import ProbeSet, build_probes
from xlmech.records import Record

SECRET = (1, 17)


@pytest.fixture(scope="module")
def secret_model(tokenizer: Any) -> Any:
    """One neuron writes the first token of every private id, and nothing else does: the answer is known."""
    network = tiny("llama", scale=1.0).double()
    with torch.no_grad():
        token = tokenizer("X", add_special_tokens=False).input_ids[0]
        layer, index = SECRET
        mlp = network.model.layers[layer].mlp
        mlp.down_proj.weight[:, index] = 4 * network.lm_head.weight[token] / network.lm_head.weight[token].norm()
        mlp.up_proj.weight[index] = 3 * torch.sign(mlp.up_proj.weight[index]) * mlp.up_proj.weight[index].abs().mean()
    return load_model(network, tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


def test_a_neuron_put_there_by_hand_is_found(secret_model: Any, records: tuple[Record, ...]) -> None:
    probes = build_probes(records, ["en", "fr", "de"], attributes=["id_number"], templates=[0]).filter(group="private")
    for method in ("integrated_gradients", "gradient_x_activation"):
        backend = backend_of(secret_model)
        zero = torch.zeros(backend.n_layers, backend.d_mlp, dtype=torch.float64)
        found = locate_privacy_neurons(
            secret_model,
            probes,
            method=method,  # type: ignore[arg-type]
            baseline=zero,
            max_answer_tokens=1,
            top_k=1,
            progress=False,
        )
        assert found.universal.neurons == {SECRET}


def test_result_shape_and_defaults(model: Any, probes: ProbeSet, tmp_path: Any) -> None:
    found = locate_privacy_neurons(model, probes, progress=False, method="gradient_x_activation", top_k=4)
    assert found.languages == ("en", "fr")
    assert found.scores.shape == (2, N_LAYERS, D_MLP)
    assert 0 < len(found.universal) <= 4
    minimum = found.scores.amin(0)
    kept = sorted((float(minimum[neuron]) for neuron in found.universal), reverse=True)
    assert kept == pytest.approx(minimum.flatten().topk(len(kept)).values.tolist())
    for neurons in found.specific.values():
        assert not len(neurons & found.universal)
    assert not len(found.specific["en"] & found.specific["fr"])
    found.save(tmp_path / "n")
    again = PrivacyNeurons.load(tmp_path / "n")
    assert again.universal == found.universal and again.specific == found.specific


def test_contrast_subtracts_public_attribution(model: Any, probes: ProbeSet) -> None:
    private, public = probes.filter(group="private"), probes.filter(group="public")
    options: dict[str, Any] = {
        "method": "gradient_x_activation",
        "progress": False,
        "controls": probes.filter(group="control"),
    }
    plain = locate_privacy_neurons(model, private, contrast=0, **options)
    contrasted = locate_privacy_neurons(model, private, public=public, contrast=2.0, **options)
    half = locate_privacy_neurons(model, private, public=public, contrast=1.0, **options)
    torch.testing.assert_close(plain.scores - contrasted.scores, 2 * (plain.scores - half.scores), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(plain.scores, half.scores)


def test_refusals(model: Any, probes: ProbeSet) -> None:
    with pytest.raises(ValueError, match="no private probes to locate neurons with"):
        locate_privacy_neurons(model, probes.filter(group="public"))
    with pytest.raises(ValueError, match="probes in en only: a universal neuron is one of several languages"):
        locate_privacy_neurons(model, probes.filter(languages=["en"]))
    with pytest.raises(ValueError, match="no public probes in fr"):
        locate_privacy_neurons(model, probes, public=probes.filter(group="public", languages=["en"]))
    with pytest.raises(ValueError, match="unknown rule 'max'"):
        locate_privacy_neurons(model, probes, rule="max", method="gradient_x_activation", progress=False)  # type: ignore[arg-type]
