"""Where the time of decoding steps went, stage by stage, and the work that each stage had."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """What a step is told apart by; every moment of it belongs to one of them."""

    TARGET_LINEAR = "target_linear"
    """The target's linear layers."""
    TARGET_ATTENTION = "target_attention"
    """Its attention over the KV cache."""
    TARGET_HEAD = "target_head"
    """Its output layer."""
    TARGET_OTHER = "target_other"
    """Else in its pass: norms, rotary positions, merging; layer by layer also the calls."""
    TARGET_AROUND = "target_around"
    """Before and after its pass: embedding, positions, masks."""
    DRAFT_LINEAR = "draft_linear"
    """As for the target, of all passes that a drafter makes in a step."""
    DRAFT_ATTENTION = "draft_attention"
    DRAFT_HEAD = "draft_head"
    DRAFT_OTHER = "draft_other"
    DRAFT_AROUND = "draft_around"
    """The drafter but for its passes: choosing children, filling the tree, keeping its cache."""
    ACCEPTANCE = "acceptance"
    """The rule decides which nodes stand."""
    COMPACTION = "compaction"
    """The target's cache keeps the accepted path, moved to the front."""
    REST = "rest"
    """The loop: the copy to the host, stops and limits, the next step's state."""

    @property
    def is_counted(self) -> bool:
        """Whether its bytes and operations are counted; elsewhere they say nothing."""
        return self is not Stage.REST and not self.endswith(("_other", "_around"))


class Runner(StrEnum):
    """Whose passes run."""

    TARGET = "target"
    DRAFT = "draft"
    NOBODY = ""


@dataclass
class Tally:
    """What all steps together spent in a stage, and the work that it cannot do without."""

    seconds: float = 0.0
    bytes: int = 0
    flops: int = 0


class Ledger:
    """Tells the time of steps apart.

    Stages nest and each has its own time alone, so that together they have all the time between
    the first `step` and `end` of each batch, less what was `skipped`.

    Args:
        clock: seconds since any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.steps = 0
        self.tallies = {stage: Tally() for stage in Stage}
        self.skipped = 0.0
        """Seconds that went into counting bytes and operations."""
        self.runner = Runner.NOBODY
        self.token_bytes = 0
        """Keys and values of one token in the layers that the target's last pass has run."""
        self._clock = clock
        self._last = 0.0
        self._running: list[Stage] = []

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(tally.seconds for tally in self.tallies.values())

    def step(self) -> None:
        """Begin a step; what no stage claims of it is `rest`."""
        if not self._running:
            self._last = self._clock()
            self._running.append(Stage.REST)
        self.steps += 1

    def end(self) -> None:
        """End the last step of a batch."""
        if self._running:
            self._charge()
            self._running.clear()

    def enter(self, stage: Stage) -> None:
        """Begin a stage inside the running one."""
        self._charge()
        self._running.append(stage)

    def leave(self) -> None:
        """Go back to the stage around the running one."""
        self._charge()
        self._running.pop()

    @contextmanager
    def span(self, stage: Stage, runner: Runner) -> Iterator[None]:
        """Give what runs meanwhile to a stage, and the passes in it to the target or the draft."""
        self.enter(stage)
        self.runner = runner
        try:
            yield
        finally:
            self.runner = Runner.NOBODY
            self.leave()

    def part(self, name: str) -> Stage:
        """Return a part of the running pass: `linear`, `attention`, `head` or `other`."""
        return Stage(f"{self.runner}_{name}")

    def tell_apart(self, seconds: Iterable[tuple[Stage, float]]) -> None:
        """Give stages what was measured for them inside the running one."""
        self._charge()
        here = self.tallies[self._running[-1]]
        for stage, spent in seconds:
            here.seconds -= spent
            self.tallies[stage].seconds += spent

    def skip(self) -> None:
        """Forget the time since the last change: it went into counting."""
        now = self._clock()
        self.skipped += now - self._last
        self._last = now

    def count(self, stage: Stage, num_bytes: int, flops: int = 0) -> None:
        """Add bytes read or written, and floating-point operations."""
        self.tallies[stage].bytes += num_bytes
        self.tallies[stage].flops += flops

    def count_product(self, part: str, num_bytes: int, weights: int, rows: int) -> None:
        """Add a product of rows with weights of so many bytes: each is read once."""
        self.count(self.part(part), num_bytes, 2 * weights * rows)

    def count_attention(self, pairs: int, pair_flops: int, tokens: int, token_bytes: int) -> None:
        """Add attention: keys and values are read once for all nodes of a row.

        Args:
            pairs: of a node and a token that it sees, over the batch.
            pair_flops: operations of a pair.
            tokens: that any node of their row sees, over the batch.
            token_bytes: of a token's keys and values.
        """
        self.count(self.part("attention"), tokens * token_bytes, pairs * pair_flops)
        if self.runner is Runner.TARGET:
            self.token_bytes += token_bytes

    def _charge(self) -> None:
        now = self._clock()
        self.tallies[self._running[-1]].seconds += now - self._last
        self._last = now
