"""The planner over every installed method at once: a method where it pays, else plain decoding."""

from dataclasses import dataclass

import pytest
from fivefold.testing import compose
from fivefold_speculative import AcceptanceVector
from fivefold_speculative.config import AutoConfig
from fivefold_speculative.planner import plans
from fivefold_speculative.planner.machine import MachineProfile
from fivefold_speculative.testing import PROMPTS, DrafterSuite

METHODS = {"chain", "feature_head", "specinfer", "sequoia", "specexec"}
VECTOR = AcceptanceVector((0.6, 0.15, 0.08, 0.04))


@dataclass
class Machine:
    """What passes cost, by simple laws: one pass of each model, and what every further node adds.

    Args:
        target: seconds of a target pass over one node.
        node: that each further node adds to it.
        draft: seconds of a draft pass over one node; further nodes add a fiftieth of it.
    """

    target: float
    node: float
    draft: float


@pytest.fixture
def planned(monkeypatch):
    """Return the plan of all installed methods on a machine, by what its passes cost alone."""

    def plan(machine, greedy):
        costs = {
            "target": lambda self, nodes: machine.target + machine.node * (nodes - 1),
            "draft": lambda self, name, kind, nodes: machine.draft * (1 + (nodes - 1) / 50),
            "plain": machine.target,
            "overhead": 0.0,
            "max_nodes": 128,
        }
        for name, cost in costs.items():
            monkeypatch.setattr(MachineProfile, name, cost)
        monkeypatch.setattr(plans._Acceptance, "__call__", lambda self, *asked: VECTOR)
        monkeypatch.setattr(plans, "_path", lambda *asked: None)
        suite = DrafterSuite()
        run = compose("generate", [f"sampling.temperature={0.0 if greedy else 0.8}"])
        session = suite.session(run, PROMPTS[:1], 8)
        return plans.make_plan(session, AutoConfig(trials=0))[0]

    return plan


@pytest.mark.parametrize("greedy", [True, False])
def test_every_method_offers_something(planned, greedy):
    plan = planned(Machine(1.0, 0.001, 0.02), greedy)
    assert {offer.method for offer in plan.offers} == {"none", *METHODS}
    plain = [offer for offer in plan.offers if offer.method == "none"]
    assert [offer.promise for offer in plain] == [1.0]


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize(
    "machine",
    [
        Machine(1.0, 0.001, 1.0),  # a draft as dear as the target
        Machine(1.0, 1.0, 0.01),  # every node costs a whole pass
    ],
)
def test_where_nothing_pays_plain_decoding_is_taken(planned, machine, greedy):
    plan = planned(machine, greedy)
    assert plan.best.method == "none"
    assert max(plan.ratio(offer) for offer in plan.offers[1:]) < 1


@pytest.mark.parametrize("greedy", [True, False])
def test_the_dearer_a_target_pass_the_larger_the_tree(planned, greedy):
    nodes, ratios = [], []
    for draft in (0.2, 0.05, 0.002):  # of a target pass
        plan = planned(Machine(1.0, draft / 50, draft), greedy)
        assert plan.best.method != "none"
        nodes.append(plan.best.nodes)
        ratios.append(plan.ratio(plan.best))
    assert nodes == sorted(set(nodes))
    assert ratios == sorted(ratios)
    # An independent bound: no step yields more than a token a level, and one more.
    assert all(
        offer.expected_tokens <= 1 + sum(VECTOR.probs) * (offer.nodes - 1) for offer in plan.offers
    )


@pytest.mark.parametrize("greedy", [True, False])
def test_the_choice_is_the_best_promise_of_all(planned, greedy):
    plan = planned(Machine(1.0, 0.002, 0.03), greedy)
    assert plan.best.promise == max(offer.promise for offer in plan.offers)
