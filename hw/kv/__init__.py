"""KV cache: pages, layout and writes."""
