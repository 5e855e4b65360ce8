"""Models that are written here and not downloaded. Needs numpy and the ``gguf`` library."""
