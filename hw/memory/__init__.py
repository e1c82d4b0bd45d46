"""Memory ports, and the tapes that are read through them."""
