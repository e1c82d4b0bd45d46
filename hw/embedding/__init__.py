"""From a token's id to its row."""
