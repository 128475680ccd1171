"""Measure whether a model leaks, in which language, and more than for control people."""
