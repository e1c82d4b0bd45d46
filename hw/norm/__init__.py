"""Residual stream and RMSNorm."""
