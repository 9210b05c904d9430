"""Architectures: one file per registered model, made of parts in `layers/`."""
