"""What ``benchmark.py`` is made of: clients of any OpenAI-compatible server, and what they saw."""
