"""Which backend gets a request, and when: what is known of each, and the queue before them."""
