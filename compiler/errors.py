"""Errors that are meant for the user of tokenloom, not for its developers."""

__all__ = ["ConfigError", "ModelError", "TokenloomError"]


class TokenloomError(Exception):
    """Base of every error that the command line prints as one message, without a traceback."""


class ModelError(TokenloomError):
    """A model file cannot be used: the message names the file, the part, and what is allowed."""


class ConfigError(TokenloomError):
    """A configuration is unusable: the message names the key, the value, and what is allowed."""
