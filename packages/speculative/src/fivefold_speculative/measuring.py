"""Measuring how often a draft is right: teacher-forced, or while decoding; remembered by hashes.

Source: Sequoia (arXiv 2402.12374), section 3; its two procedures, online and static.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from fivefold import UserError
from fivefold.cache import cache_folder
from fivefold_lm import AttentionMethod, FullAttention, LanguageModel, Sampler
from fivefold_lm.models import fingerprint
from jaxtyping import Float
from torch import Tensor

from ._words import Proposal, Rule
from .acceptance import AcceptanceVector
from .corrector import NoCorrection
from .decode import decode
from .draft_model import DraftModel
from .drafter import Drafter
from .drafters.feature_head import FeatureHeadDrafter
from .drafters.model_tree import ModelTreeDrafter, draft_law_sampler
from .drafters.none import PlainDrafter
from .forced import Chances, chances, read
from .outcome import StepOutcome
from .prompt_sets import chat_prompts, spread
from .rank_sums import RankSums, bounded
from .record import Request
from .rules import rule_for
from .session import Session
from .topology import TreeTopology

NUM_PROMPTS = 16
NUM_TOKENS = 48
CORPUS = "chat prompts, open half"
WIDTH = 32
"""Children that are measured, where the draft has as many words."""
_FOLDER = "acceptance"


@dataclass(frozen=True)
class Texts:
    """Texts to measure on.

    Args:
        tokens: each text.
        starts: tokens of each that only give context: the prompt.
        corpus: their name.
    """

    tokens: Sequence[list[int]]
    starts: Sequence[int]
    corpus: str


def measure_acceptance(
    target: LanguageModel,
    draft: DraftModel,
    sampler: Sampler,
    proposal: Proposal,
    width: int,
    texts: Sequence[list[int]],
    *,
    starts: Sequence[int] = (),
    corpus: str = "",
    draft_temperature: float | None = None,
    attention: AttentionMethod | None = None,
    rule: Rule = Rule.AUTO,
    draws: int = 1,
) -> AcceptanceVector:
    """Measure an acceptance vector by teacher forcing: both models run once over texts.

    Children are drawn at every position; the probabilities with which the rule would accept them
    are averaged instead of its coins, which is far less noisy (Rao-Blackwell). The vector holds
    for text like these: let the target have written it, with this sampler (`own_texts`).

    Args:
        target: the model whose law counts.
        draft: an independent draft, or a head on the target's hidden states.
        sampler: makes the target's law.
        proposal: how children are chosen; `point_mass` is judged by the look-up rule.
        width: children a node; at most the draft's words.
        texts: tokens; those of fewer than three are skipped.
        starts: tokens of each text that only give context.
        corpus: name of the texts.
        draft_temperature: of the draft's law; `None`: the sampler's own (1 if that is greedy).
        attention: how the target attends; `None`: fully.
        rule: the best one for the proposal, or `lookup`.
        draws: how often children are drawn at every position; more are less noisy, and slower.

    Returns:
        The vector with standard errors (each text counts as one observation, as neighbouring
        positions are not independent), and the same by depth and by the parent's rank.

    Raises:
        UserError: no text is long enough.
    """
    width = min(width, draft.num_words)
    drawing = draft_law_sampler(sampler, draft, draft_temperature)
    sums: list[Tensor] = []
    counts: list[int] = []
    ranks = RankSums(width)
    for key, text in enumerate(texts):
        limit = min(target.context_len, draft.context_len)
        tokens = text[:limit]
        first = max(starts[key] - 1 if starts else 0, 0)
        if len(tokens) < 3 or len(tokens) - 1 <= max(first, 1):
            continue
        forced = read(target, draft, tokens, attention)
        found = [
            _averaged(
                [
                    chances(forced, depth, draft, sampler, drawing, proposal, width, number, rule)
                    for number in range(key * draws, (key + 1) * draws)
                ]
            )
            for depth in range(len(forced.draft))
        ]
        skipped = max(first - forced.begin[0], 0)
        own = found[0].stands[skipped:].double()
        sums.append(own.sum(0))
        counts.append(len(own))
        ranks.add(
            [
                (one.stands.double(), one.rank.double(), begin)
                for one, begin in zip(found, forced.begin, strict=True)
            ],
            first,
        )
    if not counts:
        raise UserError(
            "no text is long enough to measure acceptance on",
            setting="drafting.acceptance",
            remedy="give texts of three tokens or more",
        )
    probs, errors = _ratio(torch.stack(sums), torch.tensor(counts, device=sums[0].device))
    about = _about(target, draft, sampler, drawing, proposal) | {
        "corpus": corpus,
        "date": datetime.now(UTC).date().isoformat(),
        "how": "teacher-forced",
        "positions": str(sum(counts)),
    }
    return AcceptanceVector(
        tuple(bounded(probs)), tuple(errors.tolist()), about, ranks.acceptance(probs)
    )


def measure_online(
    target: LanguageModel,
    draft: DraftModel,
    sampler: Sampler,
    proposal: Proposal,
    width: int,
    prompts: Sequence[list[int]],
    num_tokens: int = NUM_TOKENS,
    *,
    corpus: str = "",
    draft_temperature: float | None = None,
    attention: AttentionMethod | None = None,
) -> AcceptanceVector:
    """Measure an acceptance vector while decoding with a star: one level of so many children.

    At every step the place of the accepted child is counted, or none. Arguments as in
    `measure_acceptance`.

    Args:
        target: see there.
        draft: see there.
        sampler: see there.
        proposal: see there.
        width: children of the star.
        prompts: what is continued, together.
        num_tokens: new tokens of each.
        corpus: see there.
        draft_temperature: see there.
        attention: see there.
    """
    width = min(width, draft.num_words)
    drawing = draft_law_sampler(sampler, draft, draft_temperature)
    star = TreeTopology.expansion([width])
    kind = ModelTreeDrafter if draft.embed is None else FeatureHeadDrafter
    drafter = kind(draft, star, proposal, drawing)
    session = _session(target, sampler, prompts, num_tokens, attention)
    session.require(star, "drafting")
    counts = torch.zeros(width + 1, dtype=torch.long)
    for outcome in _steps(session, drafter):
        accepted = outcome.accepted
        place = torch.where(accepted.count > 1, accepted.path[:, 1], 0)[accepted.count > 0]
        counts += torch.bincount(place.cpu(), minlength=width + 1)
    about = _about(target, draft, sampler, drawing, proposal) | {
        "corpus": corpus,
        "date": datetime.now(UTC).date().isoformat(),
        "how": "online",
        "positions": str(int(counts.sum())),
    }
    return AcceptanceVector.of_counts(counts[1:].tolist(), int(counts.sum()), about)


def own_texts(
    target: LanguageModel,
    sampler: Sampler,
    num_prompts: int = NUM_PROMPTS,
    num_tokens: int = NUM_TOKENS,
    attention: AttentionMethod | None = None,
) -> Texts:
    """Let the target continue some of the built-in chat prompts, all together.

    Args:
        target: the model.
        sampler: draws the text.
        num_prompts: at even distances among the open half.
        num_tokens: new tokens of each.
        attention: how the target attends.
    """
    room = target.context_len - num_tokens
    prompts = [
        target.encode(prompt.content)[: max(room, 1)]
        for prompt in spread(chat_prompts("open"), num_prompts)
    ]
    session = _session(target, sampler, prompts, num_tokens, attention)
    for _ in _steps(session, PlainDrafter()):
        pass
    return Texts(session.tokens, [len(prompt) for prompt in prompts], CORPUS)


def remembered_acceptance(
    target: LanguageModel,
    draft: DraftModel,
    sampler: Sampler,
    proposal: Proposal,
    width: int = WIDTH,
    *,
    online: bool = False,
    draft_temperature: float | None = None,
    attention: AttentionMethod | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AcceptanceVector:
    """Return what was measured for this pair and sampler before; else measure it now, once.

    It lies in the cache folder, named by the hashes of target and draft, the sampler, the kind of
    proposal and the width; penalties and the seed are no part of the name.

    Args:
        target: see `measure_acceptance`.
        draft: see there.
        sampler: see there.
        proposal: see there.
        width: see there.
        online: decode with a star instead of teacher forcing.
        draft_temperature: see there.
        attention: see there.
        say: told, in one line, that it is being measured.
    """
    width = min(width, draft.num_words)
    drawing = draft_law_sampler(sampler, draft, draft_temperature)
    path = acceptance_path(target, draft, sampler, drawing, proposal, width, online=online)
    try:
        if path.exists():
            return AcceptanceVector.read(path)
    except UserError:
        pass  # a file that was damaged is measured anew
    say(f"measuring how often draft {draft.name} ({draft.kind}, {proposal}) is right (once)")
    if online:
        prompts = [target.encode(p.content) for p in spread(chat_prompts("open"), NUM_PROMPTS)]
        vector = measure_online(
            target,
            draft,
            sampler,
            proposal,
            width,
            prompts,
            corpus=CORPUS,
            draft_temperature=draft_temperature,
            attention=attention,
        )
    else:
        texts = own_texts(target, sampler, attention=attention)
        vector = measure_acceptance(
            target,
            draft,
            sampler,
            proposal,
            width,
            texts.tokens,
            starts=texts.starts,
            corpus=texts.corpus,
            draft_temperature=draft_temperature,
            attention=attention,
        )
    vector.write(path)
    return vector


def acceptance_path(
    target: LanguageModel,
    draft: DraftModel,
    sampler: Sampler,
    drawing: Sampler,
    proposal: Proposal,
    width: int,
    *,
    online: bool,
) -> Path:
    """Return where the cache folder keeps a vector."""
    about = _about(target, draft, sampler, drawing, proposal)
    named = json.dumps([about, width, online, NUM_PROMPTS, NUM_TOKENS], sort_keys=True)
    folder = cache_folder() / _FOLDER
    folder.mkdir(exist_ok=True)
    return folder / f"{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"


def measured_elsewhere(
    vector: AcceptanceVector,
    target: LanguageModel,
    draft: DraftModel,
    sampler: Sampler,
    proposal: Proposal,
    draft_temperature: float | None = None,
) -> list[str]:
    """Return what a vector was measured with that is not so here, by name: `target`, `draft`, ….

    What its file does not tell is not compared.

    Args:
        vector: of a file.
        target: see `measure_acceptance`.
        draft: see there.
        sampler: see there.
        proposal: see there.
        draft_temperature: see there.
    """
    drawing = draft_law_sampler(sampler, draft, draft_temperature)
    here = _about(target, draft, sampler, drawing, proposal)
    return [name for name, value in here.items() if vector.measured_on.get(name, value) != value]


def draft_fingerprint(draft: DraftModel) -> str:
    """Return a hash of a draft's weights and words, of its output too where that is its own."""
    words = [] if draft.vocab_ids is None else draft.vocab_ids.tolist()
    named = f"{fingerprint(draft.module)} {draft.num_words} {words} {draft.kind}"
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _averaged(some: Sequence[Chances]) -> Chances:
    """Return the mean over several draws."""
    stands, rank = (torch.stack([getattr(c, name) for c in some]) for name in ("stands", "rank"))
    return Chances(stands.mean(0), rank.mean(0))


def _about(
    target: LanguageModel, draft: DraftModel, sampler: Sampler, drawing: Sampler, proposal: Proposal
) -> dict[str, str]:
    """Return what an acceptance vector depends on, by name."""
    cuts = ("temperature", "top_k", "top_p", "min_p")
    return {
        "target": target.fingerprint,
        "draft": draft_fingerprint(draft),
        "sampler": " ".join(f"{name}={getattr(sampler.config, name)}" for name in cuts),
        "draft_temperature": str(drawing.config.temperature),
        "proposal": str(proposal),
    }


def _session(
    target: LanguageModel,
    sampler: Sampler,
    prompts: Sequence[list[int]],
    num_tokens: int,
    attention: AttentionMethod | None,
) -> Session:
    requests = [Request(list(prompt), num_tokens, key=key) for key, prompt in enumerate(prompts)]
    return Session(target, requests, sampler, attention or FullAttention(), text=False)


def _steps(session: Session, drafter: Drafter) -> Iterator[StepOutcome]:
    rule = rule_for(Rule.AUTO, drafter, session.sampler)
    return decode(session, drafter, rule, NoCorrection())


def _ratio(
    sums: Float[Tensor, "text child"], counts: Tensor
) -> tuple[Float[Tensor, " child"], Float[Tensor, " child"]]:
    """Return the mean over all positions, and its standard error, texts being independent.

    One text alone is taken for as many independent positions as it has.
    """
    total = counts.sum()
    mean = sums.sum(0) / total
    if len(counts) == 1:
        return mean, (mean * (1 - mean) / total).clamp(min=0).sqrt()
    off = sums - mean * counts[:, None]
    texts = len(counts)
    return mean, (off.square().sum(0) * texts / (texts - 1)).sqrt() / total
