"""The planner's numbers beside those of a real llama-server that loads models of zeros."""
