"""What holds of the method as a whole: the rule's exact law, masks, yields as predicted."""

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from fivefold.testing import compose
from fivefold_lm import FullAttention, RandomStream, Rows, Sampler, SamplingConfig
from fivefold_lm.testing import path_to, plain_logits, tiny_model
from fivefold_sequoia.config import SequoiaConfig
from fivefold_sequoia.drafter import build, candidates
from fivefold_sequoia.planning import plan
from fivefold_speculative import (
    AcceptanceVector,
    Candidate,
    DecodeState,
    NoCorrection,
    Proposal,
    Request,
    Session,
    TokenTree,
    TreeTopology,
    decode,
    rule_for,
    step_seconds,
)
from fivefold_speculative.enumeration import emitted_law
from fivefold_speculative.rules import GreedyRule, WithoutReplacementRule
from fivefold_speculative.testing import PROMPTS
from fivefold_speculative.toy import ToyDrafts, plain_greedy, toy_target
from fivefold_speculative.tree import shape_of

VECTOR = AcceptanceVector((0.5, 0.2, 0.12, 0.05))


def laws(seed):
    """Pairs of laws over 5 tokens: dense, with zeros, one-hot, small support, equal, disjoint."""
    rng = np.random.default_rng(seed)
    target, draft = rng.dirichlet(np.full(5, 0.6), (2, 8))
    target[1, :2] = 0
    draft[2] = np.eye(5)[3]
    draft[3, 2:] = 0
    draft[4] = target[4]
    target[5], draft[5] = [0.5, 0.5, 0, 0, 0], [0, 0, 0.2, 0.3, 0.5]
    target[6] = np.eye(5)[1]
    return [law / law.sum(1, keepdims=True) for law in (target, draft)]


@pytest.mark.parametrize("children", [1, 2, 3, 4, 5])
def test_the_emitted_law_is_the_targets_to_twelve_places(children):
    target, draft = laws(seed=children)
    law, accepted = emitted_law(
        WithoutReplacementRule(), Proposal.WITHOUT_REPLACEMENT, children, target, draft
    )
    np.testing.assert_allclose(law, target, atol=1e-12)
    if children == 5:  # draws that cover the vocabulary: some child always stands
        np.testing.assert_allclose(accepted, 1, atol=1e-12)


@pytest.mark.parametrize("nodes", [2, 9, 33])
def test_a_planned_tree_is_a_tree_in_every_form(nodes):
    tree = plan(VECTOR, nodes, 6)
    assert tree.num_nodes == nodes
    assert tree.num_levels <= 6
    assert all(parent < node for node, parent in enumerate(tree.parents))
    mask = shape_of(tree, torch.device("cpu")).ancestors
    for node, parent in enumerate(tree.parents):
        own = torch.zeros(nodes, dtype=torch.bool)
        own[node] = True
        assert torch.equal(mask[node], own if parent < 0 else mask[parent] | own)
    assert torch.equal(mask, (mask.float() @ mask.float()) > 0)  # transitive
    assert mask.sum(1).sub(1).tolist() == list(tree.depths)


def test_yield_of_a_target_that_is_positional_is_the_predicted_one():
    """At every node the target's argmax is the k-th child with probability p_k, whatever else."""
    tree, rows = plan(VECTOR, 16, 6), 40_000
    children = len(VECTOR.probs)
    rng = np.random.default_rng(4)
    p = [*VECTOR.probs, 1 - sum(VECTOR.probs)]
    best = torch.tensor(rng.choice(children + 1, (rows, tree.num_nodes), p=p))
    tokens = TokenTree.rooted(torch.zeros(rows, dtype=torch.long), tree)
    tokens.fill(range(1, 16), torch.tensor(tree.child_index[1:]).expand(rows, -1))
    logits = torch.nn.functional.one_hot(best, children + 1).float()
    sampler = Sampler(SamplingConfig(), vocab_size=children + 1)
    lengths = torch.ones(rows, dtype=torch.long)
    state = DecodeState(
        tokens=torch.zeros(rows, 8, dtype=torch.long),
        lengths=lengths,
        active=lengths > 0,
        request=lengths,
        noise=RandomStream(0),
        sampler=sampler,
        history=None,
        alive=True,
    )
    count = GreedyRule().accept(tokens, Rows(logits, None), state).count.double()
    error = float(count.std()) / rows**0.5
    assert float(count.mean()) == pytest.approx(VECTOR.expected_tokens(tree), abs=4 * error)


def session_of(temperature, noise, new=30, model=None):
    model = model or toy_target()
    return Session(
        model,
        [Request(list(prompt), new, key=key) for key, prompt in enumerate(PROMPTS)],
        Sampler(SamplingConfig(temperature=temperature), vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
        load_draft=ToyDrafts(model, noise=noise),
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_that_equals_the_target_has_every_first_child_accepted(temperature):
    session = session_of(temperature, noise=0.0)
    drafter = build(SequoiaConfig(acceptance="fallback", nodes=12), session)
    rule = rule_for("auto", drafter, session.sampler)
    chain = [0]
    while drafter.topology.children[chain[-1]]:
        chain.append(drafter.topology.children[chain[-1]].start)
    for outcome in decode(session, drafter, rule, NoCorrection()):
        count = outcome.accepted.count
        assert bool((count[count > 0] == len(chain)).all())
        assert outcome.accepted.path[count > 0][:, : len(chain)].tolist() == [chain] * int(
            (count > 0).sum()
        )


def random_tree(seed):
    """Return a tree of up to 20 nodes, a star or nearly a chain or between them, by chance."""
    rng = random.Random(seed)
    onward, parents = rng.choice([0.1, 0.4, 0.9]), [-1]
    for node in range(1, rng.randint(5, 20)):
        first = max(parents[-1], 0)
        parents.append(rng.randint(first, node - 1) if rng.random() < onward else first)
    return TreeTopology(tuple(parents))


TREES = {
    "wide": TreeTopology.expansion([19]),
    "deep": TreeTopology.chain(19),
    **{f"random {seed}": random_tree(seed) for seed in range(8)},
}
NOISE = {"right": 0.0, "near": 0.3, "random": 30.0, "never right": 0.0}


@pytest.mark.parametrize("draft", NOISE)
@pytest.mark.parametrize("tree", TREES)
def test_greedy_text_is_plain_decodings_for_any_topology_and_draft(tree, draft, tmp_path):
    """One draft's best word is the target's last: none of its tokens is ever right."""
    TREES[tree].write(tmp_path / "tree.json")
    model = toy_target(vocab=24, eos=True)
    session = session_of(0.0, NOISE[draft], 20, model)
    if draft == "never right":
        load = session.load_draft
        session.load_draft = lambda name, kind: upside_down(load(name, kind))
    drafter = build(SequoiaConfig(topology=str(tmp_path / "tree.json")), session)
    assert drafter.topology == TREES[tree]
    rule, stood = rule_for("auto", drafter, session.sampler), 0
    for outcome in decode(session, drafter, rule, NoCorrection()):
        stood += int((outcome.accepted.count - 1).clamp(min=0).sum())
    texts = [record.tokens for record in session.records]
    assert texts == [plain_greedy(model, prompt, 20)[0] for prompt in PROMPTS]
    assert stood > 0 if draft == "right" else stood == 0 or draft != "never right"


def upside_down(draft):
    """Return a draft that finds likely what another one finds unlikely."""
    return replace(draft, head=lambda hidden: -draft.head(hidden))


TIE = {torch.float32: 1e-5, torch.bfloat16: 2**-5}
"""Logits that differ by less, as a share of the largest one, are as good as equal."""


@pytest.mark.parametrize("arch", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize("dtype", TIE, ids=str)
def test_logits_in_the_tree_are_those_of_each_path_alone(arch, dtype):
    """To five digits in float32; in bfloat16 the best token is the same, but for ties."""
    model = tiny_model(arch, vocab=24, eos_token_id=None)
    model.module.to(dtype)
    session = session_of(0.0, 0.3, 12, model)
    drafter = build(SequoiaConfig(acceptance="fallback", nodes=12), session)
    verify, clear, ties = session.verify, 0, 0

    def compared(tree, state):
        nonlocal clear, ties
        rows = verify(tree, state)
        for row, text in enumerate(session.tokens):
            for node in range(tree.num_nodes):
                path = path_to(node, tree.parents[row].tolist())[1:]
                alone = plain_logits(model.module, [*text, *tree.tokens[row, path].tolist()])[-1]
                best, second = alone.topk(2).values.tolist()
                tie = TIE[dtype] * float(alone.abs().max())
                found = rows.logits[row, node]
                assert dtype != torch.float32 or float((found - alone).abs().max()) < tie
                if best - second > tie:
                    assert int(found.argmax()) == int(alone.argmax())
                    clear += 1
                else:
                    ties += 1
        return rows

    session.verify = compared
    rule = rule_for("auto", drafter, session.sampler)
    for _ in decode(session, drafter, rule, NoCorrection()):
        pass
    assert clear > 90
    assert clear > 3 * ties


class Machine:
    """A profile: a target pass costs 1 up to some nodes, and then in proportion."""

    def __init__(self, free=32, draft=0.05, greedy=True, max_nodes=128):
        self.greedy, self.overhead, self.max_nodes = greedy, 0.02, max_nodes
        self.drafts = {"shipped": {}, "other": {"draft": "other"}}
        self._free, self._draft = free, draft

    def target(self, nodes):
        return max(1.0, nodes / self._free)

    def draft(self, draft, kind, nodes):
        return self._draft * max(1.0, nodes / 64)


def offers(machine, vector=VECTOR):
    asked = []

    def source(draft: str, kind: str, proposal: Proposal) -> AcceptanceVector | None:
        asked.append((draft, kind, proposal))
        return vector if (draft, kind) == ("shipped", "independent") else None

    found = candidates(machine, source)
    kinds = ("independent", "feature_head")
    assert {(draft, kind) for draft, kind, _ in asked} == set(product(machine.drafts, kinds))
    return found


def test_candidates_are_the_best_levels_of_every_budget():
    found = offers(Machine())
    assert [one.nodes for one in found] == [2, 4, 8, 16, 32, 64, 128]
    for one in found:
        assert isinstance(one, Candidate)
        rates = []
        for levels in range(2, 17):
            tree = plan(VECTOR, one.nodes, levels)
            if tree.num_nodes == one.nodes:
                seconds = step_seconds(Machine(), tree, "shipped", "independent")
                rates.append(VECTOR.expected_tokens(tree) / seconds)
        assert one.rate == pytest.approx(max(rates), rel=1e-9)
        compose("generate", ["drafting=sequoia"]).choose("drafting", "sequoia", one.settings)


def test_a_dear_draft_makes_shallow_trees_and_a_dear_target_small_ones():
    levels = [max(one.settings["levels"] for one in offers(Machine(draft=d))) for d in (0.01, 0.5)]
    assert levels[0] > levels[1]
    best = [max(offers(Machine(free=f)), key=lambda one: one.rate).nodes for f in (64, 4)]
    assert best[0] > best[1]
    hopeless = offers(Machine(free=1, draft=2.0))
    assert max(one.rate for one in hopeless) < 1  # plain decoding, which costs 1, is better


@pytest.mark.parametrize(("greedy", "proposal"), [(True, "point_mass"), (False, "without_repl")])
def test_candidates_ask_for_the_proposal_of_the_sampler(greedy, proposal):
    asked = []
    assert candidates(Machine(greedy=greedy), lambda *given: asked.append(given[2])) == []
    assert all(str(word).startswith(proposal) for word in asked)
