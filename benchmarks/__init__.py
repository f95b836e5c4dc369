"""Measurements, each against the plain way of doing the same: `python -m benchmarks.<name>`."""
