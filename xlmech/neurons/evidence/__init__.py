"""Whether chosen neurons hold up: stability, overlap and what they respond to."""
