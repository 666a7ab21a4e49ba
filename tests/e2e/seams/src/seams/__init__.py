"""Two methods that change the text, to see that what is chosen is what is called."""

from dataclasses import dataclass

from fivefold import Method, hookimpl


@dataclass
class WindowedConfig:
    """Let every node see the newest columns only."""

    newest: int = 12
    """Columns that are seen."""


@dataclass
class PlausibleConfig:
    """Let a drafted token stand that the target finds plausible."""

    threshold: float = 0.001
    """Probability from which it does."""


@hookimpl
def fivefold_attention() -> list[Method]:
    return [Method("windowed", WindowedConfig, "seams.methods:windowed", "the newest columns")]


@hookimpl
def fivefold_correction() -> list[Method]:
    build, summary = "seams.methods:Plausible", "plausible tokens stand"
    return [Method("plausible", PlausibleConfig, build, summary)]
