"""Generators of synthetic datasets with known click probabilities."""
