"""Checks of losslessness, shared by `fivefold audit` and the exam that every drafter inherits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fivefold_lm.kernels import speedup_of
from fivefold_lm.packed import stock_products
from jaxtyping import Float
from torch import Tensor

from ._words import Rule
from .corrector import Corrector, NoCorrection
from .decode import decode
from .drafter import Drafter
from .drafters.none import PlainDrafter
from .record import Record
from .rules import rule_for
from .session import Session

SessionFactory = Callable[[int, int, int], Session]
"""(rows, key of the first row, seed) -> a session of rows with one prompt and their own keys."""
DrafterFactory = Callable[[Session], Drafter]
CorrectorFactory = Callable[[Session], Corrector]
_BATCH = 2500
_SMALL = 5.0


@dataclass(frozen=True)
class Check:
    """What one check found.

    Args:
        name: what was checked.
        passed: whether the method is lossless as far as this check sees.
        statistic: what was measured.
        threshold: what it is compared with.
        detail: the figures behind it, or where a text parts from plain decoding.
    """

    name: str
    passed: bool
    statistic: float
    threshold: float
    detail: str


def run_to_end(
    session: Session, drafter: Drafter, rule: str, corrector: Corrector | None = None
) -> list[Record]:
    """Decode a session until every row has stopped; return its answers."""
    chosen = rule_for(rule, drafter, session.sampler)
    for _ in decode(session, drafter, chosen, corrector or NoCorrection()):
        pass
    return session.records


def joint_law_check(
    session_factory: SessionFactory,
    drafter_factory: DrafterFactory,
    rule: str,
    exact_law: np.ndarray,
    samples: int,
    seed: int,
    alpha: float = 1e-6,
    name: str = "",
    corrector_factory: CorrectorFactory | None = None,
) -> Check:
    """Compare the joint law of a text's first tokens with the exact one, by chi-square.

    Marginals would not do: noise that is reused between steps leaves every single step right.

    Args:
        session_factory: makes batches; rows must ask for as many tokens as the law has axes.
        drafter_factory: builds the drafter of a session.
        rule: acceptance rule, or `auto`.
        exact_law: probability of every text, one axis a token.
        samples: texts to draw.
        seed: of all noise.
        alpha: probability with which a lossless method fails.
        name: what to call the check.
        corrector_factory: builds the corrector of a session; `None`: nothing is corrected.

    Returns:
        A check whose statistic is the p-value, to be compared with `alpha`.
    """
    counts = np.zeros(exact_law.shape)
    for first in range(0, samples, _BATCH):
        rows = min(_BATCH, samples - first)
        session = session_factory(rows, first, seed)
        records = _decoded(session, drafter_factory, rule, corrector_factory)
        texts = np.array([record.tokens[: exact_law.ndim] for record in records])
        np.add.at(counts, tuple(texts.T), 1)
    name = name or f"joint law of {exact_law.ndim} tokens"
    return chi_square_check(name, counts, exact_law, alpha)


def chi_square_check(name: str, counts: np.ndarray, law: np.ndarray, alpha: float) -> Check:
    """Test counts against a law; rare cells are taken together until 5 samples are expected.

    A sample where the law is 0 fails at once: p-value 0.
    """
    seen, expected = counts.ravel(), law.ravel() / law.sum() * counts.sum()
    if seen[expected == 0].any():
        where = np.unravel_index(int(np.argmax(np.where(expected == 0, seen, 0))), law.shape)
        text = [int(i) for i in where]
        return Check(name, False, 0.0, alpha, f"{text} was drawn, and its probability is 0")
    seen, expected = pooled(seen, expected)
    statistic = float(((seen - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    p_value = float(torch.special.gammaincc(half[0], half[1])) if freedom else 1.0
    distance = 0.5 * float(np.abs(seen - expected).sum()) / float(counts.sum())
    detail = (
        f"chi-square {statistic:.1f}, {freedom} degrees of freedom, "
        f"{int(counts.sum())} samples, total variation {distance:.4f}"
    )
    return Check(name, p_value >= alpha, p_value, alpha, detail)


def pooled(seen: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the rarest cells into one of at least 5 expected samples; leave out impossible ones.

    Below that the statistic has a heavier tail than the chi-square law, and a lossless method
    would fail more often than the test says.
    """
    order = np.argsort(expected, kind="stable")
    order = order[expected[order] > 0]
    seen, expected = seen[order], expected[order]
    small = int((expected < _SMALL).sum())
    if small:
        reach = np.cumsum(expected)
        small = min(max(small, int(np.searchsorted(reach, _SMALL)) + 1), len(expected))
        seen = np.append(seen[:small].sum(), seen[small:])
        expected = np.append(expected[:small].sum(), expected[small:])
    return seen, expected


def greedy_check(
    make_session: Callable[[], Session],
    drafter_factory: DrafterFactory,
    rule: str = Rule.AUTO,
    expected: Sequence[Sequence[int]] | None = None,
    name: str = "greedy text",
    corrector_factory: CorrectorFactory | None = None,
) -> Check:
    """Compare greedy texts with plain decoding, token by token; nothing excuses a difference.

    Args:
        make_session: makes the same session every time it is called.
        drafter_factory: builds the drafter of a session.
        rule: acceptance rule, or `auto`.
        expected: the texts, if plain decoding has been done already.
        name: what to call the check.
        corrector_factory: builds the corrector of a session; `None`: nothing is corrected.

    Returns:
        A check whose statistic is the number of rows that differ; the detail of a failure says
        where, and how far the two best logits are apart there.
    """
    if expected is None:
        expected = [r.tokens for r in run_to_end(make_session(), PlainDrafter(), Rule.AUTO)]
    session = make_session()
    found = [r.tokens for r in _decoded(session, drafter_factory, rule, corrector_factory)]
    return _same_texts(name, session, expected, found)


def same_seed_check(
    make_session: Callable[[], Session],
    drafter_factory: DrafterFactory,
    name: str = "same seed, same text",
    corrector_factory: CorrectorFactory | None = None,
) -> Check:
    """Compare sampled texts under the look-up rule with plain sampling of the same seed.

    Args:
        make_session: makes the same session every time it is called.
        drafter_factory: builds the drafter of a session.
        name: what to call the check.
        corrector_factory: builds the corrector of a session; `None`: nothing is corrected.
    """
    plain = [r.tokens for r in run_to_end(make_session(), PlainDrafter(), Rule.LOOKUP)]
    session = make_session()
    records = _decoded(session, drafter_factory, Rule.LOOKUP, corrector_factory)
    found = [r.tokens for r in records]
    return _same_texts(name, session, plain, found)


def cache_check(
    session: Session,
    drafter: Drafter,
    rule: str = Rule.AUTO,
    corrector: Corrector | None = None,
    tolerance: float = 1e-4,
    name: str = "cache after keep",
) -> Check:
    """Compare the root's logits of every step with those of a fresh pass over the whole text.

    Returns:
        A check whose statistic is the largest difference of a logit.
    """
    verify, worst = session.verify, 0.0

    def compared(tree: object, state: object) -> object:
        nonlocal worst
        rows = verify(tree, state)  # type: ignore[arg-type]
        roots = rows.at(torch.zeros(session.batch, dtype=torch.long, device=session.model.device))
        for row, record in enumerate(session.records):
            if not record.finish_reason:
                fresh = _plain_logits(session, session.tokens[row])
                worst = max(worst, float((roots[row] - fresh).detach().abs().max()))
        return rows

    session.verify = compared  # type: ignore[assignment,method-assign]
    run_to_end(session, drafter, rule, corrector)
    return Check(name, worst <= tolerance, worst, tolerance, f"largest difference {worst:.2e}")


def _decoded(
    session: Session,
    drafter_factory: DrafterFactory,
    rule: str,
    corrector_factory: CorrectorFactory | None,
) -> list[Record]:
    corrector = corrector_factory(session) if corrector_factory is not None else None
    return run_to_end(session, drafter_factory(session), rule, corrector)


def _same_texts(
    name: str,
    session: Session,
    expected: Sequence[Sequence[int]],
    found: Sequence[Sequence[int]],
) -> Check:
    pairs = enumerate(zip(expected, found, strict=True))
    different = [row for row, (a, b) in pairs if list(a) != list(b)]
    if not different:
        total = sum(map(len, found))
        return Check(name, True, 0.0, 0.0, f"{len(found)} texts, {total} tokens, all equal")
    row = different[0]
    plain, other = list(expected[row]), list(found[row])
    place = next(
        (i for i, (a, b) in enumerate(zip(plain, other, strict=False)) if a != b),
        min(len(plain), len(other)),
    )
    prompt = session.tokens[row][: session.records[row].prompt_len]
    detail = (
        f"row {row} parts at token {place}: {plain[place : place + 1]} in plain decoding, "
        f"{other[place : place + 1]} here; gap of the two best logits "
        f"{_gap(session, [*prompt, *plain[:place]]):.2e}"
    )
    if speedup_of(session.model.module) is None:
        detail += (
            "; stock products, whose rows depend on the rows beside them, may explain a small gap"
        )
    return Check(name, False, float(len(different)), 0.0, detail)


def _gap(session: Session, tokens: list[int]) -> float:
    best = _plain_logits(session, tokens).topk(2)
    return float(best.values[0] - best.values[1])


@torch.no_grad()
def _plain_logits(session: Session, tokens: list[int]) -> Float[Tensor, " vocab"]:
    """Score what follows a text by the model alone: no cache, no packed weights."""
    module = session.model.module
    ids = torch.tensor([tokens], device=session.model.device)
    with stock_products(module):
        logits: Tensor = module(input_ids=ids, use_cache=False).logits[0, -1].float()
    return logits
