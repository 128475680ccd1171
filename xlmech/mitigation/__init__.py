"""What an ablation gains and costs, and whether attacks undo it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
