"""Instructions and the queues that play them."""
