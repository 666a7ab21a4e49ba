"""A session: one batch of requests, the target with its cache, and what is written so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from fivefold import UserError
from fivefold_kernels.native.threads import own_threads
from fivefold_lm import (
    AttentionMethod,
    Capability,
    KVCache,
    LanguageModel,
    RandomStream,
    Rows,
    Sampler,
    TextStream,
    TreeForward,
)
from jaxtyping import Float, Int
from torch import Tensor

from ._counted import counted
from .draft_model import DraftKind, DraftLoader, DraftModel
from .outcome import Accepted, StepOutcome, TokenLogprob
from .record import Record, Request
from .row import Report, Row
from .state import DecodeState
from .timing import Timing
from .topology import TreeTopology
from .tree import TokenTree

_HEADROOM = 64
_said: set[str] = set()
"""What was said once already, in this process."""


class Session:
    """What a drafter, a rule and the loop share while a batch is decoded.

    Args:
        model: the target.
        requests: one a row.
        sampler: makes the target's law out of logits; its seed is the noise's.
        attention: how the target attends and caches.
        max_len: most tokens a row may hold; 0: the model's context.
        logprobs: record each new token's logarithm of probability and that many alternatives;
            negative: none of it.
        text: make text as tokens come (always made for requests with stop strings).
        load_draft: where drafters get their draft models; keep one to load each only once.
        say: told what takes time.

    Raises:
        UserError: an empty prompt, or one that leaves no room in the context.
    """

    def __init__(
        self,
        model: LanguageModel,
        requests: Sequence[Request],
        sampler: Sampler,
        attention: AttentionMethod,
        *,
        max_len: int = 0,
        logprobs: int = -1,
        text: bool = True,
        load_draft: Callable[[str, DraftKind], DraftModel] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.attention = attention
        self.load_draft = load_draft or DraftLoader(model)
        self.say = say
        self.timing = Timing(model.device)
        self.cancelled = False
        self.prompt_hidden: Float[Tensor, "batch token hidden"] | None = None
        self._target = TreeForward(model.module, attention)
        self._limit = min(max_len or model.context_len, model.context_len)
        self._limit_setting = "cache.max_len" if 0 < max_len < model.context_len else "prompt"
        self._headroom = _HEADROOM
        self._logprobs = min(logprobs, model.vocab_size)
        self._text = text
        self._want_hidden = False
        self._head_chunk = 0
        self._cache: KVCache | None = None
        self.reused = [0] * len(requests)
        self._begin(requests)

    # What drafters and tasks look at.

    @property
    def cache(self) -> KVCache:
        """The target's cache: all committed tokens but the last of each row."""
        if self._cache is None:
            slots = self.capacity + self._headroom
            self._cache = self.attention.make_cache(self.model, self.batch, slots)
        return self._cache

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def tokens(self) -> list[list[int]]:
        """Committed tokens of each row, prompt first."""
        return [row.tokens for row in self.rows]

    @property
    def records(self) -> list[Record]:
        """The answers as far as they are written, with their figures."""
        return [row.record for row in self.rows]

    @property
    def capacity(self) -> int:
        """Most tokens that any row will hold, prompt included."""
        wanted = max(row.record.prompt_len + row.request.max_new_tokens for row in self.rows)
        return min(wanted, self._limit)

    def reserve(self, nodes: int) -> None:
        """Make room in the target's cache for trees of so many nodes, the root included."""
        self._headroom = max(self._headroom, nodes)

    def chunk_head(self, nodes: int) -> None:
        """Let the target's output layer score at most so many nodes at a time; 0: all at once.

        For trees whose logits would not fit: rules then draw inside a chunk, or score only the
        nodes that they visit.
        """
        self._head_chunk = nodes

    def prefetch_target(self) -> None:
        """Begin to load the weights that the next target pass reads first, where they stream."""
        self._target.prefetch()

    def require(self, topology: TreeTopology, setting: str) -> None:
        """Refuse a tree that the target cannot verify, and make room for one that it can.

        Raises:
            UserError: with the model's reason, and a chain as the way out where it has one.
        """
        wanted = Capability.CROPPABLE if topology.is_chain else Capability.TREE_ATTENTION
        if wanted not in self.model.capabilities:
            can_chain = Capability.CROPPABLE in self.model.capabilities
            raise UserError(
                f"{self.model.name} cannot verify this tree: {self.model.why_not[wanted]}",
                setting=setting,
                remedy="choose drafting=chain" if can_chain else "choose another model",
            )
        self.reserve(topology.num_nodes)

    def require_room(self, nodes: int, setting: str) -> None:
        """Refuse a tree of more nodes, the root included, than a row may hold tokens.

        It could be verified all the same; but nobody means it, and a planned size is a mistake.

        Raises:
            UserError: with both numbers.
        """
        if nodes <= self._limit:
            return
        is_context = self._limit_setting == "prompt"
        raise UserError(
            f"the tree has {nodes} nodes, and the {'context' if is_context else 'cache'} holds "
            f"{self._limit} tokens",
            setting=setting,
            remedy="give it fewer nodes" + ("" if is_context else ", or raise cache.max_len"),
        )

    def say_once(self, note: str) -> None:
        """Say what a drafter has to say when it is built, once: it is built for every batch."""
        if note not in _said:
            _said.add(note)
            self.say(note)

    # One call of `decode`.

    def own_threads(self) -> AbstractContextManager[None]:
        """Leave the processor's cores to the native passes, where the target has them."""
        return own_threads() if self._target.native else nullcontext()

    def extend(self, prompts: Sequence[list[int]], max_new_tokens: int | None = None) -> None:
        """Go on with new prompts; keys and values of what they share with the old are kept.

        Args:
            prompts: the whole prompt of each row, what is already cached included.
            max_new_tokens: most tokens to write; `None`: as before.

        Raises:
            UserError: as at the start of a session.
        """
        before = self.tokens
        requests = [
            replace(
                row.request,
                tokens=list(prompt),
                max_new_tokens=max_new_tokens or row.request.max_new_tokens,
            )
            for row, prompt in zip(self.rows, prompts, strict=True)
        ]
        self._begin(requests)
        # The last prompt token but one is run again: a feature head needs its hidden state.
        self.reused = [
            max(0, min(_shared(old, new) - 1, len(new) - 2))
            for old, new in zip(before, self.tokens, strict=True)
        ]

    def prefill(self, want_hidden: bool = False) -> DecodeState:
        """Run the prompts, all but their last tokens, and return where decoding starts.

        Args:
            want_hidden: keep hidden states, here and in outcomes.
        """
        self._want_hidden = want_hidden
        device = self.model.device
        self.cache.max_len = max(self.cache.max_len, self.capacity + self._headroom)
        self.cache.rewind(torch.tensor(self.reused, device=device))
        held = self.cache.lengths.tolist()  # less than the texts share where nothing was decoded
        self.reused = [min(pair) for pair in zip(self.reused, held, strict=True)]
        tails = [tokens[n:-1] for tokens, n in zip(self.tokens, self.reused, strict=True)]
        longest = max(map(len, tails))
        self.prompt_hidden = None
        if longest:
            tail_lens = torch.tensor([len(tail) for tail in tails], device=device)
            rows = self._target.prefill(
                self.cache, padded(tails, longest, device), tail_lens, want_hidden=want_hidden
            )
            self.prompt_hidden = rows.hidden
        room = self.capacity + self._headroom + 1
        tokens = padded(self.tokens, room, device)
        lengths = torch.tensor([len(row) for row in self.tokens], device=device)
        return DecodeState(
            tokens=tokens,
            lengths=lengths,
            active=torch.ones(self.batch, dtype=torch.bool, device=device),
            request=torch.tensor([row.request.key for row in self.rows], device=device),
            noise=RandomStream(self.sampler.config.seed),
            sampler=self.sampler,
            history=self.sampler.history(self.tokens, device),
            alive=True,
        )

    def verify(self, tree: TokenTree, state: DecodeState) -> Rows:
        """Run the target once over all nodes; they stay pending in the cache."""
        # Nodes past the context can emit nothing; they only must not ask for a position there.
        last = (self.model.context_len - 1 - self.cache.lengths)[:, None]
        return self._target(
            self.cache,
            tree.tokens,
            torch.minimum(tree.depths, last),
            tree.ancestors,
            want_hidden=self._want_hidden,
            head_chunk=self._head_chunk,
        )

    def settle(self, tree: TokenTree, rows: Rows, accepted: Accepted) -> StepOutcome:
        """Bring the step to the host in one copy; commit what EOS, stops and limits leave of it."""
        reports = self._to_host(tree, rows, accepted)
        taken = [
            row.take(report, self.cancelled) for row, report in zip(self.rows, reports, strict=True)
        ]
        count = accepted.count
        if any(len(r.tokens) > len(t.tokens) for r, t in zip(reports, taken, strict=True)):
            count = torch.tensor([len(t.tokens) for t in taken], device=count.device)
            lengths = torch.tensor([len(row.tokens) - 1 for row in self.rows], device=count.device)
            self.cache.rewind(lengths)
        return StepOutcome(
            new_tokens=[t.tokens for t in taken],
            text=[t.text for t in taken],
            finished=[t.finished for t in taken],
            logprobs=[r.logprobs[: len(t.tokens)] for r, t in zip(reports, taken, strict=True)]
            if self._logprobs >= 0
            else None,
            accepted=accepted,
            count=count,
            hidden=self._hidden(rows, accepted),
            active=torch.tensor([not row.record.finish_reason for row in self.rows]),
            num_nodes=tree.num_nodes,
        )

    def cancel(self) -> None:
        """End after the step that is running; safe in a signal handler."""
        self.cancelled = True

    def close(self) -> None:
        """Say of rows that are not finished that they were cancelled."""
        for row in self.rows:
            if not row.record.finish_reason:
                row.end("cancelled")

    # Inside.

    def _begin(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._check(request)
        self.cancelled = False
        self.rows = [
            Row(request, self.model.eos_ids, self._limit, self._stream(request))
            for request in requests
        ]

    def _check(self, request: Request) -> None:
        name = f" {request.id}" if request.id else ""
        if not request.tokens:
            raise UserError(
                f"prompt{name} is empty", setting="prompt", value="", remedy="give it some text"
            )
        if len(request.tokens) >= self._limit:
            raise self._too_long(f"prompt{name}", len(request.tokens))

    def _too_long(self, prompt: str, length: int) -> UserError:
        is_context = self._limit_setting == "prompt"
        said = counted(length, "token")
        holds = "the context holds" if is_context else "a row may hold"
        return UserError(
            f"{prompt} has {said}, and {holds} {self._limit}, new ones included",
            setting=self._limit_setting,
            value=said if is_context else self._limit,
            remedy="shorten it, or choose a model with a longer context"
            if is_context
            else "raise cache.max_len, or leave it out for the model's whole context",
        )

    def _stream(self, request: Request) -> TextStream | None:
        if not self._text and not request.stop:
            return None
        return TextStream(self.model.tokenizer, context=request.tokens[-8:])

    def _hidden(self, rows: Rows, accepted: Accepted) -> Float[Tensor, "batch level hidden"] | None:
        if not self._want_hidden or rows.hidden is None:
            return None
        return along(rows.hidden, accepted.path).to(self.model.dtype)

    def _to_host(self, tree: TokenTree, rows: Rows, accepted: Accepted) -> list[Report]:
        """Copy one tensor a step; whole numbers below 2^53 survive float64."""
        levels, top = accepted.tokens.shape[1], max(self._logprobs, 0)
        parts = [accepted.count[:, None], tree.valid[:, 1:].sum(1, keepdim=True), accepted.tokens]
        if self._logprobs >= 0:
            parts += _logprobs(rows, accepted, top)
        packed = torch.cat([part.double() for part in parts], dim=1).cpu()
        whole = packed[:, : 2 + levels].long().tolist()
        reports = [Report(row[2 : 2 + row[0]], row[1]) for row in whole]
        if self._logprobs >= 0:
            own, best, ids = torch.split(
                packed[:, 2 + levels :], [levels, levels * top, levels * top], dim=1
            )
            for b, report in enumerate(reports):
                for j, token in enumerate(report.tokens):
                    span = slice(j * top, (j + 1) * top)
                    pairs = zip(ids[b, span].long().tolist(), best[b, span].tolist(), strict=True)
                    report.logprobs.append(TokenLogprob(token, float(own[b, j]), list(pairs)))
        return reports


def padded(
    rows: Sequence[Sequence[int]], width: int, device: torch.device
) -> Int[Tensor, "batch width"]:
    """Return lists of tokens as one tensor, padded on the right with 0."""
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def along(
    values: Float[Tensor, "batch node dim"], path: Int[Tensor, "batch level"]
) -> Float[Tensor, "batch level dim"]:
    """Return the values at the nodes of a path."""
    return values.gather(1, path[..., None].expand(-1, -1, values.shape[-1]))


def _logprobs(rows: Rows, accepted: Accepted, top: int) -> list[Tensor]:
    """Return own, best and best tokens' log-probabilities along the path, each [batch, -1]."""
    laws = torch.stack([rows.at(node) for node in accepted.path.unbind(1)], 1).log_softmax(-1)
    best = laws.topk(top, dim=-1)
    own = laws.gather(-1, accepted.tokens[..., None])
    return [own.flatten(1), best.values.flatten(1), best.indices.flatten(1)]


def _shared(old: Sequence[int], new: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    pairs = zip(old, new, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)))
