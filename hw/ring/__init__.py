"""The ring between chips: links that survive errors, and collectives on accumulator words."""
