"""What an ablation gains and costs, and whether attacks undo it."""
