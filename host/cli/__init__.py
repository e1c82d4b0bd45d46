"""The command line `tokenloom`: a file per command; their bodies are modules in `host/commands`."""

from tokenloom.host.cli.entry import cli, main

__all__ = ["cli", "main"]
