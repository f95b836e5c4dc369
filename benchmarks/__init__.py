"""Benchmarks, each against a plain baseline: `python -m benchmarks.<name>`."""
