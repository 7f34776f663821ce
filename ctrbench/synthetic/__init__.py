"""Generators with a known true click probability."""
