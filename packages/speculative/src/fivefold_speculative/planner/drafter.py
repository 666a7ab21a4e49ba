"""`drafting=auto`: the planned method, watched, and plain decoding where it does not pay."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fivefold import UserError
from torch import Tensor

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
from .offers import PLAIN
from .plans import Plan, make_plan, write

_DOUBT = 8.0
"""Steps that the plan's promise counts for, beside what was seen."""
_MEMORY = 24.0
"""Steps that are remembered of what was seen."""


class AutoDrafter:
    """Draft by the planned method for as long as it yields more than plain decoding.

    Each row decides for itself, between two steps and by its own tokens that are written already:
    the law of its text stays the target's, whatever its batch mates do. The rest of its text is
    then decoded plainly, and the draft rests once no row drafts; the next text begins with the
    plan again.

    Args:
        inner: the planned method; plain decoding if nothing pays.
        plan: what it was chosen from.
        path: the file that remembers the plan.
        adapts: whether to stop drafting where it does not pay.
    """

    def __init__(self, inner: Drafter, plan: Plan, path: Path | None, adapts: bool) -> None:
        self.inner = inner
        self.plan = plan
        self._path = path
        self._adapts = adapts
        self._since, self._tokens = 0.0, 0
        self._rows: list[_Yield] = []
        self._drafting: Tensor | None = None

    @property
    def proposal(self) -> Proposal:
        """How children come about; a tree of nothing but its root suits every rule."""
        return self.inner.proposal

    @property
    def drafting(self) -> list[bool]:
        """Which rows still draft."""
        return [row.drafts for row in self._rows]

    @property
    def needs_hidden(self) -> bool:
        """Whether the planned method reads the target's hidden states."""
        return self.inner.needs_hidden

    def start(self, session: Session) -> None:
        """Read the prompts, and begin with the plan again."""
        self._since, self._tokens = 0.0, 0
        best, drafts = self.plan.best, self.plan.best.method != PLAIN
        self._rows = [
            _Yield(_DOUBT, _DOUBT * best.tokens_a_step, drafts) for _ in range(session.batch)
        ]
        self._drafting = None
        self.inner.start(session)

    def propose(self, state: DecodeState) -> TokenTree:
        """Return the planned method's trees, or a root alone where no row drafts."""
        self._since = self._since or time.perf_counter()
        if not any(self.drafting):
            return TokenTree.rooted(state.last_token, TreeTopology.root())
        tree = self.inner.propose(state)
        if self._drafting is not None:
            tree.uproot(~self._drafting)
        return tree

    def observe(self, outcome: StepOutcome) -> None:
        """Tell the method what stood, and see of each row whether drafting still pays."""
        self._tokens += sum(map(len, outcome.new_tokens))
        if any(self.drafting):
            self.inner.observe(outcome)
            self._weigh(outcome)
        if not outcome.alive:
            self._remember()

    def _weigh(self, outcome: StepOutcome) -> None:
        """Count a step; a row whose steps are not worth their time goes on plainly."""
        before = self.drafting
        plain = self.plan.plain
        least = plain.tokens_a_step / plain.seconds_a_step * self.plan.best.seconds_a_step
        for row, tokens in zip(self._rows, outcome.new_tokens, strict=True):
            row.count(len(tokens))
            if self._adapts and row.rate < least:
                row.drafts = False
        for row, finished in zip(self._rows, outcome.finished, strict=True):
            row.drafts = row.drafts and not finished
        after = self.drafting
        if after != before:
            self._drafting = torch.tensor(after, device=outcome.count.device)

    def _remember(self) -> None:
        """Write down the tokens a second of the whole text, after its prompt."""
        if self._tokens:
            measured = self._tokens / (time.perf_counter() - self._since)
            self.plan = self.plan.after(self.plan.chosen, measured)
            write(self._path, self.plan)


@dataclass
class _Yield:
    """What the steps of a row yielded, older ones fading.

    Args:
        steps: counted.
        tokens: of them.
        drafts: whether the row still drafts.
    """

    steps: float
    tokens: float
    drafts: bool

    @property
    def rate(self) -> float:
        """Tokens a step."""
        return self.tokens / self.steps

    def count(self, tokens: int) -> None:
        """Count a step."""
        fading = 1 - 1 / _MEMORY
        self.steps, self.tokens = self.steps * fading + 1, self.tokens * fading + tokens


def build(config: AutoConfig, session: Session) -> AutoDrafter:
    """Build `drafting=auto`: plan, or find the plan, and build what was chosen.

    Raises:
        UserError: `drafting.methods` names none that is installed, or a draft that is named cannot
            be loaded.
    """
    plan, path = make_plan(session, config)
    best = plan.best
    session.say_once(f"drafting=auto takes {best.label}")
    if best.method == PLAIN:
        return AutoDrafter(PlainDrafter(), plan, path, config.adapts)
    try:
        inner: Drafter = choose("drafting", best.method, best.settings).build(session)
    except UserError as error:
        session.say(f"drafting={best.method} was planned and cannot be built: {error}")
        return AutoDrafter(PlainDrafter(), replace(plan, chosen=0), None, config.adapts)
    return AutoDrafter(inner, plan, path, config.adapts)
