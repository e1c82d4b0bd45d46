"""The rows of docs/benchmarks.md: a file per group, and what runs and prints them."""
