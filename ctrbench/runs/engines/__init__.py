"""Engines: where runs are executed and by how many processes."""
