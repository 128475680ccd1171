"""What a patched model writes: its first token is that of the patched run, and a patch into itself changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.people import PATH_HEAD, PATH_LAYER, known_path, person
from helpers.tiny_models import N_LAYERS

from xlmech.data.pairs import ProbePair
from xlmech.data.questions import build_probes
from xlmech.leakage.written import written_answers
from xlmech.patching.answers import patched_answer
from xlmech.patching.between_languages import patch_languages
from xlmech.patching.heads import attention_patterns, top_heads

SOURCES, TARGETS = (build_probes([person(number)], ["en", "fr"], templates=[0]) for number in (0, 2))
PAIR = ProbePair(sources=(SOURCES[0],), target=TARGETS[1])


def first_token(model: Any, layer: int, position: int, hook: str = "hook_resid_post") -> str:
    """The likeliest token of the patched run, by TransformerLens' own hooks; both prompts' last tokens correspond."""
    source, target = (torch.tensor([model.tokenizer(probe.prompt).input_ids]) for probe in (SOURCES[0], TARGETS[1]))
    name = f"blocks.{layer}.{hook}"
    with torch.no_grad():
        _, cache = model.run_with_cache(source)

        def patch(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value = value.clone()
            value[0, position] = cache[name][0, -1]
            return value

        logits = model.run_with_hooks(target, fwd_hooks=[(name, patch)])
    return str(model.tokenizer.decode([int(logits[0, -1].argmax())], skip_special_tokens=True))


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_the_first_token_is_that_of_the_patched_run(model: Any, layer: int) -> None:
    text = patched_answer(model, PAIR, layer=layer, max_new_tokens=1)
    assert text == first_token(model, layer, -1)


def test_the_last_layer_begins_as_the_source_does(model: Any) -> None:
    own = written_answers(model, SOURCES[:1], max_new_tokens=1, reveal=True).answer[0]
    assert patched_answer(model, PAIR, layer=N_LAYERS - 1, max_new_tokens=1) == own


def test_a_patch_that_reaches_nothing_changes_nothing(model: Any) -> None:
    """Overwriting the first token by itself, and an earlier token at the last layer, which only predicts what is given."""
    own = written_answers(model, TARGETS[1:], max_new_tokens=1, reveal=True).answer[0]
    for layer, position in ((0, 0), (N_LAYERS - 1, 3)):
        assert patched_answer(model, PAIR, layer=layer, position=position, max_new_tokens=1) == own
    path = patched_answer(model, PAIR, layer=0, max_new_tokens=3)
    assert path == patched_answer(model, PAIR, layer=0, position=len(TARGETS[1].prompt), max_new_tokens=3)


def test_a_head_is_patched_alone(tokenizer: Any) -> None:
    model = known_path(tokenizer)
    by_head = {
        head: patched_answer(model, PAIR, layer=PATH_LAYER, head=head, component="heads", max_new_tokens=1)
        for head in range(4)
    }
    own = written_answers(model, TARGETS[1:], max_new_tokens=1, reveal=True).answer[0]
    assert {text for head, text in by_head.items() if head != PATH_HEAD} == {own}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 9}, "no layer 9; there are 0 to 2"),
        ({"layer": 0, "position": 900}, "no position 900; there are 0 to"),
        ({"layer": 0, "component": "heads"}, "component 'heads' and head=None do not fit"),
        ({"layer": 0, "head": 1}, "component 'resid_post' and head=1 do not fit"),
        ({"layer": 0, "component": "heads", "head": 7}, "no head 7; there are 0 to 3"),
        ({"layer": 0, "component": "neurons"}, "neurons are patched by patch_languages"),
        ({"layer": 0, "max_new_tokens": 900}, "do not fit the model's context"),
    ],
)
def test_what_is_not_possible_is_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patched_answer(model, PAIR, **options)


def test_heads_are_ranked_from_heads_alone(model: Any) -> None:
    with pytest.raises(ValueError, match="ranked by patching component 'heads', not 'resid_post'"):
        top_heads(patch_languages(model, [PAIR], progress=False))
    heads = top_heads(patch_languages(model, [PAIR], component="heads", progress=False), 3)
    with pytest.raises(ValueError, match="0 prompts and 3 heads"):
        attention_patterns(model, SOURCES[:0], heads)
    frame = attention_patterns(model, SOURCES, heads)
    assert frame.groupby(["query_language", "layer", "head", "destination"]).weight.sum().to_numpy() == pytest.approx(1)
