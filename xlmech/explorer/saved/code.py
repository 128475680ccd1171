"""Write what a panel of a saved run shows as three lines of Python, for a notebook of one's own.

The lines use `run`, which is what the explorer was given, and leave their numbers (or the figure) in `result`.
"""

from __future__ import annotations

from typing import Any, Literal

from xlmech.checks import check_choice
from xlmech.explorer.saved.state import SavedState

SavedPanel = Literal["record", "matrix", "records", "layers", "record_lens", "neurons", "figure"]


def saved_code(state: SavedState, panel: SavedPanel, *, figure: str = "") -> str:
    """Write what a panel shows as three lines of Python, the last of which assigns `result`.

    Args:
        state: What is looked at.
        panel: Whose numbers.
        figure: Name of the figure, for the panel of this name.
    """
    check_choice("panel", panel, SavedPanel)
    if panel == "record":
        call = _call("outcomes", group=state.group, record=state.record, wordings=True)
    elif panel == "matrix":
        call = _call("shares", state.measure, group=state.group)
    elif panel == "records":
        call = _call("records", group=state.group, kind=state.kind, language=state.language)
    elif panel == "layers":
        call = _call("lens", kind=state.kind)
    elif panel == "record_lens":
        call = _call("lens", record=state.record)
    elif panel == "neurons":
        call = _call("neurons", language=state.language, layer=state.layer)
    else:
        call = _call("figure", figure)
    return f"import xlmech\nsaved = xlmech.SavedRun(run)\nresult = saved.{call}"


def _call(method: str, *values: str, **named: Any) -> str:
    """Write a call; what is not chosen, and the private group, is left out."""
    given = [repr(value) for value in values]
    given += [f"{name}={value!r}" for name, value in named.items() if value not in ("", None, "private")]
    return f"{method}({', '.join(given)})"
