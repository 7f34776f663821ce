"""Kernels in two forms, compiled loops for the CPU and tensor operations for any device, with one dispatch each."""
