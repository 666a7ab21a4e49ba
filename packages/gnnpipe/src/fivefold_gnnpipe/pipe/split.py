"""Where the layers are cut into stages: the slowest stage as fast as it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate


def split(costs: Sequence[float], stages: int) -> list[int]:
    """Return the contiguous split whose largest stage is smallest, by dynamic programming.

    Of equal splits the one whose early stages are larger is taken.

    Args:
        costs: seconds of each unit.
        stages: runs to make; each gets at least one unit.

    Returns:
        The units after which a stage ends, one fewer than stages.

    Raises:
        ValueError: more stages than units.
    """
    if not 1 <= stages <= len(costs):
        raise ValueError(f"{stages} stages of {len(costs)} units")
    sums = [0.0, *accumulate(costs)]

    @cache
    def best(begin: int, left: int) -> tuple[float, int]:
        """Return the largest stage of units from `begin` on, and where its first stage ends."""
        if left == 1:
            return sums[-1] - sums[begin], len(costs)
        least = (math.inf, 0)
        for end in range(len(costs) - left + 1, begin, -1):
            rest, _ = best(end, left - 1)
            largest = max(sums[end] - sums[begin], rest)
            if largest < least[0]:
                least = (largest, end)
        return least

    cuts, begin = [], 0
    for left in range(stages, 1, -1):
        _, begin = best(begin, left)
        cuts.append(begin)
    return cuts


def stage_ranges(cuts: Sequence[int], num_blocks: int) -> list[range]:
    """Return the layers of each stage, counted from 1."""
    begins, ends = [0, *cuts], [*cuts, num_blocks]
    return [range(begin + 1, end + 1) for begin, end in zip(begins, ends, strict=True)]
