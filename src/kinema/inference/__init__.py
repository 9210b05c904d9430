"""Running trained recognisers."""
