"""ctrbench: the benchmark for multi-domain click-through-rate models."""

__version__ = "0.1.0"
