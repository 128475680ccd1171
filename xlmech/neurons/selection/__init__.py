"""Which neurons to take."""
