"""Turn a run folder into a verdict, a gate and one HTML page."""
