"""Attention of tree nodes over a KV cache."""
