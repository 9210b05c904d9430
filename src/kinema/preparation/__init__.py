"""What is computed once, before training."""
