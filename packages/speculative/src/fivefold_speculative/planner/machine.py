"""What passes cost on this machine: measured when first asked for, remembered in the cache."""

from __future__ import annotations

import json
import os
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fivefold import UserError
from fivefold.version import __version__
from fivefold_lm import KVCache, Offload, TreeForward, offload_of
from fivefold_lm.kernels import speedup_of
from torch import nn

from .._words import Proposal, Rule
from ..config import AutoConfig
from ..corrector import NoCorrection
from ..decode import decode
from ..draft_model import DraftKind, DraftModel
from ..drafter import Drafter
from ..drafters.feature_head import FeatureHeadDrafter
from ..drafters.model_tree import ModelTreeDrafter, draft_law_sampler
from ..drafters.none import PlainDrafter
from ..measuring import draft_fingerprint
from ..record import Request
from ..rules import rule_for
from ..session import Session
from ..topology import TreeTopology
from .notes import note_path, write_note

TARGET_NODES = (1, 2, 4, 8, 16, 32, 64, 128)
STREAMED_NODES = (*TARGET_NODES, 256, 512, 1024, 2048)
"""Of a target whose layers come anew with every pass: there, large trees are worth it."""
DRAFT_NODES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (192, 768, 3072)
"""Tokens before the nodes of a measured pass; the first: a short prompt and half an answer."""
_TRIES = 7
_FEWEST = 3
_LONG = 3.0
"""Seconds after which no more than the fewest tries of a pass are made."""
_STEPS = 16  # that are decoded to see what a step costs beside its passes
_FOLDER = "profiles"
_WIDTHS = (2, 1)  # of the tree of those steps


class MachineProfile:
    """What passes cost for one model, batch and sampler (see `candidates.Profile`).

    Args:
        session: its model, batch, sampler, attention and drafts are the ones measured.
        config: names the drafts.
    """

    def __init__(self, session: Session, config: AutoConfig) -> None:
        self._session = session
        self._config = config
        self._offload = _streams(session.model.module)
        self._nodes = TARGET_NODES if self._offload is None else STREAMED_NODES
        self._path = _path(session)
        self._known: dict[str, float] = _read(self._path)

    @property
    def key(self) -> str:
        """Names everything that the times depend on."""
        return self._path.stem if self._path is not None else ""

    @property
    def drafts(self) -> dict[str, dict[str, Any]]:
        """What may draft, and the settings by which a method takes it."""
        return {name: self._config.settings_of(name) for name in self._config.draft_names()}

    @property
    def link(self) -> float | None:
        """Bytes a second at which the target's layers come; `None`: they all stay."""
        offload = self._offload
        return None if offload is None else self._once("link", lambda: self._link(offload))

    @property
    def greedy(self) -> bool:
        """Whether the sampler takes the argmax."""
        return self._session.sampler.greedy

    @property
    def max_nodes(self) -> int:
        """The most nodes that were measured, or that the context has room for."""
        return min(self._nodes[-1], self._session.model.context_len // 2)

    @property
    def plain(self) -> float:
        """Seconds of a step of plain decoding."""
        return self.target(1) + self._once("plain", lambda: self._beside(PlainDrafter(), 0.0))

    @property
    def overhead(self) -> float:
        """Seconds of a drafting step beside its passes; of a plain one where there is no draft."""
        return self._once("overhead", self._overhead)

    def target(self, nodes: int) -> float:
        """Return the seconds of a target pass over so many nodes a row."""
        return self._between(nodes, self._nodes, "target", self._target)

    def draft(self, draft: str, kind: str, nodes: int) -> float:
        """Return the seconds of a pass of a draft over so many nodes a row.

        Raises:
            UserError: there is no such draft.
        """
        loaded = self._session.load_draft(self._config.source_of(draft), DraftKind(kind))
        name = f"draft {draft_fingerprint(loaded)}"
        return self._between(nodes, DRAFT_NODES, name, lambda n: self._draft(loaded, n))

    # Measuring.

    def _between(
        self, nodes: int, grid: tuple[int, ...], name: str, measure: Callable[[int], float]
    ) -> float:
        """Measure the two nearest numbers of nodes; go straight from one to the other."""
        place = min(bisect_left(grid, nodes), len(grid) - 1)
        high = self._at(place, grid, name, measure)
        if nodes == grid[place] or place == 0:
            return high
        low = self._at(place - 1, grid, name, measure)
        share = (nodes - grid[place - 1]) / (grid[place] - grid[place - 1])
        return max(low + share * (high - low), low)

    def _at(
        self, place: int, grid: tuple[int, ...], name: str, measure: Callable[[int], float]
    ) -> float:
        """Return the seconds of a measured number of nodes.

        No more nodes that were measured can have been faster: then something else ran meanwhile.
        """
        own = self._once(f"{name} {grid[place]}", lambda: measure(grid[place]))
        more = [self._known.get(f"{name} {nodes}", own) for nodes in grid[place + 1 :]]
        return min([own, *more])

    def _once(self, name: str, measure: Callable[[], float]) -> float:
        if name not in self._known:
            self._known[name] = measure()
            write_note(self._path, self._known)
        return self._known[name]

    def _target(self, nodes: int) -> float:
        model, attention = self._session.model, self._session.attention
        context = context_of(self._session)
        cache = attention.make_cache(model, self._session.batch, context + nodes)
        forward = TreeForward(model.module, attention)
        return self._pass(forward, cache, context, nodes, lambda tokens, _: {"tokens": tokens})

    def _draft(self, draft: DraftModel, nodes: int) -> float:
        context = min(context_of(self._session), draft.context_len // 4)
        cache = KVCache.for_module(draft.module, self._session.batch, context + nodes)
        hidden_size = int(self._session.model.module.config.get_text_config().hidden_size)

        def inputs(tokens: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
            if draft.embed is None:
                return {"tokens": tokens}
            features = torch.zeros(*tokens.shape, hidden_size, dtype=dtype, device=tokens.device)
            return {"tokens": None, "inputs_embeds": draft.embed(tokens, features)}

        return self._pass(draft.forward(), cache, context, nodes, inputs, draft)

    def _pass(
        self,
        forward: TreeForward,
        cache: KVCache,
        context: int,
        nodes: int,
        inputs: Callable[[torch.Tensor, torch.dtype], Mapping[str, torch.Tensor | None]],
        draft: DraftModel | None = None,
    ) -> float:
        """Return the median seconds of a pass over a chain of nodes behind a context."""
        batch, device = self._session.batch, self._session.model.device
        words = min(self._session.model.vocab_size, 1000)
        text = torch.arange(batch * (context + nodes), device=device).view(batch, -1) % words
        lengths = torch.full((batch,), context, device=device)
        depths = torch.arange(nodes, device=device).expand(batch, -1)
        seen = torch.ones(nodes, nodes, dtype=torch.bool, device=device).tril()
        seen = seen.expand(batch, -1, -1)
        seconds: list[float] = []
        with torch.inference_mode(), self._session.own_threads():
            given = inputs(text[:, :context], forward.dtype)
            forward.prefill(cache, given["tokens"], lengths, given.get("inputs_embeds"))
            while len(seconds) <= _TRIES and (len(seconds) < _FEWEST or sum(seconds) < _LONG):
                _wait(device)
                begin = time.perf_counter()
                given = inputs(text[:, context:], forward.dtype)
                own_head = draft is None or draft.head is None
                rows = forward(
                    cache,
                    given["tokens"],
                    depths,
                    seen,
                    given.get("inputs_embeds"),
                    want_hidden=not own_head,
                    want_logits=own_head,
                )
                if draft is not None:
                    draft.logits(rows.logits, rows.hidden)
                _wait(device)
                seconds.append(time.perf_counter() - begin)
                cache.rewind(lengths)
        return median(seconds[1:])

    def _link(self, offload: Offload) -> float:
        before = offload.done()
        self._target(1)
        after = offload.done()
        return (after.nbytes - before.nbytes) / (after.t_stream - before.t_stream)

    def _overhead(self) -> float:
        for name, kind in product(self._config.draft_names(), DraftKind):
            try:
                draft = self._session.load_draft(self._config.source_of(name), kind)
            except UserError:
                continue
            tree = TreeTopology.expansion(_WIDTHS)
            proposal = Proposal.POINT_MASS if self.greedy else Proposal.WITHOUT_REPLACEMENT
            sampler = draft_law_sampler(self._session.sampler, draft)
            make = ModelTreeDrafter if draft.embed is None else FeatureHeadDrafter
            drafter = make(draft, tree, proposal, sampler)
            passes = sum(self.draft(name, kind, n) for n in (drafter.num_late, 2))
            return self._beside(drafter, passes)
        return self.plain - self.target(1)

    def _beside(self, drafter: Drafter, drafting: float) -> float:
        """Return the seconds of a decoded step beside the target's pass and those of the draft."""
        own = self._session
        prompt = own.tokens[0][: max(own.model.context_len // 4, 1)]
        tokens = min(2 * _STEPS, own.model.context_len - len(prompt))
        requests = [Request(prompt, tokens, key=row) for row in range(own.batch)]
        model = own.model
        session = Session(
            model, requests, own.sampler, own.attention, text=False, load_draft=own.load_draft
        )
        session.reserve(2 * len(_WIDTHS) + 3)
        rule = rule_for(Rule.AUTO, drafter, session.sampler)
        beside = []
        before, begin = 0.0, time.perf_counter()
        for _ in islice(decode(session, drafter, rule, NoCorrection()), _STEPS):
            spent = session.timing.metrics().get("t_target", 0.0)
            beside.append(time.perf_counter() - begin - (spent - before))
            before, begin = spent, time.perf_counter()
        return max(median(beside[1:] or beside) - drafting, 0.0)


def context_of(session: Session) -> int:
    """Return the tokens behind which passes are measured: a bucket of the prompts' length."""
    longest = max(map(len, session.tokens))
    bucket = next((some for some in CONTEXTS if longest <= 2 * some), CONTEXTS[-1])
    return min(bucket, session.model.context_len // 4)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _path(session: Session) -> Path | None:
    """Return where times are remembered; `None` where no cache folder can be written."""
    model, sampler = session.model, session.sampler
    speedup = speedup_of(model.module)
    named = [
        model.fingerprint,
        str(model.dtype),
        device_name(model.device),
        "torch" if speedup is None else speedup.kernels.name,
        session.attention.name,
        torch.get_num_threads(),
        session.batch,
        sampler.greedy,
        context_of(session),
        _streaming(model.module),
        torch.__version__,
        __version__,
    ]
    return note_path(_FOLDER, named)


def _streams(module: nn.Module) -> Offload | None:
    """Return what streams a model's layers, `None` where each of them stays."""
    offload = offload_of(module)
    return offload if offload is not None and offload.bytes_per_pass else None


def _streaming(module: nn.Module) -> list[str | int | float]:
    """Return what the time of a pass with streamed layers depends on."""
    offload = _streams(module)
    if offload is None:
        return []
    about = offload.about
    return [about.where, about.reads, about.rate, offload.bytes_per_pass]


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor with its number of cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _read(path: Path | None) -> dict[str, float]:
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        return {str(name): float(seconds) for name, seconds in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # none yet, or damaged: measured anew
