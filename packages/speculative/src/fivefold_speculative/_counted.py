"""Numbers with their noun, as they are said to people."""


def counted(number: int, noun: str) -> str:
    """Return `1 token`, `2 tokens`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
