"""An offer: a method with settings, what it promises, and what it was seen to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PLAIN = "none"
AUTO = "auto"


@dataclass(frozen=True)
class Offer:
    """A method with settings, and what it promises.

    Args:
        method: its name.
        settings: by field.
        nodes: of a tree, the root included.
        expected_tokens: of a row's step.
        seconds: of a step.
        measured: tokens a second of all rows when it last ran; 0: it never did.
        tried_tokens: of a row's step in a trial; 0: it was not tried.
        tried_seconds: of a step in a trial.
    """

    method: str
    settings: dict[str, Any]
    nodes: int
    expected_tokens: float
    seconds: float
    measured: float = 0.0
    tried_tokens: float = 0.0
    tried_seconds: float = 0.0

    @property
    def promise(self) -> float:
        """Expected tokens a second of one row, before any trial."""
        return self.expected_tokens / self.seconds

    @property
    def tokens_a_step(self) -> float:
        """Tokens of a row's step, as tried; as expected where it was not."""
        return self.tried_tokens or self.expected_tokens

    @property
    def seconds_a_step(self) -> float:
        """Seconds of a step, likewise."""
        return self.tried_seconds or self.seconds

    @property
    def label(self) -> str:
        """The method with its settings, as a person reads it."""
        said = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.method} ({said})" if said else self.method
