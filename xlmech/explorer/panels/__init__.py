"""Panels of the explorer's widget: each draws a state, and says what was clicked."""
