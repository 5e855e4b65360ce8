"""Conversations that outlive their slot, in files of llama-server (ADR 33)."""
