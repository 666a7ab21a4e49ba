"""Settings that hold a secret: their value is neither shown nor written down."""

from collections.abc import Iterator, Mapping

_NAMES = frozenset({"token", "password"})

LEFT_OUT = "(left out)"
"""What stands where the value would."""


def is_secret(key: str) -> bool:
    """Whether a dotted key is that of an access token or a password."""
    return key.rpartition(".")[2] in _NAMES


def secrets_in(tree: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every secret that is written out in plain settings.

    One that only refers to elsewhere (`${oc.env:HF_TOKEN}`) is not.
    """
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from secrets_in(value, f"{key}.")
        elif value and is_secret(key) and not str(value).startswith("${"):
            yield key
