"""One word of the command line that sets something, in its parts."""

import re
from dataclasses import dataclass

_OVERRIDE = re.compile(r"(?P<sign>[~+]*)(?P<key>[^=]*)=(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """One `key=value` of the command line, in its parts."""

    line: str
    """As the user wrote it."""
    sign: str
    """`+`, `++`, `~` or nothing."""
    key: str
    """Dotted key, group or node."""
    value: str
    """Everything after the first `=`."""

    @classmethod
    def read(cls, line: str) -> "Override":
        """Split a word of the shell at its first `=`."""
        parts = _OVERRIDE.fullmatch(line)
        if parts is None:  # `~key`: a deletion without a value
            return cls(line, "~", line.lstrip("~"), "")
        return cls(line, parts["sign"], parts["key"], parts["value"])

    def sweeps_over(self) -> list[str]:
        """Return the values that a sweep would take from it; one when it is none."""
        return [part.strip() for part in self.value.split(",")]
