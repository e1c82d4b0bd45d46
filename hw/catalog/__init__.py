"""Blocks that are worth using alone: one module with a `SPEC` each."""
