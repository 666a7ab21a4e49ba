"""The start-up self-test: does a tree forward say what the plain model says?"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from fivefold import UserError
from fivefold.cache import cache_folder
from torch import Tensor

from ._words import Capability
from .attention import AttentionMethod
from .forward import TreeForward
from .kernels import is_rounded, speedup_of
from .layout import decoder_config
from .models import LanguageModel
from .offload.streamed import offload_of
from .packed import stock_products

PARENTS = (-1, 0, 0, 1, 1, 2, 3, 5)  # a tree with two deep branches
LEAVES = (4, 6, 7)  # the paths to these hold every node
KEPT = ((0, 1, 3, 6), (0, 2))  # the path kept in each row
ROWS = (9, 4)  # prompt lengths: ragged, and the longer one beyond WINDOW
WINDOW = 5  # a sliding window is narrowed to this during the test, so that it matters
VERSION = 2  # of this test: a new one forgets what older ones found
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
ROUNDED_TOLERANCE = 0.5  # of weights in 8 or 4 bits: their products round the inputs as well


@dataclass(frozen=True)
class SelfTest:
    """What the self-test found."""

    error: float
    """Largest difference of logits, in standard deviations of the plain model's logits. Of several
    texts the least counts at each place: a fault of structure shows in all of them, rounding that
    happened to grow in one."""
    tolerance: float
    """Largest difference that rounding explains."""

    @property
    def passed(self) -> bool:
        """Whether tree and plain forward agree."""
        return self.error <= self.tolerance


def self_test(model: LanguageModel, attention: AttentionMethod) -> SelfTest:
    """Compare a tree forward, and a step after compaction, with the plain model.

    A mask of the wrong kind is silently ignored or misread by some models: this finds out. What it
    found is remembered in the cache folder, per model, attention and library versions. A lossy
    attention is compared with nothing and passes.

    Raises:
        UserError: this model × attention is wrong, or the model cannot verify a tree.
    """
    model.require(Capability.TREE_ATTENTION)
    if not attention.lossless:
        return SelfTest(0.0, 0.0)
    note = _note(model, attention)
    found = _remembered(note)
    if found is None:
        found = _measure(model, attention)
        if found.passed:  # a fault may be mended; it is looked for again every time
            _remember(note, found)
    if not found.passed:
        raise UserError(
            f"self-test: this model's tree forward is off by {found.error:.2g} standard deviations",
            setting="model.name",
            value=model.name,
            remedy=f"choose another model: with attention={attention.name} and "
            f"model.dtype={str(model.dtype).removeprefix('torch.')} it cannot be decoded",
        )
    return found


def _measure(model: LanguageModel, attention: AttentionMethod) -> SelfTest:
    """Score the same texts both ways; whatever either raises means that they cannot be compared."""
    try:
        with torch.no_grad(), _narrowed(model):
            texts = 1 if _is_exact(model) else 3
            errors = [_errors(model, attention, text) for text in range(texts)]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"self-test: this model cannot take a tree ({type(error).__name__}: {error})",
            setting="model.name",
            value=model.name,
            remedy="choose a model with plain or sliding-window attention",
        ) from error
    worst = float(torch.stack(errors).amin(0).max())
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])
    if is_rounded(model.module):
        tolerance = ROUNDED_TOLERANCE
    return SelfTest(worst if math.isfinite(worst) else math.inf, tolerance)


def _errors(model: LanguageModel, attention: AttentionMethod, text: int) -> Tensor:
    """Return the largest difference of logits at each token, in standard deviations."""
    got, wanted = _score(model, attention, text)
    spread = float(wanted.std()) or 1.0
    worst: Tensor = (got - wanted).abs().amax(-1) / spread
    return worst.nan_to_num(nan=math.inf)


def _score(model: LanguageModel, attention: AttentionMethod, text: int) -> tuple[Tensor, Tensor]:
    """Verify a tree over ragged rows, keep a path, take one more step; score the same plainly.

    Returns:
        Logits [token, vocab] of tree and step, and those of the untouched model.
    """
    prompts, nodes, last = _tokens(model, text)
    tree, after = _run_tree(model, attention, prompts, nodes, last)
    texts, got = [], []
    for row, length in enumerate(ROWS):
        prompt = prompts[row, :length].tolist()
        for leaf in LEAVES:
            path = _path(leaf)
            texts.append(prompt + nodes[row, path].tolist())
            got.append(tree[row, path])
        texts.append(prompt + nodes[row, list(KEPT[row])].tolist() + last[row].tolist())
        got.append(after[row])
    plain = _plain(model, texts)
    wanted = [
        logits[len(text) - len(part) : len(text)]
        for logits, text, part in zip(plain, texts, got, strict=True)
    ]
    return torch.cat(got), torch.cat(wanted)


def _run_tree(
    model: LanguageModel, attention: AttentionMethod, prompts: Tensor, nodes: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Score the tree's nodes, and what follows the path that is kept of it."""
    device, batch = model.device, len(ROWS)
    forward = TreeForward(model.module, attention)
    cache = attention.make_cache(model, batch, max(ROWS) + 2 * len(PARENTS))
    seen = torch.eye(len(PARENTS), dtype=torch.bool, device=device)
    for node, parent in enumerate(PARENTS[1:], 1):
        seen[node] |= seen[parent]
    depths = (seen.sum(1) - 1).expand(batch, -1)
    forward.prefill(cache, prompts, torch.tensor(ROWS, device=device), chunk=6)
    tree = forward(cache, nodes, depths, seen.expand(batch, -1, -1)).logits
    longest = max(len(path) for path in KEPT)
    padded = [[*path, *[0] * (longest - len(path))] for path in KEPT]
    count = torch.tensor([len(path) for path in KEPT], device=device)
    cache.keep(torch.tensor(padded, device=device), count)
    alone = torch.ones(batch, 1, 1, dtype=torch.bool, device=device)
    after = forward(cache, last, torch.zeros_like(last), alone).logits
    assert tree is not None
    assert after is not None
    return tree, after


def _plain(model: LanguageModel, texts: list[list[int]]) -> Tensor:
    """Score texts by the untouched model; padding on the right is out of a causal model's sight."""
    width = max(map(len, texts))
    padded = [[*text, *[text[-1]] * (width - len(text))] for text in texts]
    given = torch.tensor(padded, device=model.device)
    # Rounded weights are a model of their own: its oracle keeps their products.
    with nullcontext() if is_rounded(model.module) else stock_products(model.module):
        logits: Tensor = model.module(input_ids=given, use_cache=False).logits.float()
    return logits


def _is_exact(model: LanguageModel) -> bool:
    """Whether rounding never looks like a fault, so that one text tells."""
    return model.dtype is torch.float32 and not is_rounded(model.module)


def _tokens(model: LanguageModel, text: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spread tokens over the vocabulary: prompts, nodes, and one more a row."""
    batch, nodes = len(ROWS), len(PARENTS)
    count = batch * (max(ROWS) + nodes + 1)
    first = 1 + text * count
    ids = torch.arange(first, first + count, device=model.device) * 7919 % model.vocab_size
    sizes = [batch * max(ROWS), batch * nodes, batch]
    prompts, drafted, last = torch.split(ids, sizes)
    return prompts.view(batch, -1), drafted.view(batch, -1), last.view(batch, -1)


def _path(node: int) -> list[int]:
    path = [node]
    while PARENTS[path[0]] >= 0:
        path.insert(0, PARENTS[path[0]])
    return path


@contextmanager
def _narrowed(model: LanguageModel) -> Iterator[None]:
    """Narrow a sliding window, on both sides of the comparison, so that a few tokens pass it."""
    config = decoder_config(model.module)
    window = getattr(config, "sliding_window", None)
    if window is None or window <= WINDOW:
        yield
        return
    config.sliding_window = WINDOW
    try:
        yield
    finally:
        config.sliding_window = window


def _note(model: LanguageModel, attention: AttentionMethod) -> Path | None:
    """Where a result is remembered; None when there is no cache folder to write to."""
    versions = f"{torch.__version__}-{transformers.__version__}-{version(__package__)}-{VERSION}"
    speedup = speedup_of(model.module)
    kernels = "torch" if speedup is None else speedup.kernels.name
    settings = repr(getattr(attention, "__dict__", None)).encode()
    method = f"{attention.name}-{hashlib.sha256(settings).hexdigest()[:8]}"
    where = "" if offload_of(model.module) is None else "-streamed"
    name = f"{model.fingerprint}-{model.device.type}{where}-{kernels}-{method}-{versions}.json"
    try:
        return cache_folder() / "self-test" / name.replace("/", "_")
    except UserError:
        return None


def _remembered(note: Path | None) -> SelfTest | None:
    if note is None:
        return None
    try:
        return SelfTest(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _remember(note: Path | None, found: SelfTest) -> None:
    """Write the note whole or not at all; a cache that cannot be written is no error."""
    if note is None:
        return
    draft = note.with_suffix(f".{os.getpid()}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(found)))
        draft.replace(note)
    except OSError:
        draft.unlink(missing_ok=True)
