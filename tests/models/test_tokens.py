"""Prompts, answers and probes as tokens, what the model cannot take, and the tokens that hold a subject's name."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from helpers.in_context import answer_tokens

from xlmech.data.probes import ProbeSet, masked_prompt
from xlmech.data.records import MASK
from xlmech.engine.token_spans import token_position
from xlmech.models.backends import backend_of
from xlmech.models.in_context import encode_in_context
from xlmech.models.tokens import (
    check_budget,
    check_room,
    encode_probe,
    encode_prompt,
    n_special,
    subject_tokens,
)
from xlmech.storage.fingerprint import fingerprint


def test_encoding_refuses_what_does_not_fit(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    with pytest.raises(ValueError, match=r"probe x: \d+ tokens and 5 for the answer do not fit the model's context of"):
        encode_prompt(backend, "a" * (backend.n_ctx - 2), room=5, what="probe x")
    with pytest.raises(ValueError, match="the city: tokenises to nothing"):
        encode_in_context(backend.tokenizer, "Where?", ["Rome", ""], what_answer="the city")
    assert encode_prompt(backend, probes[0].prompt)[0] == backend.tokenizer.bos_token_id
    assert n_special(backend) == 1


def test_a_probe_is_its_prompt_and_the_forms_asked_for(model: Any, probes: ProbeSet) -> None:
    backend, probe = backend_of(model), probes.filter(languages=["fr"])[0]
    encoded = encode_probe(backend, probe)
    assert encoded.prompt == tuple(encode_prompt(backend, probe.prompt))
    assert encoded.answer == tuple(answer_tokens(backend.tokenizer, probe.prompt, probe.answers["fr"]))
    assert encoded.answers == {"fr": encoded.answer} and encoded.n_straddling == 0
    assert (encoded.id, encoded.subject, encoded.group) == (probe.id, None, "")
    assert encoded.length == (len(probe.prompt.encode()), len(probe.answers["fr"]))
    several = encode_probe(backend, probe, languages=["en", "fr"], max_answer_tokens=2, subject=True)
    assert {code: len(tokens) for code, tokens in several.answers.items()} == {"en": 2, "fr": 2}
    assert several.answer == encoded.answer[:2] and several.subject == subject_tokens(backend, probe)
    assert encode_probe(backend, probe, languages=()).answers == {}
    assert probe.record.subject not in repr(encoded) and probe.answers["fr"] not in repr(encoded)


def test_an_encoded_probe_travels_and_is_recognised(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    encoded = encode_probe(backend, probes[0], subject=True)
    assert pickle.loads(pickle.dumps(encoded)) == encoded
    assert fingerprint(encoded) == fingerprint(encode_probe(backend, probes[0], subject=True))
    others = [
        encode_probe(backend, probes[1], subject=True),
        encode_probe(backend, probes[0]),
        encode_probe(backend, probes[0], subject=True, max_answer_tokens=1),
        replace(encoded, group="en"),
    ]
    assert len({fingerprint(one) for one in [encoded, *others]}) == 5


def test_what_the_model_cannot_take_is_named(model: Any, probes: ProbeSet) -> None:
    backend, probe = backend_of(model), probes[0]
    long = replace(probe, prompt="a" * (backend.n_ctx - 5) + "\n", answers={"en": "abcdefgh"})
    with pytest.raises(ValueError, match=f"probe {probe.id}: .* and 8 for the answer do not fit the model's context"):
        encode_probe(backend, long)
    encoded = encode_probe(backend, long, max_answer_tokens=3)
    check_room(backend, encoded.prompt, 3, "probe")
    with pytest.raises(ValueError, match=f"probe {probe.id}: .* and 4 for the answer do not fit the model's context"):
        check_room(backend, encoded.prompt, 4, f"probe {probe.id}")
    assert encode_probe(backend, long, room=0).prompt == encoded.prompt
    with pytest.raises(ValueError, match="and 4 for the answer do not fit"):
        encode_probe(backend, long, languages=(), room=4)
    with pytest.raises(ValueError, match=f"the en form of {probe.id}: tokenises to nothing"):
        encode_probe(backend, replace(probe, answers={"en": ""}))


def test_a_budget_that_does_not_fit_says_how_far_to_lower_it(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    encoded = [encode_probe(backend, probe, languages=()) for probe in probes]
    longest = max(encoded, key=lambda item: len(item.prompt))
    left = backend.n_ctx - len(longest.prompt)
    check_budget(backend, encoded, left)
    with pytest.raises(
        ValueError,
        match=f"^max_new_tokens: the prompt of probe {longest.id} has {len(longest.prompt)} tokens, and {left + 1} more do not "
        f"fit the model's context of {backend.n_ctx}; lower max_new_tokens to {left} at most",
    ):
        check_budget(backend, encoded, left + 1)
    straddling = replace(longest, straddling=(7,))
    assert len(straddling.written_after(backend.tokenizer)) == len(longest.prompt) + 1
    with pytest.raises(ValueError, match=f"lower max_new_tokens to {left - 1} at most"):
        check_budget(backend, [straddling], left)
    full = replace(longest, prompt=(7,) * backend.n_ctx)
    with pytest.raises(ValueError, match=f"context of {backend.n_ctx} has no room for an answer after it, whatever"):
        check_budget(backend, [*encoded, full], 1)


# The subject's tokens


def test_subject_tokens_decode_to_the_subject(model: Any, probes: ProbeSet) -> None:
    backend = backend_of(model)
    for probe in probes:
        tokens = backend.tokenizer(probe.prompt).input_ids
        held = subject_tokens(backend, probe)
        assert backend.tokenizer.decode([tokens[place] for place in held]).strip() == probe.record.subject
        assert token_position(backend, probe, "subject_last") == held[-1]
        assert token_position(backend, probe, "last") == len(tokens) - 1


def test_a_subject_that_is_not_there_is_an_error_without_the_name(model: Any, probes: ProbeSet) -> None:
    backend, probe = backend_of(model), probes[0]
    turned = replace(probe, prompt="Where was Li, Ana born? France", subject_span=(10, 16))
    with pytest.raises(
        ValueError, match=r"the subject is not at its span \(10, 16\) of the prompt .*make the probe with build_probes"
    ) as caught:
        subject_tokens(backend, turned)
    assert f"{MASK}, {MASK} born?" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Ana", "Li", "France"))
    assert probe.id in str(caught.value)
    assert masked_prompt(probe) == f"In which country was {MASK} born?\n"
    with pytest.raises(ValueError, match="unknown position 'first'; use 'subject_last', 'last'"):
        token_position(backend, probe, "first")  # type: ignore[arg-type]


def test_tokenizers_without_offsets_or_tokens_of_the_subject_are_refused(
    model: Any, probes: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, probe = backend_of(model), probes[0]

    class Slow(type(backend.tokenizer)):  # type: ignore[misc]
        is_fast = False

    class Dropping:
        is_fast = True
        eos_token_id = 1

        bos_token = eos_token = "<s>"

        def __call__(self, text: Any, **__: Any) -> Any:
            class Encoded(dict[str, Any]):
                input_ids = [(2, 5, number) for number in range(len(text))]

            return Encoded(offset_mapping=[(0, 0), (0, 5)])

    slow = Slow(tokenizer_object=backend.tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    monkeypatch.setattr(backend, "tokenizer", slow)
    with pytest.raises(ValueError, match="Slow gives no offsets.*fast tokenizer"):
        subject_tokens(backend, probe)
    monkeypatch.setattr(backend, "tokenizer", Dropping())
    with pytest.raises(ValueError, match=f"no token of the prompt .*{MASK}.* holds the subject") as caught:
        subject_tokens(backend, probe)
    assert probe.record.subject not in str(caught.value)
