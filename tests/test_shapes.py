"""In the tests, the shapes and dtypes that xlmech's annotations state are checked whenever a function is called."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from helpers import CHECKED, ROOT, UNCHECKED, unchecked
from jaxtyping import TypeCheckError

from xlmech.engine.unembed import token_log_prob


def test_a_wrong_shape_is_an_error() -> None:
    hidden, unembed, targets = torch.zeros(3, 4), torch.zeros(7, 4), torch.zeros(3, 1, dtype=torch.long)
    assert token_log_prob(hidden, unembed, targets).shape == (3, 1)
    for wrong in (
        (hidden[:2], unembed, targets),
        (hidden, unembed[:, :2], targets),
        (hidden, unembed, targets.float()),
    ):
        with pytest.raises(TypeCheckError, match="token_log_prob"):
            token_log_prob(*wrong)
    with unchecked(), pytest.raises(RuntimeError):
        token_log_prob(hidden, unembed[:, :2], targets)


def test_every_module_with_shapes_is_checked() -> None:
    assert len(CHECKED) > 25
    assert all((ROOT / "xlmech" / path).is_file() for path in UNCHECKED)
    for name in CHECKED:
        assert type(import_module(name).__loader__).__module__ == "jaxtyping._import_hook", name
