"""`fivefold bench profile=true`: where the time of a step goes, beside the machine's ceilings.

A batch is decoded as always and watched from outside: the timing of its session, native passes and
torch's hooks for modules report to a ledger. All of it is taken away again; without a profile
nothing of it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch
from fivefold import Run, UserError
from fivefold_kernels import PackedMatrix
from fivefold_kernels.ceilings import median_seconds, packed_rate, product_rate, read_bandwidth
from fivefold_kernels.decoder.cpu import STAGES, Scores
from fivefold_lm import KVCache, LanguageModel, Rows, offload_of
from fivefold_lm.attention import NAME, attention_forward, register
from fivefold_lm.kernels import speedup_of
from fivefold_lm.native import NativeDecoder
from fivefold_lm.packed import NativeProduct, PackedLinear
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ._counted import counted
from ._words import Proposal
from .draft_model import DraftKind, DraftLoader, DraftModel
from .drafter import Drafter
from .drafts.words import WordHead
from .engine import Engine
from .ledger import Ledger, Runner, Stage, Tally
from .outcome import Accepted, StepOutcome
from .record import Request
from .session import Session
from .state import DecodeState
from .timing import Timing
from .tree import TokenTree

P = ParamSpec("P")
T = TypeVar("T")
COLUMNS = ("stage", "ms_per_step", "share", "MB", "MFLOP", "share_of_ceiling")
_LARGEST = 1 << 30  # bytes that the bandwidth is measured on: far beyond the processor's caches
_SPANS = {
    "t_draft": (Stage.DRAFT_AROUND, Runner.DRAFT),
    "t_target": (Stage.TARGET_AROUND, Runner.TARGET),
    "t_accept": (Stage.ACCEPTANCE, Runner.NOBODY),
    "t_keep": (Stage.COMPACTION, Runner.NOBODY),
}
"""What each stage of the loop's timing is here; reading the prompt is no part of a step."""
PARTS = {
    "norm": "other",
    "query key value": "linear",
    "rotary": "other",
    "attention": "attention",
    "merge": "other",
    "output": "linear",
    "gate up": "linear",
    "down": "linear",
    "head": "head",
}
"""What part of a pass each stage of the native pass is."""


def refuse_accelerators(device: torch.device) -> None:
    """Refuse a device that works on while the host's clock runs.

    Raises:
        UserError: the device is not the CPU.
    """
    if device.type != "cpu":
        raise UserError(
            f"the stages of a step are timed on the CPU alone, and the model is on {device}",
            setting="profile",
            remedy="set model.device=cpu, or leave profile out",
        )


def refuse_streaming(model: LanguageModel) -> None:
    """Refuse a target whose layers are streamed: its ceiling is the link's, not the memory's.

    Raises:
        UserError: its layers are streamed.
    """
    offload = offload_of(model.module)
    if offload is not None and offload.streamer.streamed:
        raise UserError(
            "the ceilings of a step are those of weights in memory, and the target's are streamed",
            setting="profile",
            remedy="set model.offload=none, or leave profile out: result.json says what streaming "
            "took",
        )


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at best.

    Args:
        read_bandwidth: bytes a second.
        product_rate: floating-point operations a second.
    """

    read_bandwidth: float
    product_rate: float

    @classmethod
    def of(cls, model: LanguageModel) -> Ceilings:
        """Measure a read of as many bytes as a pass reads weights, and a product of matrices.

        Read by our kernels where the model computes with them, else by torch; multiplied by torch
        or, where that is faster, by our kernels in the format of the weights.
        """
        layers = [part for part in model.module.modules() if isinstance(part, nn.Linear | Conv1D)]
        size = min(sum(_read_by(layer)[0] for layer in layers), _LARGEST)
        matrix = next((own for own in map(_native_matrix, layers) if own is not None), None)
        rate = product_rate(model.dtype)
        if matrix is None:
            buffer = torch.ones(size // 4)
            return cls(buffer.nbytes / median_seconds(buffer.sum), rate)
        bandwidth = read_bandwidth(size, matrix.library)
        return cls(bandwidth, max(rate, packed_rate(matrix.format, matrix.library)))

    def __str__(self) -> str:
        """Return both in the units of data sheets."""
        read, rate = self.read_bandwidth / 1e9, self.product_rate / 1e9
        return f"{read:.1f} GB/s read, {rate:.0f} GFLOP/s in products"

    def seconds(self, work: Tally) -> float:
        """Return the least time that some work takes."""
        return max(work.bytes / self.read_bandwidth, work.flops / self.product_rate)


def show_profile(label: str, ledger: Ledger, ceilings: Ceilings, run: Run) -> None:
    """Print where the steps of a method went, and record a row a stage."""
    rows = rows_of(label, ledger, ceilings)
    for row in rows:
        run.row(**row)
    milliseconds = 1000 * ledger.seconds / max(ledger.steps, 1)
    run.figure(f"ms_per_step_{label}", milliseconds)
    title = f"{label}: {counted(ledger.steps, 'step')} of {milliseconds:.4g} ms"
    run.table(title, [row | _in_millions(row) for row in rows], COLUMNS)


def rows_of(label: str, ledger: Ledger, ceilings: Ceilings) -> list[dict[str, Any]]:
    """Return what `result.json` holds of each stage that took time; work is that of a step."""
    rows = []
    for stage, tally in ledger.tallies.items():
        if tally.seconds:
            is_counted = stage.is_counted
            rows.append(
                {
                    "method": label,
                    "stage": stage,
                    "ms_per_step": 1000 * tally.seconds / ledger.steps,
                    "share": tally.seconds / ledger.seconds,
                    "bytes": tally.bytes / ledger.steps if is_counted else None,
                    "flops": tally.flops / ledger.steps if is_counted else None,
                    "share_of_ceiling": ceilings.seconds(tally) / tally.seconds
                    if is_counted
                    else None,
                }
            )
    return rows


def decode_profiled(engine: Engine, batch: Sequence[Request], ledger: Ledger) -> Session:
    """Decode one batch as `bench` does, tell its steps to a ledger, and return its session."""
    with _watched_engine(engine, ledger) as watched:
        prepared = watched.batch(batch, text=False)
        prepared.session.timing = _WatchedTiming(ledger)
        prepared = replace(prepared, drafter=_WatchedDrafter(prepared.drafter, ledger))
        with _watched_attention(ledger):  # last, as whatever runs a decoder registers ours anew
            for _ in prepared.steps():
                pass
        ledger.end()
    return prepared.session


# ------------------------------------------------------------------------------ what is watched


@contextmanager
def _watched_engine(engine: Engine, ledger: Ledger) -> Iterator[Engine]:
    """Watch the passes of the target, and of every draft that is loaded meanwhile."""
    load = engine.drafts or DraftLoader(engine.model)
    heads: list[object] = [engine.model.module.get_output_embeddings()]  # type: ignore[no-untyped-call]
    with ExitStack() as undo:

        def load_watched(name: str, kind: DraftKind) -> DraftModel:
            draft = load(name, kind)
            heads.extend([draft.head, draft.module.get_output_embeddings()])  # type: ignore[no-untyped-call]
            undo.enter_context(_watched_native(draft.module, ledger))
            return draft

        undo.enter_context(_watched_native(engine.model.module, ledger))
        undo.enter_context(_watched_modules(heads, ledger))
        yield replace(engine, drafts=load_watched)


@contextmanager
def _watched_native(module: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Let a model that runs native passes run watched ones in whatever is built meanwhile."""
    speedup = speedup_of(module)
    if speedup is None or not isinstance(speedup.decoder, NativeDecoder):
        yield
        return
    before = speedup.decoder
    speedup.decoder = _WatchedDecoder(before, ledger)
    try:
        yield
    finally:
        speedup.decoder = before


class _WatchedDecoder(NativeDecoder):
    """A native pass that tells its stages to a ledger."""

    def __init__(self, decoder: NativeDecoder, ledger: Ledger) -> None:
        vars(self).update(vars(decoder))
        matrices = [matrix for layer in self.weights.layers for matrix in layer.matrices]
        self._ledger = ledger
        self._layers = self.weights.layer_bytes, sum(map(_size, matrices))

    def __call__(
        self,
        cache: KVCache,
        inputs: Float[Tensor, "batch node hidden"],
        positions: Int[Tensor, "batch node"],
        visible: Bool[Tensor, "batch node pending"],
        want_logits: bool,
        seconds: list[float] | None = None,
    ) -> Scores:
        """Run nodes; a caller with a list of its own keeps the times to itself."""
        ledger = self._ledger
        if seconds is not None or not ledger.runner:
            return super().__call__(cache, inputs, positions, visible, want_logits, seconds)
        spent = [0.0] * len(STAGES)
        scores = super().__call__(cache, inputs, positions, visible, want_logits, spent)
        ledger.tell_apart(zip([ledger.part(PARTS[s]) for s in STAGES], spent, strict=True))
        self._count(cache, visible, scores)
        ledger.skip()
        return scores

    def _count(self, cache: KVCache, visible: Tensor, scores: Scores) -> None:
        weights, (batch, nodes, _) = self.weights, visible.shape
        self._ledger.count_product("linear", *self._layers, batch * nodes)
        if scores.logits is not None and weights.head is not None:
            self._ledger.count_product(
                "head", weights.head_bytes, _size(weights.head), batch * nodes
            )
        prefix = int(cache.lengths.sum())
        numbers = 2 * len(weights.layers) * weights.dim  # of a token and head, in all layers
        self._ledger.count_attention(
            pairs=nodes * prefix + int(visible.sum()),
            pair_flops=2 * numbers * weights.heads,
            tokens=prefix + int(visible.any(1).sum()),
            token_bytes=numbers * weights.kv_heads * self.cache_dtype.itemsize,
        )


@contextmanager
def _watched_modules(heads: Sequence[object], ledger: Ledger) -> Iterator[None]:
    """Time linear layers, output layers and whole models that run as torch modules."""

    def stage_of(module: nn.Module) -> Stage | None:
        if not ledger.runner:
            return None
        if isinstance(module, WordHead) or any(module is head for head in heads):
            return ledger.part("head")
        if isinstance(module, nn.Linear | Conv1D):
            return ledger.part("linear")
        return ledger.part("other") if isinstance(module, PreTrainedModel) else None

    def before(module: nn.Module, inputs: object) -> None:
        stage = stage_of(module)
        if stage is not None:
            ledger.enter(stage)

    def after(module: nn.Module, inputs: object, output: Any) -> None:
        stage = stage_of(module)
        if stage is None:
            return
        ledger.leave()
        if stage.is_counted:
            num_bytes, weights = _read_by(module)
            ledger.count(stage, num_bytes, 2 * weights * (output.numel() // output.shape[-1]))
        ledger.skip()

    hooks = [
        register_module_forward_pre_hook(before),
        register_module_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _watched_attention(ledger: Ledger) -> Iterator[None]:
    """Time attention where layers call it one by one."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Any,
        value: Any,
        attention_mask: Tensor,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if not ledger.runner:
            return attention_forward(module, query, key, value, attention_mask, **options)
        ledger.enter(ledger.part("attention"))
        try:
            out = attention_forward(module, query, key, value, attention_mask, **options)
        finally:
            ledger.leave()
        if isinstance(key, Tensor) and isinstance(value, Tensor):
            numbers = key.shape[3] + value.shape[3]  # of a token and head
            seen = (attention_mask == 0).expand(query.shape[0], -1, -1, -1)  # as the mask
            ledger.count_attention(
                pairs=int(seen.sum()),
                pair_flops=2 * numbers * query.shape[1],
                tokens=int(seen.any(2).sum()),
                token_bytes=numbers * key.shape[1] * key.element_size(),
            )
        ledger.skip()
        return out

    AttentionInterface.register(NAME, attend)
    try:
        yield
    finally:
        register()


class _WatchedTiming(Timing):
    """The timing of a session, told to a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(torch.device("cpu"))
        self._ledger = ledger
        self._logits_bytes = 0  # of one node

    def run(self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function and give its time to a stage."""
        if stage not in _SPANS:
            return function(*args, **kwargs)
        ledger = self._ledger
        if stage == "t_draft":
            ledger.step()
            ledger.token_bytes = 0
        with ledger.span(*_SPANS[stage]):
            result = function(*args, **kwargs)
        if isinstance(result, Rows) and result.logits is not None:
            self._logits_bytes = result.logits[0, 0].nbytes
        if isinstance(result, Accepted):
            self._count(result)
        ledger.skip()
        return result

    def _count(self, accepted: Accepted) -> None:
        """Count the logits of visited nodes, and the kept ones that do not lie in their place."""
        place = torch.arange(accepted.path.shape[1])
        moved = (accepted.path != place) & (place < accepted.count[:, None])
        ledger = self._ledger
        ledger.count(Stage.ACCEPTANCE, int(accepted.count.sum()) * self._logits_bytes)
        ledger.count(Stage.COMPACTION, 2 * int(moved.sum()) * ledger.token_bytes)


@dataclass(frozen=True)
class _WatchedDrafter:
    """A drafter that also tells what it does after a step; its proposals are timed by the loop."""

    drafter: Drafter
    ledger: Ledger

    @property
    def proposal(self) -> Proposal:
        """As the drafter's."""
        return self.drafter.proposal

    @property
    def needs_hidden(self) -> bool:
        """As the drafter's."""
        return self.drafter.needs_hidden

    def start(self, session: Session) -> None:
        """Read the prompts."""
        self.drafter.start(session)

    def propose(self, state: DecodeState) -> TokenTree:
        """Return the drafter's tree."""
        return self.drafter.propose(state)

    def observe(self, outcome: StepOutcome) -> None:
        """Let the drafter learn what stood."""
        with self.ledger.span(Stage.DRAFT_AROUND, Runner.DRAFT):
            self.drafter.observe(outcome)


# --------------------------------------------------------------------------------- single weights


def _native_matrix(layer: nn.Module) -> PackedMatrix | None:
    product = layer.product if isinstance(layer, PackedLinear) else None
    return product.matrix if isinstance(product, NativeProduct) else None


def _size(matrix: PackedMatrix) -> int:
    return matrix.out_features * matrix.in_features


def _read_by(layer: nn.Module) -> tuple[int, int]:
    """Return bytes and number of the weights that a product reads."""
    matrix = _native_matrix(layer)
    if matrix is not None:
        return matrix.nbytes, _size(matrix)
    weight = layer.rows if isinstance(layer, WordHead) else layer.weight
    assert isinstance(weight, Tensor)
    return weight.nbytes, weight.numel()


def _in_millions(row: dict[str, Any]) -> dict[str, float | None]:
    names = {"MB": "bytes", "MFLOP": "flops"}
    return {short: None if row[name] is None else row[name] / 1e6 for short, name in names.items()}
