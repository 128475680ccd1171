"""Run everything from one config: checks, stages, run folder."""
