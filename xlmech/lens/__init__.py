"""See in which layers leakage shows: logit lens, tuned lens, direct logit attribution, similarity of languages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
