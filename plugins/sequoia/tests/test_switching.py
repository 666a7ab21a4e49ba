"""Sequoia inside `drafting=auto`: rows that stop drafting lose no law, and are not counted."""

import torch
from fivefold_sequoia.counting import AcceptanceCounts
from fivefold_speculative import Accepted, StepOutcome, TreeTopology
from fivefold_speculative.testing import SwitchingSuite


class TestSwitching(SwitchingSuite):
    overrides = ["drafting=sequoia", "drafting.nodes=6", "drafting.acceptance=fallback"]


def outcome(path, count):
    accepted = Accepted(torch.tensor(path), torch.tensor(count), torch.tensor(path))
    rows = len(count)
    return StepOutcome(
        new_tokens=[[1]] * rows,
        text=[""] * rows,
        finished=[None] * rows,
        logprobs=None,
        accepted=accepted,
        count=accepted.count,
        hidden=None,
        active=torch.ones(rows, dtype=torch.bool),
        num_nodes=4,
    )


def test_rows_without_a_tree_are_not_counted():
    counts = AcceptanceCounts(TreeTopology((-1, 0, 0, 1)), 2, torch.device("cpu"))
    counts.add(outcome([[0, 1, 0], [0, 0, 0]], [2, 1]), torch.tensor([True, False]))
    # Row 0 tried both children of the root, the first stood and tried its one child.
    assert counts.read() == ([1, 0], [2, 1])
