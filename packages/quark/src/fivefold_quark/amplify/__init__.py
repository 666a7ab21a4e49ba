"""Quark: search for the best weights by amplitude amplification, blind but for its measurements."""
