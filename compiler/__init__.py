"""Compiler: from a checkpoint to tapes, program and schedule."""
