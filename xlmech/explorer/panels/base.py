"""What every panel has: a box, a state that it drew, and a message in the place of what cannot be drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.state import ExplorerState

Change = Callable[..., None]
"""Takes changes of the state by keyword."""


class Panel(ABC):
    """One panel.

    Attributes:
        title: Title of its tab.
        box: What to put on the page.
    """

    title: str

    def __init__(self, circuit: Circuit, change: Change) -> None:
        self.circuit = circuit
        self.change = change
        self.message = widgets.HTML()
        self.box = widgets.VBox([self.message])
        self._drawn: Any = None

    @property
    @abstractmethod
    def code(self) -> CodeName:
        """Whose numbers the lines of Python give that stand below."""

    @abstractmethod
    def draw(self, state: ExplorerState) -> None:
        """Draw a state."""

    def look(self, state: ExplorerState) -> None:
        """Draw a state unless it is drawn already; say why where it cannot be."""
        if state == self._drawn:
            return
        self.message.value = '<i style="color:#666">computing…</i>'
        try:
            self.draw(state)
            self.message.value = ""
        except ValueError as error:
            self.message.value = note(str(error))
        self._drawn = state

    def again(self, state: ExplorerState) -> None:
        """Draw a state again, because a choice of the panel's own changed."""
        self._drawn = None
        self.look(state)


def note(text: str) -> str:
    """Write a message as HTML."""
    from html import escape

    return f'<div style="color:#8a3b00;max-width:70em;line-height:1.4">{escape(text)}</div>'
