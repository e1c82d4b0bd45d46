"""Errors that are meant for the user of tokenloom, not for its developers."""

__all__ = ["ConfigError", "FetchError", "ModelError", "TokenloomError"]


class TokenloomError(Exception):
    """Base of every error that the command line prints as one message, without a traceback."""


class ModelError(TokenloomError):
    """A model file cannot be used: the message names the file, the part, and what is allowed."""


class FetchError(ModelError):
    """A model that is published elsewhere could not be fetched; nothing is wrong with its files."""


class ConfigError(TokenloomError):
    """A configuration is unusable: the message names the key, the value, and what is allowed."""
