"""The evidence on real models and real questions: `python -m benchmarks.real`."""
