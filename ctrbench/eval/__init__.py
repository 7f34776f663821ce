"""Metrics, long-tail bins and significance; no torch."""
