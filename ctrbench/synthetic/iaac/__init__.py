"""Synthetic twin of the IAAC data."""
