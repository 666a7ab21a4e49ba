"""Models whose parameters sit in a weight register: Boolean formulas and angle models."""
