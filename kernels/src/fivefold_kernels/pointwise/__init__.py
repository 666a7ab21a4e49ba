"""RMS norm, rotary positions, SiLU times gate."""
