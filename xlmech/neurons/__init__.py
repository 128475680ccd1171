"""Neuron sets and their ablation; see the packages below for attribution, selection and evidence."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
