"""llama-server over HTTP: one exchange, and what an answer tells of its tokens and times."""
