"""Programs that run beside the backends: the cards' power limits, and a benchmark of one card."""
