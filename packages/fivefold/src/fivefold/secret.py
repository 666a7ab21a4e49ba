"""Settings that hold a secret: their value is neither shown nor written down."""

_NAMES = frozenset({"token", "password"})

LEFT_OUT = "(left out)"
"""What stands where the value would."""


def is_secret(key: str) -> bool:
    """Whether a dotted key is that of an access token or a password."""
    return key.rpartition(".")[2] in _NAMES
