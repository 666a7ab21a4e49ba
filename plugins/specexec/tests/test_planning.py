"""What SpecExec promises the planner, against enumeration; what is refused in its settings."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from fivefold import UserError
from fivefold_lm import FullAttention, Sampler, SamplingConfig
from fivefold_lm.testing import tiny_model
from fivefold_specexec import SpecExecConfig, fivefold_drafting
from fivefold_specexec.drafter import build, candidates
from fivefold_specexec.planning import expected
from fivefold_speculative import AcceptanceVector, Request, Session, check_rule
from fivefold_speculative.toy import ToyDrafts

VECTOR = AcceptanceVector((0.5, 0.2, 0.1))


@dataclass
class Machine:
    """Costs of passes by simple laws, in seconds."""

    one_target: float = 1.0
    a_node: float = 0.0
    one_draft: float = 0.01
    greedy: bool = True
    overhead: float = 0.0
    max_nodes: int = 64
    drafts: dict = field(default_factory=lambda: {"shipped": {}})

    def target(self, nodes):
        return self.one_target + self.a_node * nodes

    def draft(self, draft, kind, nodes):
        return self.one_draft


def source(draft, kind, proposal):
    return VECTOR if kind == "independent" else None


@pytest.mark.parametrize("budget", [2, 5, 16, 40])
def test_expected_tokens_are_the_sum_of_the_best_products(budget):
    products = [1.0]
    for depth in range(1, 9):
        for path in itertools.product(VECTOR.probs, repeat=depth):
            product = 1.0
            for chance in path:
                product *= chance
            products.append(product)
    best = sorted(products, reverse=True)[:budget]
    tokens, widths = expected(VECTOR.probs, SpecExecConfig(budget=budget, decay=1.0, max_iters=8))
    assert tokens == pytest.approx(sum(best), rel=1e-12)
    assert widths[0] == 1
    assert len(widths) <= 8


def test_a_narrow_frontier_costs_passes_and_no_tokens():
    wide, few = expected(VECTOR.probs, SpecExecConfig(budget=24, max_iters=999))
    slim, many = expected(VECTOR.probs, SpecExecConfig(budget=24, max_iters=999, frontier=1))
    assert wide == pytest.approx(slim)
    assert len(many) > len(few)
    assert max(many) == 1


def test_candidates_can_be_built_and_cost_what_their_passes_do():
    found = candidates(Machine(), source)
    assert [each.nodes for each in found] == [2, 4, 8, 16, 32, 64]
    for each in found:
        assert each.settings["budget"] == each.nodes
        tokens, widths = expected(VECTOR.probs, SpecExecConfig(**each.settings))
        assert each.expected_tokens == tokens
        assert each.seconds == pytest.approx(1.0 + 0.01 * len(widths))
    assert all(a.expected_tokens < b.expected_tokens for a, b in itertools.pairwise(found))


def test_where_a_draft_costs_as_much_as_the_target_plain_decoding_is_better():
    # Issue 2 of the source: on a CPU, 24 tokens a pass were slower than one.
    plain = 1.0
    assert all(each.rate < plain for each in candidates(Machine(one_draft=1.0), source))


def test_where_the_target_streams_large_budgets_are_better():
    streaming = candidates(Machine(one_target=1.0, a_node=1e-4, one_draft=0.01), source)
    in_memory = candidates(Machine(one_target=0.02, a_node=0.002, one_draft=0.004), source)

    def best(found):
        return max(found, key=lambda each: each.rate).nodes

    assert best(streaming) > best(in_memory)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("budget", 0),
        ("budget", 1),
        ("budget", -3),
        ("budget", 100_000),
        ("frontier", 0),
        ("branch", 0),
        ("max_iters", 0),
        ("decay", 0.0),
        ("decay", 1.1),
        ("decay", float("nan")),
        ("min_logp", 0.5),
        ("min_logp", float("nan")),
        ("lm_head_chunk", -1),
        ("bits", 1),
        ("kind", "head"),
        ("draft", ""),
    ],
)
def test_settings_that_no_tree_can_have_are_refused_by_name(setting, value):
    with pytest.raises(UserError) as refused:
        SpecExecConfig(**{setting: value})
    assert refused.value.setting == f"drafting.{setting}"
    assert refused.value.remedy
    assert "\n" not in str(refused.value)


def test_rules_that_would_not_be_lossless_are_refused_before_a_model_is_loaded():
    made = fivefold_drafting()[0].provides
    for rule in ("auto", "lookup", "point_mass"):
        check_rule(rule, made, greedy=False)
    for rule in ("multi_step", "without_replacement"):
        with pytest.raises(UserError, match=r"point_mass"):
            check_rule(rule, made, greedy=False)


def test_chunks_are_chosen_by_the_memory_of_all_logits():
    config = SpecExecConfig(budget=2048)
    assert config.head_chunk(1, 128_000) * 128_000 * 4 <= 64 << 20
    assert config.head_chunk(1, 1000) == 0
    assert SpecExecConfig(budget=64).head_chunk(1, 49_152) == 0
    assert SpecExecConfig(budget=2048, lm_head_chunk=0).head_chunk(9, 128_000) == 0
    assert SpecExecConfig(lm_head_chunk=7).head_chunk(1, 8) == 7


def session_of(model, **more):
    requests = [Request([3, 1], 8)]
    sampler = Sampler(SamplingConfig(), vocab_size=model.vocab_size)
    return Session(
        model, requests, sampler, FullAttention(), text=False, load_draft=ToyDrafts(model), **more
    )


def test_the_cache_has_room_for_the_whole_budget():
    session = session_of(tiny_model(vocab=40, max_position_embeddings=512))
    assert session.capacity < 300
    build(SpecExecConfig(budget=300), session)
    assert session.cache.max_len >= 300


def test_a_draft_that_reads_less_than_the_text_is_refused():
    model = tiny_model(vocab=40)
    session = session_of(model)
    drafter = build(SpecExecConfig(budget=8), session)
    drafter.draft.context_len = 5
    with pytest.raises(UserError, match=r"the draft reads 5 tokens"):
        drafter.start(session)
