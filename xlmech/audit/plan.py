"""What an audit measures: options of `run_audit`, and of the config's section `data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from xlmech.checks import check_choices
from xlmech.data.attributes import Attribute, all_attributes, load_attributes
from xlmech.data.languages import check_language
from xlmech.data.prompt_format import named_format
from xlmech.options import MAX_NEW_TOKENS, Count, LocateOptions, MitigateOptions, Section

if TYPE_CHECKING:
    from xlmech.engine.sampling import Sampling


def _check_languages(codes: tuple[str, ...]) -> tuple[str, ...]:
    for code in codes:
        check_language(code)
    return codes


def _read_kinds(source: Any, info: ValidationInfo) -> Any:
    """Read kinds of data from a TOML file, or take a mapping from name to definition; definitions that are read are kept."""
    if isinstance(source, str):
        folder = info.context["folder"] if info.context else Path.cwd()
        return load_attributes(Path(folder) / source)
    if isinstance(source, Mapping):
        return load_attributes(source)
    return tuple(Attribute.model_validate(kind) for kind in source)


def _check_once(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(items)) < len(items):
        raise ValueError("the list repeats an entry; list each once")
    return items


def _check_prompt(text: str) -> str:
    if text not in ("auto", "chat"):
        named_format(text)
    return text


def _check_wordings(given: Any) -> tuple[int, ...] | str | None:
    if given is None or given == "all":
        return given  # type: ignore[no-any-return]
    if not isinstance(given, list | tuple) or not given or any(type(number) is not int for number in given):
        raise ValueError(f"expected null, all, or a list of template numbers such as [0, 2], got {given!r}")
    return _check_once(tuple(given))


_once = AfterValidator(_check_once)
_Languages = Annotated[tuple[str, ...], Field(strict=False, min_length=1), _once, AfterValidator(_check_languages)]
_Kinds = Annotated[tuple[Attribute, ...], Field(strict=False), BeforeValidator(_read_kinds)]
_Attributes = Annotated[tuple[str, ...], Field(strict=False, min_length=1), _once]
_LensAttributes = Annotated[tuple[str, ...], Field(strict=False), _once]
_Prompt = Annotated[str, AfterValidator(_check_prompt)]
_Wordings = Annotated[tuple[int, ...] | str | None, BeforeValidator(_check_wordings)]


class Selection(Section):
    """Which probes are measured, and which locate neurons."""

    languages: _Languages | None = None
    """Languages to ask in, e.g. [en, fr, zh]; null for all that have a pack. With one language alone universal neurons are
    undefined: the audit ablates the neurons of that language."""
    kinds: _Kinds = ()
    """Kinds of data of your own: a TOML file, or a mapping from name to compare, guessable, severity, questions, statements and
    values; see `Attribute`."""
    attributes: _Attributes | None = None
    """Attributes to ask for, e.g. [phone, email]; null for those of the records."""
    held_out: float = Field(default=0.5, gt=0, lt=1)
    """Share of each group's people who do not choose the neurons: they are measured before and after."""
    locate_template: int = 0
    """Question template by which neurons are located, from 0."""
    measure_template: int = -1
    """Question template by which leakage is measured; -1 is the last."""
    locate_facts: Count = 20
    """Largest number of facts per group that locate neurons, each asked in every language."""
    measure_facts: Count = 16
    """Largest number of held-out private facts that are measured, each asked in every language."""
    other_facts: Count = 8
    """The same for held-out public, and for control facts."""
    lens_attributes: _LensAttributes | None = None
    """Attributes whose answers the logit lens follows through the layers; null for those that it can follow, of which those that
    are written differently in each language are taken first; [] for no lens."""
    lens_facts: Count = 8
    """Largest number of private facts that the lens follows, each asked in every language."""
    prompt: _Prompt = "auto"
    """What stands around each question: plain (the question and a newline), qa (Question: and Answer:), chat (the chat template
    of the tokenizer), or a text with {question}. auto is the format of the adapter's planting, or that in which an exported
    checkpoint was measured, if known; else chat if the tokenizer has a template and the model is no base model; else qa."""
    system: str | None = None
    """System text in front of the question, for a chat template; null for the template's own."""
    max_new_tokens: Count = MAX_NEW_TOKENS
    """Largest number of tokens of an answer, whatever the records hold; an answer that this cuts off is counted."""
    wordings: _Wordings = None
    """Question templates that are asked beside measure_template, to see what any of them brings out: all, or a list of numbers
    such as [0, 2]; null for none."""
    n_samples: Count = 1
    """Number of answers that are drawn per question in that measurement; 1 for the greedy answer."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the drawn answers; 1 is the model's own distribution."""

    @field_validator("attributes", "lens_attributes")
    @classmethod
    def _check_attributes(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        return names and check_choices("attribute", names, all_attributes(info.data.get("kinds", ())))


class AuditPlan(Selection):
    """What an audit measures, and how it chooses neurons; the defaults are the demo's."""

    locate: LocateOptions = LocateOptions()
    """How neurons are chosen."""
    mitigate: MitigateOptions | None = None
    """How gates are learned from the people who choose neurons; None for no gates."""
    seed: int = Field(default=0, ge=0)
    """Seed of every draw."""

    @property
    def sampling(self) -> Sampling | None:
        """How answers are drawn in the measurement of several wordings, None for the greedy ones."""
        if self.n_samples == 1:
            return None
        from xlmech.engine.sampling import Sampling  # imports torch

        return Sampling(n_samples=self.n_samples, temperature=self.temperature, seed=self.seed)

    @property
    def asks_more(self) -> bool:
        """Whether several wordings or several answers per question are measured besides."""
        return self.wordings is not None or self.n_samples > 1
