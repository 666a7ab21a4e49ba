"""The decoding loop: plain, speculative, greedy, sampled and batched decoding are all of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .corrector import Corrector
from .drafter import Drafter
from .outcome import StepOutcome
from .rules import AcceptanceRule
from .session import Session


@torch.inference_mode()
def decode(
    session: Session, drafter: Drafter, rule: AcceptanceRule, corrector: Corrector
) -> Iterator[StepOutcome]:
    """Decode until every row has stopped; the text follows the target's law alone.

    Closing the iterator, or `session.cancel()`, leaves everything committed so far consistent.

    Args:
        session: target model, KV cache, sampler and requests of this call.
        drafter: proposes a tree each step; an empty tree is plain decoding.
        rule: decides which nodes stand; valid for `drafter.proposal`.
        corrector: may overrule the rule and repair the cache; `NoCorrection` does neither.

    Yields:
        One outcome a step, on the host: new tokens per row, at most one more than the tree's depth.
    """
    timed = session.timing.run
    try:
        with session.own_threads():
            state = timed("t_prefill", session.prefill, drafter.needs_hidden)
            timed("t_prefill", drafter.start, session)
        while state.alive:
            with session.own_threads():
                tree = timed("t_draft", drafter.propose, state)
                rows = timed("t_target", session.verify, tree, state)
                accepted = timed("t_accept", corrector.judge, tree, rows, rule, state)
                timed("t_keep", corrector.repair, session.cache, accepted)
                outcome = session.settle(tree, rows, accepted)  # the step's one copy to the host
                drafter.observe(outcome)
                state = state.after(outcome)
            yield outcome
    finally:
        session.close()
