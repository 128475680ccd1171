"""Explore what a run saved, without a model: a state, the numbers that it shows, and the widgets that draw them."""
