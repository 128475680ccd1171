"""Language packs: how each language asks, states and names things; one TOML file per language, and CLDR's names."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
