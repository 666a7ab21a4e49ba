"""Backward of activation times up projection, the middle of a gated MLP."""
