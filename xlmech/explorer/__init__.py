"""Explore one record's circuit in a notebook: layers, flow between languages, neurons to ablate, attention.

What is looked at is a frozen `ExplorerState`; a `Circuit` computes what a state shows, by the library's own functions and only
when it is asked to; the widgets draw it. `explore` puts the three together.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
