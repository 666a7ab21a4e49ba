"""Drafting methods that this package registers itself."""
