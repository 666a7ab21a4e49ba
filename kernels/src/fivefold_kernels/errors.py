"""What a kernel answers when it cannot do what it was asked."""


class UnsupportedError(Exception):
    """A kernel cannot do this; the message says what it takes, and what serves instead."""
