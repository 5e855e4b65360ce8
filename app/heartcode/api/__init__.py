"""What clients see, and the only place that knows Flask: URLs, checks, errors, the access log."""
