"""What every panel has: a box, a state that it drew, and a message in the place of what cannot be drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from html import escape
from typing import Generic, TypeVar

import ipywidgets as widgets

from xlmech.explorer.circuit import Circuit
from xlmech.explorer.code import Panel as CodeName
from xlmech.explorer.state import ExplorerState

State = TypeVar("State")
Change = Callable[..., None]
"""Takes changes of the state by keyword."""


class Tab(ABC, Generic[State]):
    """A box that draws states of one kind.

    Attributes:
        title: Title of the tab.
        box: What to put on the page.
    """

    title: str

    def __init__(self, change: Change) -> None:
        self.change = change
        self.message = widgets.HTML()
        self.box = widgets.VBox([self.message])
        self._drawn: State | None = None

    @abstractmethod
    def draw(self, state: State) -> None:
        """Draw a state."""

    def look(self, state: State) -> None:
        """Draw a state unless it is drawn already; say why where it cannot be."""
        if state == self._drawn:
            return
        self.message.value = '<i style="color:#666">computing…</i>'
        self._hide(False)
        try:
            self.draw(state)
            self.message.value = ""
        except ValueError as error:
            self.message.value = note(str(error))
            self._hide(True)
        except BaseException as error:  # of the model, or the kernel is interrupted
            self.message.value = note(f"not drawn: {type(error).__name__}; choose something to try again")
            self._hide(True)
            self._drawn = None
            raise
        self._drawn = state

    def again(self) -> None:
        """Draw the state again, because a choice of the panel's own changed."""
        state, self._drawn = self._drawn, None
        if state is not None:
            self.look(state)

    def _hide(self, is_hidden: bool) -> None:
        """Hide what an earlier state drew, but not the panel's choices."""
        for child in self.box.children[1:]:
            if isinstance(child, widgets.HTML | widgets.VBox):
                child.layout.display = "none" if is_hidden else None


class Panel(Tab[ExplorerState]):
    """One panel of the explorer of a live model."""

    def __init__(self, circuit: Circuit, change: Change) -> None:
        super().__init__(change)
        self.circuit = circuit

    @property
    @abstractmethod
    def code(self) -> CodeName:
        """Whose numbers the lines of Python give that stand below."""


def note(text: str) -> str:
    """Write a message as HTML."""
    return f'<div style="color:#8a3b00;max-width:70em;line-height:1.4">{escape(text)}</div>'
