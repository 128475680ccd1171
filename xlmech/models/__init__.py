"""Load a model from any source, and use both kinds of hooked model through one interface."""
