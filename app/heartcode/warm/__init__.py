"""What outlives its process: conversations in files of llama-server, speeds (ADR 33)."""
