"""The split of layers: no other contiguous split has a smaller largest stage."""

import itertools

import pytest
from fivefold_gnnpipe.pipe.split import split, stage_ranges
from hypothesis import given, settings
from hypothesis import strategies as st


def largest(costs, cuts):
    ends = [0, *cuts, len(costs)]
    return max(sum(costs[a:b]) for a, b in itertools.pairwise(ends))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50).map(float), min_size=1, max_size=10), st.integers(1, 10))
def test_split_is_the_best_of_all_splits(costs, stages):
    if stages > len(costs):
        with pytest.raises(ValueError, match="stages"):
            split(costs, stages)
        return
    cuts = split(costs, stages)
    assert len(cuts) == stages - 1
    every = itertools.combinations(range(1, len(costs)), stages - 1)
    assert largest(costs, cuts) == min(largest(costs, some) for some in every)


def test_33_equal_units_on_8_stages_are_five_and_fours():
    cuts = split([1.0] * 33, 8)
    sizes = [len(layers) for layers in stage_ranges(cuts, 33)]
    assert sum(sizes) == 33
    assert max(sizes) == 5


def test_stages_hold_all_layers_in_order():
    ranges = stage_ranges([2, 3], 6)
    assert [list(r) for r in ranges] == [[1, 2], [3], [4, 5, 6]]
