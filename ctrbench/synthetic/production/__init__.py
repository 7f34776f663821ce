"""Production-scale synthetic data."""
