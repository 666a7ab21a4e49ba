"""Circuits: how states are prepared, models computed, and amplification put together."""
