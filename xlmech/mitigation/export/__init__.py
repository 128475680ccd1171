"""Write a mitigated checkpoint with its manifest and model card."""
