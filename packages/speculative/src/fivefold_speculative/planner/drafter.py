"""`drafting=auto`: the planned method, watched, and plain decoding where it does not pay."""

from __future__ import annotations

import time
from pathlib import Path

from fivefold import UserError

from .._words import Proposal
from ..choosing import choose
from ..config import AutoConfig
from ..drafter import Drafter
from ..drafters.none import PlainDrafter
from ..outcome import StepOutcome
from ..session import Session
from ..state import DecodeState
from ..topology import TreeTopology
from ..tree import TokenTree
from .plans import PLAIN, Plan, make_plan, write

_DOUBT = 8.0
"""Steps that the plan's promise counts for, beside what was seen."""
_MEMORY = 24.0
"""Steps that are remembered of what was seen."""


class AutoDrafter:
    """Draft by the planned method for as long as it yields more than plain decoding.

    Whether to go on is decided between two steps, by tokens that are written already: the law of
    the text stays the target's. Once it does not pay, the rest of the text is decoded plainly; the
    next text begins with the plan again.

    Args:
        inner: the planned method; plain decoding if nothing pays.
        plan: what it was chosen from.
        path: the file that remembers the plan.
        adapts: whether to stop drafting where it does not pay.
    """

    def __init__(self, inner: Drafter, plan: Plan, path: Path | None, adapts: bool) -> None:
        self.inner = inner
        self.plan = plan
        self.is_plain = plan.best.method == PLAIN
        self._path = path
        self._adapts = adapts
        self._since, self._tokens = 0.0, 0
        self._steps = self._yield = 0.0

    @property
    def proposal(self) -> Proposal:
        """How children come about; a tree of nothing but its root suits every rule."""
        return self.inner.proposal

    @property
    def needs_hidden(self) -> bool:
        """Whether the planned method reads the target's hidden states."""
        return self.inner.needs_hidden

    def start(self, session: Session) -> None:
        """Read the prompts, and begin with the plan again."""
        self.is_plain = self.plan.best.method == PLAIN
        self._begin()
        self.inner.start(session)

    def propose(self, state: DecodeState) -> TokenTree:
        """Return the planned method's tree, or a root alone."""
        if not self._since:
            self._since = time.perf_counter()
        if self.is_plain:
            return TokenTree.rooted(state.last_token, TreeTopology.root())
        return self.inner.propose(state)

    def observe(self, outcome: StepOutcome) -> None:
        """Tell the method what stood, and see whether drafting still pays."""
        counts = [len(tokens) for tokens in outcome.new_tokens if tokens]
        self._tokens += sum(counts)
        if not self.is_plain:
            self.inner.observe(outcome)
            self._weigh(sum(counts) / max(len(counts), 1))
        if not outcome.alive:
            self._remember()

    def _begin(self) -> None:
        self._since, self._tokens = 0.0, 0
        self._steps, self._yield = _DOUBT, _DOUBT * self.plan.best.expected_tokens

    def _weigh(self, tokens: float) -> None:
        """Count a step; go on plainly where steps like the last ones are not worth their time."""
        fading = 1 - 1 / _MEMORY
        self._steps, self._yield = self._steps * fading + 1, self._yield * fading + tokens
        rate = self._yield / self._steps / self.plan.best.seconds
        if self._adapts and rate < self.plan.plain.rate:
            self.is_plain = True

    def _remember(self) -> None:
        """Write down the tokens a second of the whole text, after its prompt."""
        seconds = time.perf_counter() - self._since
        if self._tokens:
            measured = self._tokens / seconds
            self.plan = self.plan.after(self.plan.chosen, measured)
            write(self._path, self.plan)


def build(config: AutoConfig, session: Session) -> AutoDrafter:
    """Build `drafting=auto`: plan, or find the plan, and build what was chosen.

    Raises:
        UserError: `drafting.methods` names none that is installed.
    """
    plan, path = make_plan(session, config.methods, config.margin)
    best = plan.best
    if best.method == PLAIN:
        return AutoDrafter(PlainDrafter(), plan, path, config.adapts)
    try:
        inner: Drafter = choose("drafting", best.method, best.settings).build(session)
    except UserError as error:
        session.say(f"drafting={best.method} was planned and cannot be built: {error}")
        return AutoDrafter(PlainDrafter(), Plan(plan.offers, 0), None, config.adapts)
    return AutoDrafter(inner, plan, path, config.adapts)
