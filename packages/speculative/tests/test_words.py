"""Which rule goes with which proposal; decided without torch."""

import itertools

import pytest
from fivefold import UserError
from fivefold_speculative import Proposal, Rule, check_rule
from fivefold_speculative._words import VALID_FOR, choose_rule, proposals_of
from fivefold_speculative.config import ChainConfig, ExpansionConfig

LEGAL = {
    (Rule.POINT_MASS, Proposal.POINT_MASS),
    (Rule.MULTI_STEP, Proposal.SAMPLED),
    (Rule.WITHOUT_REPLACEMENT, Proposal.WITHOUT_REPLACEMENT),
    *((rule, Proposal.EMPTY) for rule in VALID_FOR),
    *((rule, proposal) for rule in (Rule.GREEDY, Rule.LOOKUP) for proposal in Proposal),
}


@pytest.mark.parametrize(("rule", "proposal"), list(itertools.product(VALID_FOR, Proposal)))
def test_only_lossless_pairs_are_taken(rule, proposal):
    if (rule, proposal) in LEGAL:
        check_rule(rule, {proposal}, greedy=True)
    else:
        with pytest.raises(UserError, match=r"lossless .*rule=auto"):
            check_rule(rule, {proposal}, greedy=True)


def test_the_greedy_rule_is_refused_for_sampling():
    with pytest.raises(UserError, match="temperature"):
        check_rule(Rule.GREEDY, {Proposal.POINT_MASS}, greedy=False)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match=r"rule=best"):
        check_rule("best", {Proposal.EMPTY}, greedy=False)


@pytest.mark.parametrize(
    ("proposal", "rule"),
    [
        (Proposal.EMPTY, Rule.LOOKUP),
        (Proposal.POINT_MASS, Rule.LOOKUP),
        (Proposal.SAMPLED, Rule.MULTI_STEP),
        (Proposal.WITHOUT_REPLACEMENT, Rule.WITHOUT_REPLACEMENT),
    ],
)
def test_auto_takes_the_rule_of_the_proposal(proposal, rule):
    assert choose_rule("auto", proposal, greedy=False) is rule
    assert choose_rule("auto", proposal, greedy=True) is Rule.GREEDY


def test_settings_narrow_what_a_method_provides():
    config = ChainConfig(proposal="sampled")
    assert proposals_of(config, set(Proposal), greedy=False) == {Proposal.SAMPLED}
    assert proposals_of(ExpansionConfig(), set(), greedy=True) == {Proposal.POINT_MASS}
    assert proposals_of(object(), {"sampled"}, greedy=True) == {"sampled"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"proposal": "best"}, r"drafting\.proposal"),
        ({"temperature": 0.0}, r"drafting\.temperature"),
        ({"draft": ""}, r"drafting\.draft"),
        ({"length": 0}, r"drafting\.length"),
        ({"bits": 1, "draft": "quantised"}, r"no such number of bits.*drafting\.bits=1"),
        ({"bits": 5}, r"the draft is shipped \(drafting\.bits=5\).*drafting\.draft=quantised"),
    ],
)
def test_settings_out_of_range_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        ChainConfig(**values)


@pytest.mark.parametrize("made", [set(), {"telepathy"}])
def test_a_rule_is_refused_for_a_method_whose_proposals_nobody_knows(made):
    with pytest.raises(UserError, match=r"lossless for .* proposals"):
        check_rule("multi_step", made, greedy=False)


def test_a_tree_of_nothing_but_a_root_is_refused():
    with pytest.raises(UserError, match="nothing but a root"):
        ExpansionConfig(widths=[])
