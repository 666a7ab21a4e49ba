"""Settings of `drafting=my_method`."""

from dataclasses import dataclass


@dataclass
class MyMethodConfig:
    """Propose what followed the last token, the last time it was written."""

    length: int = 2
    """Tokens proposed in each step."""
