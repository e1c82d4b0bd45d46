"""Rotation, scores, softmax and the weighted values."""
