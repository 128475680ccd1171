"""Recipes of earlier work against plain loops over full sequences, and random controls against counts."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.tiny_models import D_MLP, N_LAYERS, KeepFloat64, tiny

from xlmech.data.languages import load_language
from xlmech.data.probes import Probe, ProbeSet
from xlmech.data.questions import build_probes
from xlmech.engine.batching import mean_over_tokens
from xlmech.models.backends import Backend, backend_of
from xlmech.models.load import load_model
from xlmech.neurons.neuron_set import NeuronSet
from xlmech.neurons.random_neurons import mean_magnitudes, random_neurons
from xlmech.neurons.selection import published as recipes
from xlmech.neurons.selection import thresholding
from xlmech.neurons.selection.published import APNEAP, DEPN, KNOWLEDGE_NEURONS, apneap, depn, knowledge_neurons, lape
from xlmech.neurons.selection.thresholding import ThresholdOptions

pytestmark = pytest.mark.filterwarnings("ignore:integrated gradients are incomplete")  # equal-step sums often are
N_TOKENS = 2
SIZE = N_LAYERS * D_MLP
LEFT_20 = [step / 20 for step in range(20)]
LEFT_10 = [step / 10 for step in range(10)]
INCLUSIVE_20 = [step / 19 for step in range(20)]


@pytest.fixture(scope="module")
def llama(tokenizer: Any) -> Any:
    return load_model(tiny("llama").double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)


@pytest.fixture(scope="module")
def prompts(records: Any) -> ProbeSet:
    """Three templates of two facts of each person, in English and French."""
    return build_probes(records, ["en", "fr"], templates=[0, 1, 2])


@pytest.fixture(params=["llama", "installed"])
def any_model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("llama" if request.param == "llama" else "model")


def plain_attribution(backend: Backend, probe: Probe, places: list[float], metric: str) -> list[float]:
    """Mean gradient at `places` on the line from zero, times the activation, summed over the answer's tokens."""
    prompt = backend.tokenizer(probe.prompt).input_ids
    answer = backend.tokenizer(probe.answers[probe.query_language], add_special_tokens=False).input_ids[:N_TOKENS]
    total = torch.zeros(N_LAYERS, D_MLP, dtype=torch.float64)
    for number, token in enumerate(answer):
        tokens = torch.tensor([prompt + answer[:number]])
        for layer in range(N_LAYERS):
            name, kept = backend.hook_name("mlp.hook_post", layer), []
            with torch.no_grad(), backend.hooks([(name, lambda value, hook, kept=kept: kept.append(value[0, -1]))]):
                backend.model(tokens, return_type="logits")
            steps = (torch.tensor(places, dtype=torch.float64)[:, None] * kept[0]).requires_grad_()

            def put(value: torch.Tensor, hook: Any, steps: torch.Tensor = steps) -> torch.Tensor:
                return torch.cat([value[:, :-1], steps[:, None]], dim=1)

            with backend.hooks([(name, put)]):
                logits = backend.model(tokens.repeat(len(places), 1), return_type="logits")
            log_prob = logits[:, -1].log_softmax(-1)[:, token]
            (slope,) = torch.autograd.grad((log_prob if metric == "log_prob" else log_prob.exp()).sum(), steps)
            total[layer] += slope.mean(0) * kept[0]
    return total.flatten().tolist()


def plain_shares(scores: list[list[float]], least: float, strict: bool) -> tuple[list[float], list[float]]:
    """Per neuron: the share of texts where it reaches `least` of the text's maximum, and its mean part of that."""
    share, mean = [0.0] * SIZE, [0.0] * SIZE
    for text in scores:
        for neuron, score in enumerate(text):
            part = score / max(text)
            share[neuron] += (part > least if strict else part >= least) / len(scores)
            mean[neuron] += part / len(scores)
    return share, mean


def ranked(share: list[float], mean: list[float]) -> list[int]:
    """What a set is filled up from: whatever has votes, or a positive mean."""
    return [n for n in range(SIZE) if share[n] > 0 or mean[n] > 0]


def pairs(neurons: list[int]) -> set[tuple[int, int]]:
    return {divmod(neuron, D_MLP) for neuron in neurons}


def check_counts(recipe: Any, order: list[int], n_published: int) -> None:
    """As published; cut short; filled up; and all that the recipe ranks, but no more."""
    published = recipe()
    assert 0 < n_published < len(order) and set(published) == pairs(order[:n_published])
    assert (published.n_layers, published.d_mlp) == (N_LAYERS, D_MLP)
    for n_neurons in (1, n_published - 1 or 1, n_published + 1, len(order)):
        assert set(recipe(n_neurons=n_neurons)) == pairs(order[:n_neurons])
    with pytest.raises(
        ValueError, match=f"{len(order) + 1} neurons wanted, but it ranks only {len(order)}; ask for fewer"
    ):
        recipe(n_neurons=len(order) + 1)


def test_depn_equals_the_plain_loop(any_model: Any, probes: ProbeSet) -> None:
    own = probes.filter(group="private", languages=["en"], attributes=["birth_country"])
    with KeepFloat64():
        scores = [plain_attribution(backend_of(any_model), probe, LEFT_20, "prob") for probe in own]
        share, mean = plain_shares(scores, 0.1, strict=False)
        order = sorted(ranked(share, mean), key=lambda n: (-round(share[n], 9), -mean[n]))

        def recipe(**options: Any) -> NeuronSet:
            chosen = probes.filter(attributes=["birth_country"])
            return depn(any_model, chosen, max_answer_tokens=N_TOKENS, progress=False, **options)

        check_counts(recipe, order, sum(part >= 0.5 for part in share))


def test_apneap_equals_the_plain_loop(any_model: Any, probes: ProbeSet) -> None:
    own = probes.filter(group="private", languages=["fr"], attributes=["birth_country"])
    with KeepFloat64():
        scores = [plain_attribution(backend_of(any_model), probe, LEFT_10, "log_prob") for probe in own]
        share, mean = plain_shares([[abs(score) for score in text] for text in scores], 0.1, strict=True)
        order = sorted(ranked(share, mean), key=lambda n: (-round(share[n], 9), -mean[n]))

        def recipe(**options: Any) -> NeuronSet:
            return apneap(any_model, own, language="fr", max_answer_tokens=N_TOKENS, progress=False, **options)

        check_counts(recipe, order, sum(part > 0.5 for part in share))
    assert any(sum(text[n] for text in scores) < 0 for n in order[:20]), "the sign is dropped"


def test_knowledge_neurons_equal_the_plain_loop(any_model: Any, prompts: ProbeSet) -> None:
    chosen = prompts.filter(attributes=["birth_country"], languages=["en"])
    facts, share, mean = [0] * SIZE, [0.0] * SIZE, [0.0] * SIZE
    with KeepFloat64():
        for record in chosen.filter(group="private").records:
            own = [probe for probe in chosen if probe.record == record]
            assert len(own) == 3
            scores = [plain_attribution(backend_of(any_model), probe, INCLUSIVE_20, "prob") for probe in own]
            part, level = plain_shares(scores, 0.3, strict=True)
            facts = [old + (new > 0.7) for old, new in zip(facts, part, strict=True)]
            share = [old + new for old, new in zip(share, part, strict=True)]
            mean = [old + new for old, new in zip(mean, level, strict=True)]
        order = sorted(ranked(share, mean), key=lambda n: (-facts[n], -round(share[n], 9), -mean[n]))

        def recipe(**options: Any) -> NeuronSet:
            return knowledge_neurons(any_model, chosen, max_answer_tokens=N_TOKENS, progress=False, **options)

        check_counts(recipe, order, sum(number > 0 for number in facts))


A, B, C, E, H = 20, 21, 22, 23, 24
"""Neurons beside the nine that are each the largest of one of nine texts."""


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch, prompts: ProbeSet) -> ProbeSet:
    """Three facts of three prompts, whose attributions are made so that every rule keeps other neurons."""
    texts = prompts.filter(group="private", attributes=["birth_country"], languages=["en"])
    table = torch.zeros(9, SIZE, dtype=torch.float64)
    table[range(9), range(9)] = 1.0
    table[:5, A] = 0.15  # in most texts, a little
    table[:3, B] = 0.5  # in all prompts of the first fact
    table[3:5, C] = 0.5  # in two of the second's
    table[4:, E] = 0.1  # in most texts, at DEPN's bound
    table[:6, H] = -0.9  # against the answer
    facts = [probe.id for record in texts.records for probe in texts if probe.record == record]
    rows = dict(zip(facts, table.view(9, N_LAYERS, D_MLP), strict=True))
    monkeypatch.setattr(thresholding, "run_forced", lambda *_, what: what.removeprefix("probe "))
    monkeypatch.setattr(
        thresholding, "integrated_gradients", lambda _, name, *__, **___: (rows[name], torch.zeros(N_LAYERS))
    )
    return texts


def test_the_rules_differ(llama: Any, by_hand: ProbeSet) -> None:
    found = {
        recipe.__name__: set(recipe(llama, by_hand, progress=False)) for recipe in (depn, apneap, knowledge_neurons)
    }
    assert found["depn"] == pairs([A, E])
    assert found["apneap"] == pairs([A, H])
    assert found["knowledge_neurons"] == pairs([B])
    low = knowledge_neurons(
        llama, by_hand, options=replace(KNOWLEDGE_NEURONS, threshold=0.1, min_share=0.5), progress=False
    )
    assert set(low) == pairs([A, B, C]), "A in two facts, C in two prompts of three; E is at the bound, not above it"


def test_a_set_is_filled_up_by_votes_then_by_attribution(llama: Any, by_hand: ProbeSet) -> None:
    def recipe(n_neurons: int) -> set[tuple[int, int]]:
        return set(knowledge_neurons(llama, by_hand, n_neurons=n_neurons, progress=False))

    assert recipe(1) == pairs([B]), "kept"
    assert recipe(2) == pairs([B, C]), "voted for by two of three"
    assert recipe(11) == pairs([B, C, *range(9)]), "voted for by one"
    assert recipe(12) == pairs([B, C, *range(9), A]), "below the threshold everywhere, by the mean"
    assert recipe(13) == pairs([B, C, *range(9), A, E])
    with pytest.raises(ValueError, match="knowledge_neurons: 14 neurons wanted, but it ranks only 13; ask for fewer"):
        recipe(14)


def test_a_fact_of_one_prompt_shares_nothing(llama: Any, by_hand: ProbeSet) -> None:
    one_each = by_hand.filter(templates=[0])
    with pytest.warns(UserWarning, match="knowledge_neurons: every fact has one prompt.*of several templates") as found:
        chosen = knowledge_neurons(llama, one_each, options=replace(KNOWLEDGE_NEURONS, threshold=0.05), progress=False)
    assert found[0].filename == __file__
    assert set(chosen) == pairs([0, 3, 6, A, B, C, E]), "whatever is above the threshold once"


@pytest.mark.parametrize(
    ("recipe", "constants"),
    [
        (depn, {"language": "en", "options": replace(DEPN, steps=20, threshold=0.1, min_share=0.5)}),
        (
            knowledge_neurons,
            {"language": "en", "options": replace(KNOWLEDGE_NEURONS, steps=20, threshold=0.3, min_share=0.7)},
        ),
        (apneap, {"language": "en", "options": replace(APNEAP, steps=10, threshold=0.1, min_share=0.5)}),
        (lape, {"share": 0.01, "quantile": 0.95}),
    ],
)
def test_constants_are_the_published_ones(recipe: Any, constants: dict[str, Any]) -> None:
    found = inspect.signature(recipe).parameters
    assert {name: found[name].default for name in constants} == constants


def test_all_languages_or_one(llama: Any, probes: ProbeSet) -> None:
    few = probes.filter(attributes=["birth_country"])
    options: dict[str, Any] = {"max_answer_tokens": 1, "progress": False, "n_neurons": 12}
    english = depn(llama, few.filter(languages=["en"]), language=None, **options)
    assert depn(llama, few, **options) == english
    assert depn(llama, few, language="fr", **options) != english


@pytest.mark.parametrize("recipe", [depn, knowledge_neurons, apneap])
def test_the_trap_of_a_norm_after_the_mlp_is_explained(tokenizer: Any, prompts: ProbeSet, recipe: Any) -> None:
    model = load_model(tiny("gemma3").double(), tokenizer=tokenizer, backend="bridge", dtype=torch.float64)
    few = prompts.filter(attributes=["birth_country"], languages=["en"])
    name = (
        rf"norm after the MLP.*{recipe.__name__} is run as published; compare attribute_neurons with .*baseline='mean'"
    )
    with pytest.warns(UserWarning, match=name) as found:
        recipe(model, few, progress=False, max_answer_tokens=1)
    assert [one.filename for one in found] == [__file__], "once, and where it was called"


@pytest.mark.parametrize("recipe", [depn, knowledge_neurons, apneap])
def test_bad_input_of_the_attribution_recipes(llama: Any, probes: ProbeSet, recipe: Any) -> None:
    with pytest.raises(ValueError, match="no private probes to choose neurons with; records of group 'private'"):
        recipe(llama, probes.filter(group="public"))
    with pytest.raises(ValueError, match="no private probes in 'de': set language= to one of en, fr, or to None"):
        recipe(llama, probes, language="de")
    with pytest.raises(ValueError, match="n_neurons must be 1 or more, got 0"):
        recipe(llama, probes, n_neurons=0)
    with pytest.raises(ValueError, match="max_answer_tokens must be at least 1, or None for whole answers; got 0"):
        recipe(llama, probes, max_answer_tokens=0)


@pytest.mark.parametrize("options", [DEPN, KNOWLEDGE_NEURONS, APNEAP])
def test_bad_constants_of_the_attribution_recipes(options: ThresholdOptions) -> None:
    with pytest.raises(ValueError, match="steps must be 2 or more, got 1"):
        replace(options, steps=1)
    for wrong in ({"threshold": 1.0}, {"min_share": 0.0}):
        with pytest.raises(ValueError, match="threshold must be in .0, 1. and min_share in"):
            replace(options, **wrong)  # type: ignore[arg-type]


def test_activation_probability_is_that_of_the_gate(llama: Any) -> None:
    """Against the gate of the transformers model itself, at every token but the first, which is special."""
    texts, network = ["one", "a longer one", "two"], tiny("llama").double()
    counts, n_tokens = torch.zeros(N_LAYERS, D_MLP, dtype=torch.float64), 0
    for text in texts:
        kept: list[torch.Tensor] = []
        handles = [
            layer.mlp.gate_proj.register_forward_hook(lambda module, given, value, kept=kept: kept.append(value[0, 1:]))
            for layer in network.model.layers
        ]
        with torch.no_grad():
            network(torch.tensor([backend_of(llama).tokenizer(text).input_ids]))
        for handle in handles:
            handle.remove()
        n_tokens += len(kept[0])
        counts += torch.stack([(torch.nn.functional.silu(value) > 0).sum(0) for value in kept])
    found = mean_over_tokens(backend_of(llama), texts, "mlp.hook_pre", lambda value: value > 0)
    torch.testing.assert_close(found, counts / n_tokens)


def test_lape_equals_plain_counting(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On activation probabilities made by hand."""
    made = torch.rand(3, N_LAYERS, D_MLP, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6
    made[0, 1, 5], made[1:, 1, 5] = 0.9, 0.0  # of the first language alone
    made[:2, 2, 7], made[2, 2, 7] = 0.8, 0.01  # of two
    made[:, 0, 3] = 0.95  # of all
    made[:, 0, 9] = 0.0
    answers = iter(made)
    monkeypatch.setattr(recipes, "mean_over_tokens", lambda *_, **__: next(answers))
    flat = made.flatten(1).tolist()
    bar = sorted(value for row in flat for value in row)[math.ceil(0.95 * (3 * SIZE - 1))]  # above the 95th percentile
    entropy = {}
    for neuron in range(SIZE):
        own = [row[neuron] for row in flat]
        if max(own) >= bar:
            entropy[neuron] = -sum(p / sum(own) * math.log(p / sum(own)) for p in own if p)
    lowest = sorted(entropy, key=lambda neuron: (entropy[neuron], -max(row[neuron] for row in flat)))
    found = lape(llama, ["en", "fr", "de"], progress=False)
    for language, row in zip(("en", "fr", "de"), flat, strict=True):
        assert set(found[language]) == pairs([n for n in lowest[: round(0.01 * SIZE)] if row[n] >= bar])
    assert (1, 5) in found["en"] and (1, 5) not in found["fr"]
    answers = iter(made)
    filled = lape(llama, ["en", "fr", "de"], n_neurons=4, progress=False)
    for language, row in zip(("en", "fr", "de"), flat, strict=True):
        assert set(filled[language]) == pairs([n for n in lowest if row[n] >= bar][:4])
    answers = iter(made)
    with pytest.raises(ValueError, match=r"lape in en: 192 neurons wanted, but it ranks only \d+; ask for fewer"):
        lape(llama, ["en", "fr", "de"], n_neurons=192, progress=False)


def test_lape_reads_the_language_packs(llama: Any) -> None:
    found = lape(llama, ["en", "zh"], quantile=0.5, n_neurons=1, progress=False)
    assert {language: len(neurons) for language, neurons in found.items()} == {"en": 1, "zh": 1}
    own = {language: load_language(language).choosing for language in ("zh", "en")}
    assert lape(llama, ["en", "zh"], texts=own, quantile=0.5, n_neurons=1, progress=False) == found


@pytest.mark.parametrize(
    ("languages", "options", "message"),
    [
        (["en"], {}, "languages .'en'.: an entropy over languages needs two or more different ones"),
        (["en", "en"], {}, "needs two or more different ones"),
        (["en", "xx"], {}, "no language pack for 'xx'; there are"),
        (["en", "fr"], {"texts": {"en": ["Hello."]}}, "texts hold no list of sentences in 'fr'; they are in en"),
        (["en", "fr"], {"texts": {"en": ["Hello."], "fr": "Bonjour."}}, "no list of sentences in 'fr'"),
        (["en", "fr"], {"texts": {"en": ["Hello."], "fr": []}}, "no list of sentences in 'fr'"),
        (["en", "fr"], {"share": 0.0}, "share must be in .0, 1., quantile in"),
        (["en", "fr"], {"quantile": 1.0}, "share must be in .0, 1., quantile in"),
        (["en", "fr"], {"n_neurons": 0}, "n_neurons 1 or more; got 0.01, 0.95, 0"),
    ],
)
def test_bad_input_of_lape(llama: Any, languages: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lape(llama, languages, **options)


LIKE = NeuronSet(frozenset({(0, 1), (0, 2), (0, 60), (2, 5)}), N_LAYERS, D_MLP, "a model")


def test_random_neurons_match_layers_and_follow_the_seed() -> None:
    drawn = [random_neurons(LIKE, seed=seed) for seed in range(20)]
    for found in drawn:
        assert Counter(layer for layer, _ in found) == {0: 3, 2: 1} and not found.neurons & LIKE.neurons
        assert found.model == LIKE.model
    assert random_neurons(LIKE, seed=3) == drawn[3]
    assert len({found.neurons for found in drawn}) > 10
    assert len(set().union(*(found.neurons for found in drawn))) > 40, "anywhere in these layers"


def test_random_neurons_match_magnitudes() -> None:
    """Magnitudes are a shuffled 0 to 63 in every layer, so that 8 bins are the tens of the octal number."""
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.stack([torch.randperm(D_MLP, generator=generator) for _ in range(N_LAYERS)]).double()

    def bins(neurons: NeuronSet) -> Counter[tuple[int, int]]:
        return Counter((layer, int(magnitudes[layer, index]) // 8) for layer, index in neurons)

    for seed in range(10):
        found = random_neurons(LIKE, magnitudes=magnitudes, bins=8, seed=seed)
        assert bins(found) == bins(LIKE) and not found.neurons & LIKE.neurons


@pytest.mark.parametrize("n_neurons", [1, 3, 4, 6, 10])
def test_random_neurons_of_another_number(n_neurons: int) -> None:
    found = random_neurons(LIKE, n_neurons=n_neurons)
    by_layer, rounds = Counter(layer for layer, _ in found), n_neurons // 4
    assert len(found) == n_neurons and not found.neurons & LIKE.neurons
    assert by_layer[0] >= 3 * rounds and by_layer[2] >= rounds and by_layer[1] == 0


def test_magnitudes_are_means_over_the_prompts_tokens(llama: Any, probes: ProbeSet) -> None:
    backend, kept = backend_of(llama), []
    few = probes[:3]
    with torch.no_grad(), backend.hooks([("blocks.1.mlp.hook_post", lambda value, hook: kept.append(value[0, 1:]))]):
        for probe in few:
            backend.hidden(torch.tensor([backend.tokenizer(probe.prompt).input_ids]))
    found = mean_magnitudes(llama, few, progress=False)
    assert found.shape == (N_LAYERS, D_MLP)
    torch.testing.assert_close(found[1], torch.cat(kept).abs().mean(0))
    with pytest.raises(ValueError, match="no probes to read activations at"):
        mean_magnitudes(llama, ProbeSet(()))


@pytest.mark.parametrize(
    ("like", "options", "message"),
    [
        (NeuronSet(frozenset(), N_LAYERS, D_MLP), {}, "the set to match is empty"),
        (LIKE, {"n_neurons": 0}, "n_neurons must be 1 or more and bins from 1 to 64, got 0 and 10"),
        (LIKE, {"bins": 65}, "bins from 1 to 64, got 4 and 65"),
        (LIKE, {"n_neurons": 4 * 30}, "layer 0: 90 random neurons to draw from 61 that match.*; use fewer bins"),
        (LIKE, {"magnitudes": torch.rand(N_LAYERS, D_MLP), "bins": 64}, "1 random neurons to draw from 0 that match"),
        (
            LIKE,
            {"magnitudes": torch.rand(N_LAYERS, 32)},
            r"magnitudes of shape \(3, 32\), neurons of a model of \(3, 64\)",
        ),
    ],
)
def test_bad_input_of_random_neurons(like: NeuronSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_neurons(like, **options)
