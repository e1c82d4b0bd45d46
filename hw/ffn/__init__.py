"""The feed-forward network's activation."""
