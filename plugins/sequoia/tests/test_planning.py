"""The best tree: against all ordered trees, against best first, and the golden values."""

import functools
import itertools
import time

import numpy as np
import pytest
from fivefold_sequoia.planning import Law, all_best, best_first, best_tree, plan, smoothed, tree_of
from fivefold_speculative import AcceptanceVector, RankedAcceptance, TreeTopology

GOLDEN = (0.65, 0.20, 0.10, 0.05)
UNLIMITED = {
    2: 1.6500,
    4: 2.3471,
    8: 2.9856,
    16: 3.6606,
    32: 4.3571,
    64: 5.0632,
    128: 5.766,
    256: 6.469,
    512: 7.174,
    768: 7.587,
}
SIX_LEVELS = {64: 4.880, 128: 5.363, 256: 5.715}


@functools.cache
def forests(nodes, levels, branch):
    """Every ordered forest of so many nodes, as a tuple of trees, a tree being its forest."""
    if nodes == 0:
        return ((),)
    if levels == 0 or branch == 0:
        return ()
    return tuple(
        (first, *rest)
        for size in range(1, nodes + 1)
        for first in forests(size - 1, levels - 1, BRANCH)
        for rest in forests(nodes - size, levels, branch - 1)
    )


BRANCH = 4


def expected_of(table, nodes, levels):
    """Return best[n, l] of section 4."""
    return float(table.best[0, levels, nodes])


def value(forest, rows, children, state=0, chance=1.0):
    return chance + sum(
        value(below, rows, children, children[state][place], chance * rows[state][place])
        for place, below in enumerate(forest)
    )


def random_law(rng, states, falling):
    """A law of several states whose children go anywhere, so that nothing is special."""
    rows = rng.dirichlet(np.ones(BRANCH + 1), states)[:, :BRANCH]
    if falling:
        rows = -np.sort(-rows, axis=1)
    children = rng.integers(0, states, (states, BRANCH))
    return Law(tuple(map(tuple, rows)), tuple(tuple(map(int, row)) for row in children))


def brute_force(law, nodes, levels):
    trees = forests(nodes - 1, levels - 1, BRANCH)
    if not trees:
        return -np.inf
    return max(value(tree, law.rows, law.state_of_child) for tree in trees)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("states", "falling"), [(1, True), (1, False), (3, False), (3, True)])
def test_best_of_every_size_is_the_best_of_all_ordered_trees(seed, states, falling):
    law = random_law(np.random.default_rng(seed), states, falling)
    table = all_best(law, 7, 5)
    for nodes, levels in itertools.product(range(1, 8), range(1, 6)):
        expected = brute_force(law, nodes, levels)
        assert expected_of(table, nodes, levels) == pytest.approx(expected, abs=1e-12)
        if np.isfinite(expected):
            tree = table.tree(nodes, levels)
            assert tree.num_nodes == nodes
            assert tree.num_levels <= levels
            assert yield_of(tree, law) == pytest.approx(expected, abs=1e-12)


def yield_of(tree, law):
    """Expected tokens of a tree, from the tree alone."""
    state, chance = [0], [1.0]
    for node, parent in enumerate(tree.parents[1:], start=1):
        place = tree.child_index[node]
        chance.append(chance[parent] * law.rows[state[parent]][place])
        state.append(law.state_of_child[state[parent]][place])
    return sum(chance)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("states", [1, 3])
def test_best_first_is_the_programme_where_the_law_falls(seed, states):
    rng = np.random.default_rng(100 + seed)
    law = random_law(rng, states, falling=True)
    table = all_best(law, 40, 7)
    for levels in (2, 3, 5, 7):
        ways = best_first(law, 40, levels)
        for nodes in (1, 2, 7, 19, 40):
            if nodes <= len(ways):
                tree = tree_of(ways[:nodes])
                assert tree.num_nodes == nodes
                found = yield_of(tree, law)
                assert found == pytest.approx(expected_of(table, nodes, levels), abs=1e-12)


def test_golden_values():
    table = all_best(Law.plain(GOLDEN), 128, 24)
    ways = best_first(Law.plain(GOLDEN), 768, 768)
    vector = AcceptanceVector(GOLDEN)
    for nodes, expected in UNLIMITED.items():
        assert vector.expected_tokens(tree_of(ways[:nodes])) == pytest.approx(expected, abs=1e-3)
        if nodes <= 128:
            assert expected_of(table, nodes, 24) == pytest.approx(expected, abs=1e-3)
    for nodes, expected in SIX_LEVELS.items():
        tree = best_tree(Law.plain(GOLDEN), nodes, 6)
        assert tree.num_levels == 6
        assert vector.expected_tokens(tree) == pytest.approx(expected, abs=1e-3)
    capped = all_best(Law.plain(GOLDEN), 128, 6)
    assert expected_of(capped, 64, 6) == pytest.approx(4.880, abs=1e-3)
    assert expected_of(capped, 128, 6) == pytest.approx(5.363, abs=1e-3)


@pytest.mark.parametrize("chains", [1, 3])
def test_chains_saturate_where_the_best_tree_goes_on_growing(chains):
    vector, first = AcceptanceVector(GOLDEN), GOLDEN[0]
    most = 1 + sum(GOLDEN[:chains]) / (1 - first)  # one chain: 1 / (1 - first)
    found = []
    for levels in (4, 16, 64):
        parents = [-1, *[0] * chains, *range(1, chains * (levels - 1) + 1)]
        side_by_side = TreeTopology(tuple(parents))
        assert side_by_side.num_levels == levels + 1
        found.append(vector.expected_tokens(side_by_side))
        best = vector.expected_tokens(best_tree(Law.plain(GOLDEN), side_by_side.num_nodes, 99))
        assert found[-1] < min(best, most)
    assert found[-1] == pytest.approx(most, abs=1e-6)
    assert best > most + 1


def test_golden_values_of_large_trees_by_the_programme():
    """Also that it needs no native code: the reference's loop takes hours."""
    begin = time.process_time()
    table = all_best(Law.plain(GOLDEN), 768, 24)
    assert time.process_time() - begin < 60
    for nodes, expected in UNLIMITED.items():
        assert expected_of(table, nodes, 24) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_more_nodes_and_more_levels_are_never_worse(seed):
    law = random_law(np.random.default_rng(seed), 1, falling=False)
    table = all_best(law, 30, 6)
    for levels in range(1, 7):
        most = table.most_nodes(30, levels)
        values = [expected_of(table, nodes, levels) for nodes in range(1, most + 1)]
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
        if levels < 6:
            assert all(
                expected_of(table, n, levels) <= expected_of(table, n, levels + 1) + 1e-12
                for n in range(1, most + 1)
            )


def test_a_tree_that_has_no_room_for_its_nodes_takes_what_fits():
    assert best_tree(Law.plain((0.5, 0.3)), 100, 3).num_nodes == 7
    assert best_tree(Law.plain((0.3, 0.5)), 100, 3).num_nodes == 7
    assert best_tree(Law.plain((0.5,)), 6, 24) == TreeTopology.chain(5)


def test_a_vector_that_rises_is_planned_exactly():
    """Best first would be wrong here: what is behind the second child is worth its place."""
    law = Law.plain((0.3, 0.02, 0.6))
    tree = best_tree(law, 4, 6)
    assert tree == TreeTopology((-1, 0, 0, 0))
    assert yield_of(tree, law) == pytest.approx(brute_force(law, 4, 6), abs=1e-12)
    assert yield_of(tree, law) > yield_of(tree_of(best_first(law, 4, 6)), law) + 0.1


ROWS = ((0.7, 0.1), (0.5, 0.2), (0.4, 0.3), (0.3, 0.3), (0.2, 0.2))


def test_a_ranked_plan_is_the_best_of_all_trees_for_its_own_roots():
    ranked = RankedAcceptance((ROWS, tuple((p * 0.9, q * 0.8) for p, q in ROWS)))
    vector = AcceptanceVector((0.55, 0.15), ranked=ranked)
    tree = plan(vector, 7, 5)
    law = Law.ranked(ranked, ranked.roots(tree))
    assert vector.expected_tokens(tree) == pytest.approx(yield_of(tree, law), abs=1e-12)
    assert yield_of(tree, law) == pytest.approx(expected_of(all_best(law, 7, 5), 7, 5), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [2, 3, 5, 8])
def test_what_is_planned_for_one_number_of_levels_alone_is_the_best_of_all_trees(seed, levels):
    """By depth, most states have one number of levels; the others' values are never computed."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(BRANCH + 1), (3, 5))[..., :BRANCH]
    ranked = RankedAcceptance(tuple(tuple(tuple(map(float, r)) for r in depth) for depth in rows))
    law = Law.ranked(ranked, (0.2,) * 5)
    for nodes in (2, 5, 7):
        alone = all_best(law, nodes, levels, fewer_levels=False)
        assert expected_of(alone, nodes, levels) == pytest.approx(
            brute_force(law, nodes, levels), abs=1e-12
        )
        if np.isfinite(expected_of(alone, nodes, levels)):
            assert alone.tree(nodes, levels) == all_best(law, nodes, levels).tree(nodes, levels)


def test_equal_rows_give_the_plain_plan():
    probs = (0.6, 0.2, 0.1)
    ranked = RankedAcceptance(((probs,) * 5,) * 3)
    for nodes in (2, 5, 16):
        plain, by_rank = (
            plan(AcceptanceVector(probs, ranked=some), nodes, 6) for some in (None, ranked)
        )
        assert AcceptanceVector(probs).expected_tokens(plain) == pytest.approx(
            AcceptanceVector(probs).expected_tokens(by_rank), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(5))
def test_smoothing_gives_the_nearest_vector_that_does_not_rise(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(6))
    found = np.array(smoothed(probs.tolist()))
    assert found.sum() == pytest.approx(probs.sum())
    assert np.all(np.diff(found) <= 1e-12)
    for _ in range(200):
        other = -np.sort(-np.abs(found + rng.normal(0, 0.05, 6)))
        assert np.square(found - probs).sum() <= np.square(other - probs).sum() + 1e-12
