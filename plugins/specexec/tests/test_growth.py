"""The tree is exactly the K most probable paths, against a search over all of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fivefold_specexec import SpecExecConfig, growth
from fivefold_specexec.growth import Growth, frontier_widths
from fivefold_specexec.scoring import best_children
from hypothesis import given, settings
from hypothesis import strategies as st

DEPTH = 4
Path = tuple[int, ...]


@dataclass
class TableDraft:
    """Laws of the next token by path: random ones, or whatever `rule` makes of them.

    Args:
        vocab: tokens.
        seed: of the laws.
        sharpness: standard deviation of the logits.
    """

    vocab: int = 4
    seed: int = 0
    sharpness: float = 1.5

    def logits(self, path: Path) -> torch.Tensor:
        rng = np.random.default_rng([self.seed, *[token + 1 for token in path]])
        return torch.tensor(rng.normal(0, self.sharpness, self.vocab), dtype=torch.float32)

    def logp(self, path: Path) -> list[float]:
        return self.logits(path).double().log_softmax(-1).tolist()


def grow(drafts, config: SpecExecConfig, active=None):
    """Grow one row for each draft; return the growth, finished, and the number of draft passes."""
    batch = len(drafts)
    active = torch.ones(batch, dtype=torch.bool) if active is None else active
    growth = Growth(config, torch.zeros(batch, dtype=torch.long), active)
    frontier, passes = growth.root(), 1
    paths: list[dict[int, Path]] = [{0: ()} for _ in drafts]
    while True:
        logits = torch.stack(
            [
                torch.stack(
                    [draft.logits(paths[row].get(int(n), ())) for n in frontier.numbers[row]]
                )
                for row, draft in enumerate(drafts)
            ]
        )
        growth.add(frontier, *best_children(logits, config.branch))
        found = growth.frontier()
        if found is None:
            return growth, passes
        frontier, passes = found, passes + 1
        for row in range(batch):
            real = (frontier.scores[row] > -math.inf).tolist()  # the others are padding
            for place, number in enumerate(frontier.numbers[row].tolist()):
                if not real[place]:
                    continue
                above = paths[row][int(frontier.parents[row, place])]
                paths[row][number] = (*above, int(frontier.tokens[row, place]))
                check_sight(frontier, paths[row], row, place)


def check_sight(frontier, paths: dict[int, Path], row: int, place: int) -> None:
    """A node of a draft pass must see its ancestors and itself, and no other expanded node."""
    own = paths[int(frontier.numbers[row, place])]
    for number in range(1, frontier.seen.shape[2] + 1):
        if number not in paths:
            continue
        is_above = own[: len(paths[number])] == paths[number]  # or the node itself
        assert bool(frontier.seen[row, place, number - 1]) == is_above


def paths_of(tree, row: int = 0) -> list[Path]:
    """Return the path of every node of a row that exists, in the order of the nodes."""
    found: dict[int, Path] = {0: ()}
    for node in range(1, tree.num_nodes):
        if bool(tree.valid[row, node]):
            parent = int(tree.parents[row, node])
            assert parent < node, "a parent comes before its children"
            assert parent in found, "and exists"
            found[node] = (*found[parent], int(tree.tokens[row, node]))
            assert int(tree.depths[row, node]) == len(found[node])
    return list(found.values())


def every_path(draft: TableDraft, depth: int, decay: float, branch: int) -> dict[Path, float]:
    """Return the score of every path up to a depth, of the `branch` best tokens everywhere."""
    scores: dict[Path, float] = {(): 0.0}
    for length in range(1, depth + 1):
        for path in itertools.product(range(draft.vocab), repeat=length):
            if path[:-1] in scores:
                laws = draft.logp(path[:-1])
                best = sorted(range(draft.vocab), key=lambda token: -laws[token])[:branch]
                if path[-1] in best:
                    scores[path] = scores[path[:-1]] + math.log(decay) + laws[path[-1]]
    return scores


def best_paths(scores: dict[Path, float], budget: int, min_logp: float = -math.inf) -> set[Path]:
    """Return the best so many of all paths."""
    allowed = [path for path, score in scores.items() if score >= min_logp]
    return set(sorted(allowed, key=lambda path: -scores[path])[:budget])


def as_published(draft: TableDraft, config: SpecExecConfig) -> tuple[set[Path], int]:
    """The search of the paper, one dictionary, overshoot and trim included (section 4.2).

    It stops as its termination property says: when no node that waits could have a child among
    the best.
    """
    decay = math.log(config.decay)
    scores: dict[Path, float] = {(): 0.0}
    waiting: set[Path] = {()}
    passes = 0
    while passes < config.max_iters:
        passes += 1
        front = sorted(waiting, key=lambda path: -scores[path])[: config.frontier]
        waiting -= set(front)
        children = {}
        for path in front:
            laws = draft.logp(path)
            for token in sorted(range(draft.vocab), key=lambda t: -laws[t])[: config.branch]:
                children[(*path, token)] = scores[path] + decay + laws[token]
        every = sorted([*scores.values(), *children.values()], reverse=True)
        full = len(every) >= config.budget
        theta = every[config.budget - 1] if full else -math.inf
        added = {path: score for path, score in children.items() if score >= theta}
        scores |= added
        waiting |= set(added)
        if not any(scores[path] + decay > theta for path in waiting):
            break
    return best_paths(scores, config.budget), passes


def tree_of(draft, **limits):
    grown, passes = grow([draft], SpecExecConfig(**limits))
    return grown.tree(), passes


@pytest.mark.parametrize("decay", [1.0, 0.95, 0.5])
@pytest.mark.parametrize("budget", [2, 7, 20, 60, 400])
def test_tree_is_the_exact_best_of_all_paths(budget, decay):
    draft = TableDraft(seed=budget)
    tree, _ = tree_of(draft, budget=budget, decay=decay, frontier=400, max_iters=DEPTH)
    expected = best_paths(every_path(draft, DEPTH, decay, 4), budget)
    assert set(paths_of(tree)) == expected
    assert len(expected) == min(budget, 1 + 4 + 16 + 64 + 256)


@pytest.mark.parametrize("frontier", [1, 2, 3, 10])
@pytest.mark.parametrize("decay", [1.0, 0.95])
@pytest.mark.parametrize("budget", [3, 12, 40])
def test_tree_does_not_depend_on_the_frontier_when_the_search_ends_by_itself(
    budget, decay, frontier
):
    draft = TableDraft(seed=budget)
    limits = {"budget": budget, "decay": decay, "max_iters": 1000}
    whole, _ = tree_of(draft, **limits, frontier=1000)
    tree, passes = tree_of(draft, **limits, frontier=frontier)
    assert paths_of(tree) == paths_of(whole)
    assert passes < 1000


@given(
    seed=st.integers(0, 10_000),
    budget=st.integers(2, 40),
    frontier=st.integers(1, 12),
    branch=st.integers(1, 5),
    max_iters=st.integers(1, 8),
    decay=st.sampled_from([1.0, 0.95, 0.7]),
)
@settings(max_examples=60, deadline=None)
def test_tree_is_that_of_the_published_search_under_every_limit(
    seed, budget, frontier, branch, max_iters, decay
):
    draft = TableDraft(vocab=5, seed=seed)
    config = SpecExecConfig(
        budget=budget, frontier=frontier, branch=branch, max_iters=max_iters, decay=decay
    )
    grown, passes = grow([draft], config)
    assert (set(paths_of(grown.tree())), passes) == as_published(draft, config)


@pytest.mark.parametrize("branch", [1, 2, 3])
def test_no_node_has_more_children_than_branch(branch):
    draft = TableDraft(seed=3)
    tree, _ = tree_of(draft, budget=12, branch=branch, max_iters=DEPTH, decay=1.0)
    assert set(paths_of(tree)) == best_paths(every_path(draft, DEPTH, 1.0, branch), 12)


def test_a_smaller_budget_gives_a_part_of_the_tree():
    draft = TableDraft(seed=5)
    trees = [set(paths_of(tree_of(draft, budget=k)[0])) for k in range(2, 40)]
    assert all(small < large for small, large in itertools.pairwise(trees))


def test_least_probability_bounds_the_tree():
    draft = TableDraft(seed=2)
    tree, _ = tree_of(draft, budget=300, min_logp=-3.0, max_iters=DEPTH, decay=1.0)
    expected = best_paths(every_path(draft, DEPTH, 1.0, 4), 300, min_logp=-3.0)
    assert set(paths_of(tree)) == expected
    assert 1 < len(expected) < 100
    tree, passes = tree_of(draft, budget=8, min_logp=-1e-9)
    assert (paths_of(tree), passes) == ([()], 1)


class CertainDraft(TableDraft):
    """One token is certain, so that all of a path have the same score without a decay."""

    def logits(self, path):
        return torch.tensor([0.0, 200.0, 0.0, 0.0])


class UniformDraft(TableDraft):
    """All nodes of a depth have the same score."""

    def logits(self, path):
        return torch.zeros(4)


@pytest.mark.parametrize("draft", [CertainDraft(), UniformDraft()])
@pytest.mark.parametrize("decay", [1.0, 0.95])
@pytest.mark.parametrize("budget", [2, 3, 10, 23])
def test_equal_scores_never_cut_a_node_from_its_parent(draft, decay, budget):
    tree, _ = tree_of(draft, budget=budget, decay=decay, max_iters=9)
    paths = paths_of(tree)  # asserts that parents exist and come first
    assert len(set(paths)) == len(paths), "siblings carry distinct tokens"
    assert len(paths) == budget


def test_ancestors_are_those_of_the_parents():
    tree, _ = tree_of(TableDraft(seed=8), budget=30)
    paths = paths_of(tree)
    for node, path in enumerate(paths):
        seen = {paths[other] for other in tree.ancestors[0, node].nonzero().flatten().tolist()}
        assert seen == {path[:length] for length in range(len(path) + 1)}


def test_rows_of_a_batch_grow_on_their_own():
    drafts = [TableDraft(seed=s, sharpness=x) for s, x in ((1, 0.2), (2, 4.0), (3, 1.5))]
    config = SpecExecConfig(budget=18, frontier=3)
    together = grow(drafts, config)[0].tree()
    for row, draft in enumerate(drafts):
        assert paths_of(together, row) == paths_of(grow([draft], config)[0].tree())


def test_a_row_that_has_stopped_grows_nothing_and_delays_nobody():
    drafts = [TableDraft(seed=1, sharpness=0.1), TableDraft(seed=2, sharpness=4.0)]
    config = SpecExecConfig(budget=12, frontier=1)
    alone, passes = grow(drafts[1:], config)
    both, both_passes = grow(drafts, config, torch.tensor([False, True]))
    assert both_passes == passes
    assert paths_of(both.tree(), 0) == [()]
    assert paths_of(both.tree(), 1) == paths_of(alone.tree())


@pytest.mark.parametrize("limits", [{"frontier": 3}, {"min_logp": -2.0}, {"max_iters": 2}])
def test_shapes_where_asking_costs_are_fixed_and_give_the_same_tree(limits, monkeypatch):
    drafts = [TableDraft(seed=s, sharpness=2.0) for s in range(3)]
    config = SpecExecConfig(**{"budget": 14, **limits})
    exact = grow(drafts, config)[0].tree()
    monkeypatch.setattr(growth, "asking_is_free", lambda device: False)
    static = grow(drafts, config)[0].tree()
    assert static.num_nodes == 14
    for row in range(3):
        assert paths_of(static, row) == paths_of(exact, row)
    assert static.levels >= exact.levels


def test_widths_bound_every_frontier():
    config = SpecExecConfig(budget=40, frontier=6, branch=3, max_iters=7)
    assert list(frontier_widths(config)) == [1, 3, 6, 6, 6, 6, 6]
    assert list(frontier_widths(SpecExecConfig(budget=2, max_iters=3))) == [1]


@pytest.mark.parametrize("sharpness", [1.0, 30.0])
@pytest.mark.parametrize("budget", [2, 3, 9])
def test_more_passes_than_the_budget_has_nodes_are_never_needed(budget, sharpness):
    draft = TableDraft(seed=budget, sharpness=sharpness)
    config = SpecExecConfig(budget=budget, frontier=1, decay=0.95, max_iters=10**6)
    tree, passes = as_published(draft, config)
    assert passes <= config.most_passes == budget - 1
    grown, own = grow([draft], config)
    assert (set(paths_of(grown.tree())), own) == (tree, passes)


def test_every_node_of_a_draft_pass_sees_itself():
    config = SpecExecConfig(budget=30, frontier=8)
    seen = []
    step = growth.Growth.frontier

    def watched(self):
        found = step(self)
        if found is not None:
            seen.append(found.seen.any(-1))
        return found

    drafts = [TableDraft(seed=1), TableDraft(seed=2, sharpness=9.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth.Growth, "frontier", watched)
        patch.setattr(growth, "asking_is_free", lambda device: False)  # padding included
        grow(drafts, config)
    assert seen
    assert all(bool(each.all()) for each in seen)


def test_expected_tokens_of_a_tree_are_the_sum_of_its_probabilities():
    draft, config = TableDraft(seed=4), SpecExecConfig(budget=20, decay=1.0, max_iters=DEPTH)
    tree_scores = grow([draft], config)[0].scores[0]
    total = 0.0
    for path in best_paths(every_path(draft, DEPTH, 1.0, 4), 20):
        total += math.exp(sum(draft.logp(path[:i])[path[i]] for i in range(len(path))))
    assert float(tree_scores.exp().sum()) == pytest.approx(total, rel=1e-6)
