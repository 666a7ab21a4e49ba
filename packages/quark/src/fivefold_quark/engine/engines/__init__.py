"""Engines: each computes, in its own way, how measured weights are distributed."""
