"""Parameters and multiply-adds of a model."""
