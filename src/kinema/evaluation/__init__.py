"""From a model and clips to numbers that can be trusted."""
