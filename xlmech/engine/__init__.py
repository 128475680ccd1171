"""Run a model fast: batches, generation, scoring, unembedding, and interventions as rows of one batch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
