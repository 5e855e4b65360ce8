"""A fleet in virtual time: what its routing does in a day that nobody has to wait for."""
