"""Metrics of predictions: one file per metric, their base classes and their registry."""
