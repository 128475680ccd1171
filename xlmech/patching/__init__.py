"""Where facts act: activation patching between languages."""
