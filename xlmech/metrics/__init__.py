"""Formulas: matching of answers, ranks, intervals, tests and similarity. Needs no model and reads no file."""
