"""The gateway's relay: keeps each stream's transcript, so that it outlives its rig (ADR 29)."""
