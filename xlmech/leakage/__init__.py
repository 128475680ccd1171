"""Measure whether a model leaks, in which language, and more than for control people."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
