"""Teach a model invented people, or fine-tune it."""
