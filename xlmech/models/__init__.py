"""Load a model from any source, and use both kinds of hooked model through one interface."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
