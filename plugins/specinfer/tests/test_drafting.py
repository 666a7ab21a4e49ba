"""What the drafts do between passes: caches, levels, budgets, and the settings that are refused."""

from typing import ClassVar

import pytest
import torch
from fivefold import UserError
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_specinfer.budget import RowAcceptance, allot
from fivefold_specinfer.config import SpecInferConfig
from fivefold_specinfer.drafter import Member, build, candidates
from fivefold_specinfer.trie import merge
from fivefold_speculative import (
    AcceptanceVector,
    DraftKind,
    NoCorrection,
    Proposal,
    Request,
    Session,
    TokenTree,
    TreeTopology,
    decode,
)
from fivefold_speculative.config import ChainConfig
from fivefold_speculative.drafters import model_tree
from fivefold_speculative.rules import rule_for
from fivefold_speculative.toy import ToyDrafts, plain_greedy, toy_target

PROMPTS = [[3, 1, 4, 1, 5], [2], [6, 2, 6, 2], [1, 7]]
TWO = ["toy-1", "toy-2"]


def session_of(model, new_tokens, temperature=0.0, prompts=PROMPTS, **more):
    each = new_tokens if isinstance(new_tokens, list) else [new_tokens] * len(prompts)
    return Session(
        model,
        [
            Request(prompt, count, key=key)
            for key, (prompt, count) in enumerate(zip(prompts, each, strict=True))
        ],
        Sampler(SamplingConfig(temperature=temperature), vocab_size=model.vocab_size),
        FullAttention(),
        text=False,
        load_draft=ToyDrafts(model),
        **more,
    )


def steps(session, drafter, rule="auto"):
    """Yield the state, the tree and the outcome of every step."""
    seen = []
    propose = drafter.propose

    def proposed(state):
        seen[:] = [state, propose(state)]
        return seen[1]

    drafter.propose = proposed
    chosen = rule_for(rule, drafter, session.sampler)
    for outcome in decode(session, drafter, chosen, NoCorrection()):
        yield *seen, outcome


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_draft_writes_what_it_would_after_a_plain_pass_over_the_text(temperature):
    """Its cache follows the text also where the accepted path was another draft's."""
    model = toy_target()
    session = session_of(model, 16, temperature)
    drafter = build(SpecInferConfig(widths=[2, 1, 2], drafts=TWO, proposal="topk"), session)
    followed = 0
    texts = [list(text) for text in session.tokens]
    with torch.no_grad():
        for _, tree, outcome in steps(session, drafter):
            for place, (name, member) in enumerate(zip(TWO, drafter.members, strict=True)):
                draft = session.load_draft(name, DraftKind.INDEPENDENT)
                home = drafter._trie.homes[place]
                for row, text in enumerate(texts):
                    if len(text) - len(PROMPTS[row]) >= 14:
                        continue
                    for own in (0, 1):  # the root, and its first child
                        path = [*text, *([int(tree.tokens[row, home[row, 1]])] if own else [])]
                        logits = draft.head(
                            draft.module(input_ids=torch.tensor([path])).last_hidden_state[0, -1]
                        )
                        children = member.topology.children[own]
                        best = draft.vocab_ids[logits.topk(len(children)).indices].tolist()
                        found = [int(tree.tokens[row, home[row, child]]) for child in children]
                        assert found == best
                own_path = drafter._trie.own_path(place, outcome.accepted.path)
                left = (own_path == 0) & (outcome.accepted.path > 0)
                followed += int(left.any())
            for row, new in enumerate(outcome.new_tokens):
                texts[row] += new
    assert followed > 3  # paths that left a draft's own tree


@pytest.mark.parametrize("proposal", ["topk", "sampled"])
def test_a_tree_of_widths_one_is_chain_speculation_with_the_same_random_numbers(proposal):
    model, length = toy_target(), 4
    ours = session_of(model, 20, 1.0)
    chain = session_of(model, 20, 1.0)
    mine = steps(ours, build(SpecInferConfig(widths=[1] * length, proposal=proposal), ours))
    theirs = steps(chain, model_tree.build(ChainConfig(length=length, proposal=proposal), chain))
    for (state, tree, outcome), (_, plain, expected) in zip(mine, theirs, strict=True):
        assert outcome.new_tokens == expected.new_tokens
        for row in range(len(PROMPTS)):
            count = int(tree.valid[row].sum())
            assert tree.tokens[row, :count].tolist() == plain.tokens[row, :count].tolist()
            left = ours.rows[row].left + len(outcome.new_tokens[row])
            assert count == (min(length, left) + 1 if state.active[row] else 1)


def test_levels_that_no_request_can_still_write_are_not_drafted(monkeypatch):
    model, seen = toy_target(), []
    expand = Member.expand

    def counted(self, state, levels):
        seen.append(levels)
        return expand(self, state, levels)

    monkeypatch.setattr(Member, "expand", counted)
    session = session_of(model, [1, 3, 2, 3])
    drafter = build(SpecInferConfig(), session)
    assert drafter.topology.num_levels == 9
    trees = [tree for _, tree, _ in steps(session, drafter)]
    assert max(seen) == 2
    assert trees[0].valid.sum(1).tolist() == [1, 3, 2, 3]
    assert [len(record.tokens) for record in session.records] == [1, 3, 2, 3]


@pytest.mark.parametrize("proposal", ["topk", "sampled"])
def test_a_sampled_text_does_not_depend_on_how_many_tokens_are_asked_for(proposal):
    model, texts = toy_target(), []
    for new_tokens in (7, 19):
        session = session_of(model, new_tokens, 1.0)
        config = SpecInferConfig(widths=[2, 2, 1], drafts=TWO, proposal=proposal)
        rule = "point_mass" if proposal == "topk" else "auto"
        for _ in steps(session, build(config, session), rule):
            pass
        texts.append([record.tokens[:7] for record in session.records])
    assert texts[0] == texts[1]


def test_one_token_is_plain_decoding():
    model = toy_target()
    session = session_of(model, 1)
    (step,) = steps(session, build(SpecInferConfig(drafts=TWO), session))
    assert step[1].num_nodes == 1
    assert [record.tokens for record in session.records] == [
        plain_greedy(model, prompt, 1)[0] for prompt in PROMPTS
    ]


def test_a_deeper_tree_than_any_default_is_greedy_exact():
    model = toy_target()
    session = session_of(model, 40)
    for _ in steps(session, build(SpecInferConfig(widths=[1] * 14, drafts=TWO), session)):
        pass
    assert [record.tokens for record in session.records] == [
        plain_greedy(model, prompt, 40)[0] for prompt in PROMPTS
    ]


# Greedy text, whatever is in the tree.


class Adversary:
    """Puts the next right token, or a wrong one, into every node: most siblings carry the same.

    Args:
        texts: what plain decoding writes after each prompt.
        widths: of each tree.
        drafts: trees that are merged; 0: one tree whose equal siblings stay two nodes.
        right: share of nodes that carry what would be right, were all nodes above them.
    """

    proposal, needs_hidden = Proposal.POINT_MASS, False

    def __init__(self, texts, widths, drafts, right):
        self.topology = TreeTopology.expansion(widths)
        self.drafts, self.right = drafts, right
        self.noise = torch.Generator().manual_seed(3)
        longest = max(map(len, texts)) + len(widths)
        self.texts = torch.tensor([text + [0] * (longest - len(text)) for text in texts])

    def start(self, session):
        self.prompt_lens = torch.tensor([record.prompt_len for record in session.records])

    def propose(self, state):
        trees = [self.tree(state) for _ in range(max(self.drafts, 1))]
        if not self.drafts:
            return trees[0]
        kept = [tree.valid for tree in trees]
        tree = merge(trees, kept, self.topology.num_levels - 1, state.sampler.vocab_size).tree
        tree.draws = None
        return tree

    def tree(self, state):
        tree = TokenTree.rooted(state.last_token, self.topology)
        written = (state.lengths - self.prompt_lens)[:, None]
        place = (written + tree.depths - 1).clamp(0, self.texts.shape[1] - 1)
        right, size = self.texts.gather(1, place)[:, 1:], state.sampler.vocab_size
        is_right = torch.rand(right.shape, generator=self.noise) < self.right
        tree.fill(range(1, tree.num_nodes), torch.where(is_right, right, (right + 1) % size))
        return tree

    def observe(self, outcome):
        pass


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("drafts", [0, 1, 3])
@pytest.mark.parametrize("widths", [[], [5], [3, 2, 1], [1, 3, 3]])
def test_greedy_text_is_plain_decodings_for_any_tree(widths, drafts, right):
    """Equal siblings, wrong tokens in every node, one node."""
    model = toy_target(eos=True)
    texts = [plain_greedy(model, prompt, 24)[0] for prompt in PROMPTS]
    session = session_of(model, 24)
    found, stood = steps(session, Adversary(texts, widths, drafts, right)), 0
    for _, tree, outcome in found:
        stood += int((outcome.accepted.count - 1).clamp(min=0).sum())
        assert not widths or drafts or has_equal_siblings(tree)
    assert [record.tokens for record in session.records] == texts
    assert (stood > 0) == bool(widths and right)


def has_equal_siblings(tree):
    pairs = [*zip(tree.parents[0].tolist(), tree.tokens[0].tolist(), strict=True)]
    return len(set(pairs)) < len(pairs)


# The budget.


@pytest.mark.parametrize("budget", [5, 6, 9, 17, 40])
@pytest.mark.parametrize("proposal", ["topk", "sampled"])
def test_a_pass_never_verifies_more_than_the_budget_and_the_text_stays(budget, proposal):
    model = toy_target()
    session = session_of(model, 16)
    config = SpecInferConfig(
        widths=[2, 2, 1], drafts=TWO, proposal=proposal, max_verify_tokens=budget
    )
    used = [
        int(tree.valid[state.active].sum())
        for state, tree, _ in steps(session, build(config, session))
    ]
    assert max(used) <= budget  # roots included
    assert used[0] > len(PROMPTS)
    assert [record.tokens for record in session.records] == [
        plain_greedy(model, prompt, 16)[0] for prompt in PROMPTS
    ]
    if proposal == "topk" and budget < 40:
        assert used[0] == budget


@pytest.mark.parametrize("budget", [2, 3, len(PROMPTS)])
def test_a_budget_that_the_roots_of_a_batch_use_up_is_refused(budget):
    config = SpecInferConfig(max_verify_tokens=budget)
    with pytest.raises(UserError, match=r"the roots of 4 trees take as many nodes") as refused:
        build(config, session_of(toy_target(), 8))
    assert refused.value.setting == "drafting.max_verify_tokens"
    assert "5 or more" in refused.value.remedy
    build(config, session_of(toy_target(), 8, prompts=PROMPTS[: budget - 1]))


@pytest.mark.parametrize("proposal", ["topk", "sampled"])
def test_without_a_budget_nothing_is_left_out(proposal):
    """As with one that is never used up."""
    assert SpecInferConfig().max_verify_tokens is None
    model, trees = toy_target(), []
    for budget in (None, 10_000):
        session = session_of(model, 16, 1.0)
        settings = {"proposal": proposal, "max_verify_tokens": budget}
        drafter = build(SpecInferConfig(widths=[2, 2, 1], drafts=TWO, **settings), session)
        found = [tree for _, tree, _ in steps(session, drafter)]
        trees.append([(tree.tokens.tolist(), tree.valid.tolist()) for tree in found])
        assert int(found[0].valid.sum()) > len(PROMPTS)
    assert trees[0] == trees[1]


def test_topk_budget_keeps_the_nodes_the_drafts_find_likeliest():
    """Against every path's probability, multiplied out, the best draft's counting."""
    model, budget = toy_target(), 12
    session = session_of(model, 16)
    free = session_of(model, 16)
    config = SpecInferConfig(widths=[3, 2], drafts=TWO, max_verify_tokens=budget)
    drafter = build(config, session)
    _, tree, _ = next(steps(session, drafter))
    _, whole, _ = next(steps(free, build(SpecInferConfig(widths=[3, 2], drafts=TWO), free)))
    drafts = [free.load_draft(name, DraftKind.INDEPENDENT) for name in TWO]

    @torch.no_grad()
    def chance(text, path):
        each = []
        for draft in drafts:
            product = 1.0
            for place in range(len(path)):
                ids = torch.tensor([[*text, *path[:place]]])
                law = draft.head(draft.module(input_ids=ids).last_hidden_state[0, -1]).softmax(-1)
                words = law.topk([3, 2][place]).indices
                known = [int(word) for word in draft.vocab_ids[words]]
                index = known.index(path[place]) if path[place] in known else None
                product *= float(law[words[index]]) if index is not None else 0.0
            each.append(product)
        return max(each)

    def node_paths(tree, row):
        found = {}
        for node in range(1, tree.num_nodes):
            if tree.valid[row, node]:
                parent = int(tree.parents[row, node])
                found[node] = [*found.get(parent, []), int(tree.tokens[row, node])]
        return [tuple(path) for path in found.values()]

    every = [
        (chance(PROMPTS[row], path), row, path)
        for row in range(len(PROMPTS))
        for path in node_paths(whole, row)
    ]
    best = sorted(every, reverse=True)[: budget - len(PROMPTS)]
    kept = {(row, path) for row in range(len(PROMPTS)) for path in node_paths(tree, row)}
    assert kept == {(row, path) for _, row, path in best}


def test_allotted_nodes_are_the_best_and_form_trees():
    torch.manual_seed(0)
    parents = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    for _ in range(30):
        own = torch.rand(6, 7).round(decimals=1)  # with ties
        own[:, 0] = 1
        for node in range(1, 7):
            own[:, node] *= own[:, parents[node]]
        may = torch.ones_like(own, dtype=torch.bool)
        may[:, 0] = False
        may[2] = False
        taken = allot(own, may, torch.tensor(11))
        assert int(taken.sum()) == 11
        assert own[taken].min() >= own[may & ~taken].max()
        above = taken | (torch.arange(7) == 0)
        assert (above[:, parents] | ~taken).all()
        assert not allot(own, may, torch.tensor(-3)).any()


def test_what_stood_is_counted_by_place_at_visited_nodes():
    topology = TreeTopology.expansion([2, 2])  # nodes 1 2 | 3 4 5 6
    counted = RowAcceptance(topology, 3, torch.device("cpu"))
    before = counted.chances()
    assert before[:, 0].tolist() == [1, 1, 1]
    torch.testing.assert_close(before[0, 1:3].float(), torch.tensor([0.65, 0.2]))
    torch.testing.assert_close(before[0, 4].float(), torch.tensor(0.65 * 0.2))
    path = torch.tensor([[0, 2, 5], [0, 1, 0], [0, 1, 3]])
    credit = torch.tensor([[True] * 3, [True] * 3, [True, False, True]])
    kept = torch.ones(3, 7, dtype=torch.bool)
    kept[1, 4] = False  # the second child of the first
    counted.learn(path, torch.tensor([3, 2, 0]), credit, kept)
    assert counted.tried.tolist() == [[2, 2], [2, 1], [0, 0]]
    assert counted.stood.tolist() == [[1, 1], [1, 0], [0, 0]]
    counted.learn(path, torch.tensor([3, 2, 3]), credit, kept)
    torch.testing.assert_close(counted.tried[:, 0].tolist(), [3.94, 3.94, 2.0])
    torch.testing.assert_close(counted.stood[:, 0].tolist(), [1.97, 1.97, 1.0])
    after = counted.chances()
    assert (after[:, 1:3] <= 1).all()
    assert (after[:, 2] <= after[:, 1]).all()


def test_a_request_that_was_given_no_draws_is_tried_again():
    counted = RowAcceptance(TreeTopology.chain(2), 1, torch.device("cpu"))
    assumed = counted.chances()
    none, every = torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    path, one = torch.zeros(1, 3, dtype=torch.long), torch.tensor([1])
    for _ in range(30):
        counted.learn(path, one, path == 0, every)
    low = counted.chances()[0, 1]
    assert low < 0.4
    for _ in range(150):
        counted.learn(path, one, path == 0, none)
    assert low < counted.chances()[0, 1] <= assumed[0, 1]
    torch.testing.assert_close(counted.chances(), assumed, atol=0.05, rtol=0)


def test_a_request_whose_draws_stand_gets_more_of_the_budget():
    """One request repeats itself as its draft does; the other's draft is noise."""
    model = toy_target()
    session = session_of(model, 60, 1.0, prompts=[[3, 1], [3, 1]])
    config = SpecInferConfig(widths=[2, 1, 1, 1], max_verify_tokens=7)
    drafter = build(config, session)
    drafter.start(session)
    always = torch.tensor([[0, 1, 3, 5, 7], [0, 0, 0, 0, 0]])
    for _ in range(12):
        every = torch.ones(2, drafter.topology.num_nodes, dtype=torch.bool)
        drafter._acceptances[0].learn(always, torch.tensor([5, 1]), always >= 0, every)
    kept = allot(
        drafter._acceptances[0].chances(),
        torch.arange(9).expand(2, -1) > 0,
        torch.tensor(5),
    )
    assert kept[0].sum() > kept[1].sum()


# What a planner asks.


class _Profile:
    greedy, overhead, max_nodes = True, 0.001, 16
    drafts: ClassVar = {"shipped": {}, "other": {"draft": "other", "bits": 4}}

    def target(self, nodes):
        return 0.01 + 0.0001 * nodes

    def draft(self, draft, kind, nodes):
        return 0.001


def test_candidates_are_trees_of_every_draft_that_fit_the_profile():
    vector = AcceptanceVector((0.6, 0.2))
    asked = []

    def acceptance(draft, kind, proposal):
        asked.append((draft, kind, proposal))
        return vector

    offered = candidates(_Profile(), acceptance)
    assert set(asked) == {(name, "independent", Proposal.POINT_MASS) for name in _Profile.drafts}
    assert 6 <= len(offered) <= 20
    named = [one.settings.get("draft", "shipped") for one in offered]
    assert named.count("other") == named.count("shipped") == len(offered) / 2
    for one in offered:
        shape = TreeTopology.expansion(one.settings["widths"])
        assert one.nodes == shape.num_nodes <= 16
        assert one.expected_tokens == pytest.approx(vector.expected_tokens(shape))
        levels = shape.num_levels - 1
        assert one.seconds == pytest.approx(0.001 * levels + 0.01 + 0.0001 * one.nodes + 0.001)
    assert candidates(_Profile(), lambda draft, kind, proposal: None) == []


# What is refused.


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"widths": []}, "drafting.widths"),
        ({"widths": [0]}, "drafting.widths"),
        ({"max_verify_tokens": -1}, "drafting.max_verify_tokens"),
        ({"max_verify_tokens": 0}, "drafting.max_verify_tokens"),
        ({"max_verify_tokens": 1}, "drafting.max_verify_tokens"),
        ({"proposal": "without_replacement"}, "drafting.proposal"),
        ({"proposal": "best"}, "drafting.proposal"),
        ({"temperature": 0.0}, "drafting.temperature"),
        ({"drafts": [""]}, "drafting.drafts"),
        ({"drafts": [7]}, "drafting.drafts"),
        ({"drafts": [{"model": "a"}]}, "drafting.drafts"),
        ({"drafts": [{"temperature": 0.5}]}, "drafting.drafts"),
        ({"drafts": [{"draft": "a", "temperature": 0}]}, "drafting.drafts"),
        ({"drafts": [{"draft": "a", "temperature": "hot"}]}, "drafting.drafts"),
        ({"drafts": [{"draft": "a", "temperature": True}]}, "drafting.drafts"),
        ({"drafts": [{"draft": "a", "temperature": float("inf")}]}, "drafting.drafts"),
        ({"drafts": ["a", "b"], "bits": 5}, "drafting.bits"),
    ],
)
def test_wrong_settings_are_refused_with_their_name_and_a_remedy(settings, setting):
    with pytest.raises(UserError) as caught:
        SpecInferConfig(**settings)
    assert caught.value.setting == setting
    assert caught.value.remedy


def test_drafts_take_their_own_temperature_or_that_of_all():
    config = SpecInferConfig(drafts=["a", {"draft": "b", "temperature": 2}], temperature=0.5)
    assert [(e.draft, e.temperature) for e in config.entries()] == [("a", 0.5), ("b", 2.0)]
    assert [e.draft for e in SpecInferConfig(draft="one").entries()] == ["one"]


def test_a_draft_that_cannot_be_loaded_is_named_by_the_setting_that_names_it():
    session = session_of(toy_target(), 4)

    def refused(name, kind):
        raise UserError("there is no such draft file", setting="drafting.draft", remedy="look")

    session.load_draft = refused
    with pytest.raises(UserError) as caught:
        build(SpecInferConfig(drafts=["a", "b"]), session)
    assert caught.value.setting == "drafting.drafts"


def test_a_merged_tree_larger_than_the_cache_is_refused_and_a_budget_makes_it_fit():
    session = session_of(toy_target(), 4, max_len=24)
    widths = [4, 2]  # 13 nodes of one draft, 25 of two
    with pytest.raises(UserError, match="25 nodes, and the cache holds 24 tokens") as caught:
        build(SpecInferConfig(widths=widths, drafts=TWO), session)
    assert caught.value.setting == "drafting.widths"
    assert "cache.max_len" in caught.value.remedy
    build(SpecInferConfig(widths=widths, drafts=TWO, max_verify_tokens=24), session)
    build(SpecInferConfig(widths=widths), session)


def test_more_children_than_a_draft_has_words_are_refused():
    session = session_of(toy_target(), 4)
    with pytest.raises(UserError, match="8 children"):
        build(SpecInferConfig(widths=[8]), session)
