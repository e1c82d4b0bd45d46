"""Tiny random checkpoints in memory, and prompts for them."""

from tokenloom.sim.random_models import KINDS, SMALL, SMALLEST, prompt_for, random_model

__all__ = ["KINDS", "SMALL", "SMALLEST", "prompt_for", "random_model"]
