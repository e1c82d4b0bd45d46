"""Models that ship with the project, each a folder in Hugging Face layout."""
