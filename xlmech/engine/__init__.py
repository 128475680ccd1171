"""Run a model fast: batches, generation, scoring, unembedding, and interventions as rows of one batch."""
