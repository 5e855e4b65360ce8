"""The commands of ``scripts/``: arguments in, text and an exit status out."""
