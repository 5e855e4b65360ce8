"""What the benchmarks are made of: a synthetic upstream, a load, and the relays to compare."""
