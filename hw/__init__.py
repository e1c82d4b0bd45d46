"""Hardware: number formats, blocks and their configuration, in Amaranth."""
