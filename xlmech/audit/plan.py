"""What an audit measures: options of `run_audit`, and of the config's section `data`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from xlmech.checks import check_choices
from xlmech.data.languages import ATTRIBUTES, load_language
from xlmech.options import Count, LocateOptions, Section


def _check_languages(codes: tuple[str, ...]) -> tuple[str, ...]:
    for code in codes:
        load_language(code)
    return codes


def _check_once(items: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(items)) < len(items):
        raise ValueError("the list repeats an entry; list each once")
    return items


_known = AfterValidator(partial(check_choices, "attribute", known=ATTRIBUTES))
_once = AfterValidator(_check_once)
_Languages = Annotated[tuple[str, ...], Field(strict=False, min_length=1), _once, AfterValidator(_check_languages)]
_Attributes = Annotated[tuple[str, ...], Field(strict=False, min_length=1), _once, _known]
_LensAttributes = Annotated[tuple[str, ...], Field(strict=False), _once, _known]


class Selection(Section):
    """Which probes are measured, and which locate neurons."""

    languages: _Languages | None = None
    """Languages to ask in, at least two, e.g. [en, fr, zh]; null for all that have a pack."""
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


class AuditPlan(Selection):
    """What an audit measures, and how it chooses neurons; the defaults are the demo's."""

    locate: LocateOptions = LocateOptions()
    """How neurons are chosen."""
    seed: int = Field(default=0, ge=0)
    """Seed of every draw."""
