"""Graphs, models, the training loop, and the methods that need no paper."""
