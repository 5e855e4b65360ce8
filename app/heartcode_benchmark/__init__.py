"""Load on any server with the OpenAI API, and what its clients saw: ``scripts/benchmark.py``."""
