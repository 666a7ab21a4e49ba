"""Merging against a dictionary of paths, and trees of any size against plain forward passes."""

import random
from collections import Counter
from itertools import permutations

import pytest
import torch
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import ancestors, path_to, plain_logits, tiny_model
from fivefold_specinfer.config import SpecInferConfig
from fivefold_specinfer.drafter import build
from fivefold_specinfer.trie import merge, number
from fivefold_speculative import NoCorrection, Request, Session, TokenTree, TreeTopology, decode
from fivefold_speculative.rules import rule_for
from fivefold_speculative.toy import ToyDrafts

BATCH = 5
SIZES = {32: [1, 3, 9], 33: [4, 7], 63: [2, 2, 2, 2, 2], 64: [7, 8], 65: [8, 7], 200: [1, 2, 98]}
"""Widths of trees of so many nodes: FlexFlow's masks fail beyond 31."""


def drafted(widths, vocab, seed):
    """Return a random tree of each row, and which of its nodes take part."""
    torch.manual_seed(seed)
    topology = TreeTopology.expansion(widths)
    tree = TokenTree.rooted(torch.full((BATCH,), 9), topology)
    tree.fill(range(1, tree.num_nodes), torch.randint(vocab, (BATCH, topology.num_nodes - 1)))
    return tree, torch.rand(tree.tokens.shape) < 0.8


def paths(tree, row, kept=None):
    """Return the tokens on the way to each node of a tree, and which nodes are there."""
    found = {}
    parents = tree.parents[row].tolist()
    for node in range(tree.num_nodes):
        there = tree.valid[row, node] if kept is None else node == 0 or kept[row, node]
        parent = parents[node]
        if there and (node == 0 or parent in found):
            token = int(tree.tokens[row, node])
            found[node] = (*found[parent], token) if node else (token,)
    return found


def merged(trees):
    return merge([t for t, _ in trees], [k for _, k in trees], len(SHAPE), vocab_size=16)


SHAPE = [3, 2, 2]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_merge_holds_every_path_once_and_every_draw_in_order(seed, drafts):
    trees = [drafted(SHAPE, vocab=3, seed=10 * seed + d) for d in range(drafts)]
    trie = merged(trees)
    tree, draws = trie.tree, trie.tree.draws
    own_nodes = [tree.topology.levels for tree, _ in trees]
    for row in range(BATCH):
        own = [paths(t, row, kept) for t, kept in trees]
        found = paths(tree, row)
        assert sorted(found.values()) == sorted({path for part in own for path in part.values()})
        assert sorted(found) == list(range(len(found)))
        assert all(int(tree.parents[row, node]) < node for node in found)
        assert all(len(path) - 1 == int(tree.depths[row, node]) for node, path in found.items())
        # Every draw, by its path and the one that made it, level by level, draft by draft.
        expected = [
            part[node]
            for depth in range(1, len(SHAPE) + 1)
            for part, levels in zip(own, own_nodes, strict=True)
            for node in levels[depth]
            if node in part
        ]
        made = [
            found[node]
            for parent, node in zip(
                draws.parents[row].tolist(), draws.nodes[row].tolist(), strict=True
            )
            if parent >= 0
        ]
        assert made == expected
        for home, part in zip(trie.homes, own, strict=True):
            assert [found.get(node) for node in home[row].tolist()] == [
                part.get(node) for node in range(home.shape[1])
            ]


def test_draws_of_a_node_are_walked_in_order_and_counted_with_multiplicity():
    trees = [drafted(SHAPE, vocab=2, seed=d) for d in range(3)]
    tree = merged(trees).tree
    for node in range(int(tree.valid.sum(1).min())):
        at = torch.full((BATCH,), node)
        taken = [tree.draw(at, place) for place in range(sum(SHAPE) * 12)]
        for row in range(BATCH):
            walked = [int(draw[row]) for draw in taken if draw[row] > 0]
            assert walked == [
                d for d, p in enumerate(tree.draws.parents[row].tolist()) if d and p == node
            ]
            nodes = Counter(int(tree.node_of(draw)[row]) for draw in taken if draw[row] > 0)
            assert all(int(tree.parents[row, child]) == node for child in nodes)
    assert tree.widths == (9, 18, 36, 0)


def sets(trie):
    return [set(paths(trie.tree, row).values()) for row in range(BATCH)]


def test_merge_is_idempotent_commutative_and_associative_as_sets_of_paths():
    trees = [drafted(SHAPE, vocab=3, seed=40 + d) for d in range(3)]
    alone = [sets(merged([tree])) for tree in trees]
    every = sets(merged(trees))
    assert sets(merged([trees[0], trees[0]])) == alone[0]
    assert all(sets(merged(list(order))) == every for order in permutations(trees))
    pair = sets(merged(trees[:2]))
    assert [one | two for one, two in zip(pair, alone[2], strict=True)] == every
    counts = [int(merged([tree]).tree.valid.sum()) - BATCH for tree in trees]
    assert int(merged(trees).tree.valid.sum()) - BATCH <= sum(counts)


@pytest.mark.parametrize("widths", [[1, 1, 3, 1, 1, 1, 1, 1], [2, 2, 2], [5]])
def test_expansion_has_as_many_nodes_as_the_formula_says(widths):
    topology, total, level = TreeTopology.expansion(widths), 0, 1
    for width in widths:
        level *= width
        total += level
    assert topology.num_nodes == 1 + total
    if len(widths) == 8:
        assert total == 20


def test_numbers_are_given_in_the_order_in_which_keys_first_come():
    rng = random.Random(3)
    for _ in range(20):
        keys = [[rng.randrange(6) for _ in range(9)] for _ in range(BATCH)]
        exists = [[rng.random() < 0.7 for _ in range(9)] for _ in range(BATCH)]
        first = [rng.randrange(4) for _ in range(BATCH)]
        found, is_new = number(
            torch.tensor(keys), torch.tensor(exists), torch.tensor(first)[:, None]
        )
        for row in range(BATCH):
            known, expected, new = {}, [], []
            for key, there in zip(keys[row], exists[row], strict=True):
                new.append(there and key not in known)
                if there:
                    known.setdefault(key, first[row] + len(known))
                expected.append(known[key] if there else -1)
            assert found[row].tolist() == expected
            assert is_new[row].tolist() == new


def session_of(model, prompts, new_tokens, greedy=True):
    sampling = SamplingConfig(temperature=0.0 if greedy else 1.0)
    return Session(
        model,
        [Request(prompt, new_tokens, key=key) for key, prompt in enumerate(prompts)],
        Sampler(sampling, vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
        load_draft=ToyDrafts(model),
    )


def checked_steps(model, config, prompts, new_tokens, greedy=True):
    """Decode, comparing the logits of every node with a plain pass over its path."""
    session = session_of(model, prompts, new_tokens, greedy)
    drafter = build(config, session)
    verify, sizes = session.verify, []

    def compared(tree, state):
        rows = verify(tree, state)
        sizes.append(tree.num_nodes)
        for row, text in enumerate(session.tokens):
            parents = tree.parents[row].tolist()
            there = [node for node in range(tree.num_nodes) if tree.valid[row, node]]
            assert torch.equal(
                tree.ancestors[row][there][:, there], ancestors(parents)[there][:, there]
            )
            for node in there[:: 1 + len(there) // 9]:
                path = path_to(node, parents)
                whole = [*text, *(int(tree.tokens[row, n]) for n in path[1:])]
                expected = plain_logits(model.module, whole)[-1]
                torch.testing.assert_close(rows.logits[row, node], expected, atol=2e-4, rtol=1e-4)
        return rows

    session.verify = compared
    rule = rule_for("auto", drafter, session.sampler)
    for _ in decode(session, drafter, rule, NoCorrection()):
        pass
    return session, sizes


@pytest.mark.parametrize("nodes", SIZES)
def test_a_tree_of_any_size_sees_its_ancestors_and_nothing_else(nodes):
    model = tiny_model(vocab=104, eos_token_id=None)
    config = SpecInferConfig(widths=SIZES[nodes])
    _, sizes = checked_steps(model, config, [[5, 9, 2], [7]], 6)
    assert sizes[0] == nodes


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_merged_trees_are_verified_as_plain_passes_over_their_paths(arch, backend):
    model = tiny_model(arch, vocab=16, eos_token_id=None)
    model.module.set_attn_implementation(backend)
    config = SpecInferConfig(widths=[2, 2, 1], drafts=["toy-1", "toy-2"])
    checked_steps(model, config, [[5, 9, 2, 7, 3, 1, 1, 4], [7]], 8, greedy=False)
