"""Boost: tune two drafts that cover different text (SpecInfer, section 3, collective boost-tuning).

Draft 1 is tuned on all samples. A sample is a place in the target's own text and what the target
writes there next; draft 1 matches it when its best word is the target's at this place and at the
`match - 1` places after it. Samples that are matched are dropped, and draft 2, which begins where
draft 1 began, is tuned on the rest; its words are those the target expects most where draft 1
failed. Merged, the two trees hold more of what the target writes than one of twice the width.
"""

import argparse
import json
import logging
from pathlib import Path

import loop  # noqa: F401 - before the modules of the loop
import torch
from distil import DATA, TARGET, Corpus, Walk, llama_fields, optimizer
from fivefold_mst_train import Budget, train_module
from fivefold_speculative.drafts.independent import (
    KIND,
    IndependentDraft,
    load_independent,
    save_independent,
)
from fivefold_speculative.drafts.weights import DraftCard, read_card, read_draft
from fivefold_speculative.drafts.words import adopt_tensors
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F
from train_independent import Learner, new_draft
from transformers import AutoModelForCausalLM, LlamaForCausalLM

logger = logging.getLogger("boost")

DRAFTS = ("draft_1.safetensors", "draft_2.safetensors")
MARKED = "marked.json"


def begin(
    start: Path | None,
    target: LlamaForCausalLM,
    corpus: Corpus,
    layers: int,
    words: Int[Tensor, " word"] | None = None,
) -> IndependentDraft:
    """Return a draft to tune; the corpus takes over its words.

    Args:
        start: draft file to start from; `None`: an untrained one.
        target: the target.
        corpus: text and features.
        layers: of an untrained draft.
        words: its vocabulary; `None`: that of the file, or the corpus's. The rows of words are the
            target's own, so a draft can be given any.
    """
    if words is not None:
        corpus.use_words(words)
    if start is None:
        return new_draft(target, corpus, layers)
    tensors, own_words, card = read_draft(start, KIND)
    if words is None:
        corpus.use_words(own_words)
    draft = IndependentDraft(card.config, corpus.vocab_ids, target)
    adopt_tensors(draft, tensors)
    return draft.train()


def tune(
    draft: IndependentDraft, corpus: Corpus, options: argparse.Namespace, out: Path, figure: str
) -> None:
    """Train a draft for the given minutes and write its file.

    Args:
        draft: the draft.
        corpus: text and features; samples without weight do not count.
        options: of the command line.
        out: the file.
        figure: what to call its agreement with the held-out samples in the file's card.
    """
    learner = Learner(draft)
    progress = train_module(
        learner,
        learner.loss,
        Walk(corpus, options.budget, options.device),
        optimizer(options.rate),
        Budget(minutes=options.minutes),
        out.with_suffix(".checkpoints"),
    )
    before = read_card(options.start).tokens_seen if options.start else 0
    card = DraftCard(
        kind=KIND,
        target=TARGET,
        config=llama_fields(draft.model.config, draft.model.config.num_hidden_layers),
        vocab_size=draft.vocab_ids.numel(),
        tokens_seen=before + progress.tokens,
        recipe="recipes/specinfer_boost",
        data=DATA,
        measured={figure: round(agreement(learner, corpus, options), 4)},
    )
    save_independent(draft, out, card)
    logger.info("%s: %s", out.name, card.measured)


def agreement(learner: Learner, corpus: Corpus, options: argparse.Namespace) -> float:
    """Return the share of held-out greedy tokens, of those not dropped, that come first."""
    rows = [row for row in corpus.held_out_rows if has_weight(corpus, row)]
    held_out = corpus.held_out(rows, options.budget, options.device)
    return learner.agreement(held_out) if rows else 0.0


@torch.inference_mode()
def best_words(
    draft: IndependentDraft, corpus: Corpus, rows: list[int], budget: int, device: str
) -> Int[Tensor, " token"]:
    """Return the draft's best word after every token of the corpus; -1 in other rows."""
    learner = Learner(draft)
    found = torch.full_like(corpus.tokens, -1)
    for group in grouped(corpus, rows, budget):
        batch = corpus.batch(group, device)
        hidden = learner.hidden(batch.tokens)
        for place, row in enumerate(group):
            length, first = corpus.lengths[row], corpus.starts[row]
            words = [
                F.linear(part, learner.rows).argmax(-1)
                for part in hidden[place, :length].split(256)
            ]
            found[first : first + length] = torch.cat(words).cpu()
    return found


def grouped(corpus: Corpus, rows: list[int], budget: int) -> list[list[int]]:
    """Return rows of similar length together, at most `budget` tokens in a group."""
    groups: list[list[int]] = [[]]
    for row in sorted(rows, key=lambda row: corpus.lengths[row]):
        if (len(groups[-1]) + 1) * corpus.lengths[row] > budget:
            groups.append([])
        groups[-1].append(row)
    return [group for group in groups if group]


def matched(best: Int[Tensor, " token"], corpus: Corpus, match: int) -> Bool[Tensor, " token"]:
    """Return the samples that a draft matches.

    Args:
        best: the draft's best word after every token, -1 where unknown.
        corpus: text and features, with the draft's words.
        match: places in a row that must agree; what lies past a text's end counts as agreed.
    """
    true = corpus.word_of[corpus.top_ids[:, 0].long()]
    agrees = (best == true) & (true >= 0)
    row = torch.repeat_interleave(torch.arange(len(corpus.lengths)), torch.tensor(corpus.lengths))
    run = agrees.clone()
    for further in range(1, match):
        same_row = row[further:] == row[:-further]
        run[:-further] &= agrees[further:] | ~same_row
    return run & (corpus.weights > 0)


def drop(corpus: Corpus, samples: Bool[Tensor, " token"], kept_weight: float) -> dict[str, float]:
    """Take weight from samples, leave out rows without any; return what was marked.

    Args:
        corpus: changed in place.
        samples: those to drop.
        kept_weight: factor of the weight they keep; 0 drops them.
    """
    before = int((corpus.weights > 0).sum())
    corpus.weights[samples] *= kept_weight
    corpus.train_rows = [row for row in corpus.train_rows if has_weight(corpus, row)]
    after = int((corpus.weights > 0).sum())
    share = float(samples.sum()) / max(1, before)
    return {"samples": before, "matched_share": round(share, 4), "samples_left": after}


def has_weight(corpus: Corpus, row: int) -> bool:
    """Say whether any prediction in a row counts."""
    return bool((corpus.weights[corpus.starts[row] : corpus.starts[row + 1]] > 0).any())


def parsed() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text shards")
    parser.add_argument("--features", type=Path, required=True, help="folder of the features")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two draft files")
    parser.add_argument("--start", type=Path, help="draft file from which both start")
    parser.add_argument("--minutes", type=float, default=30, help="for each draft")
    parser.add_argument("--match", type=int, default=1, help="places in a row that must agree")
    parser.add_argument("--kept-weight", type=float, default=0.0, help="of matched samples")
    parser.add_argument("--same-words", action="store_true", help="draft 2 keeps draft 1's words")
    parser.add_argument("--words", type=int, default=10240, help="size of new vocabularies")
    parser.add_argument("--layers", type=int, default=2, help="of untrained drafts")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Tune draft 1 on everything, drop what it matches, tune draft 2 on the rest."""
    options = parsed()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(12)
    options.out.mkdir(parents=True, exist_ok=True)
    first, second = (options.out / name for name in DRAFTS)

    target = AutoModelForCausalLM.from_pretrained(options.target).to(options.device)
    vocab_size = target.config.vocab_size
    corpus = Corpus(options.text, options.features, vocab_size, options.words, with_hidden=False)
    if not first.exists():
        draft = begin(options.start, target, corpus, options.layers)
        tune(draft, corpus, options, first, "agreement_1")
    draft = load_independent(first, target)
    corpus.use_words(draft.vocab_ids.cpu())

    rows = corpus.train_rows + corpus.held_out_rows
    best = best_words(draft, corpus, rows, options.budget, options.device)
    marked = drop(corpus, matched(best, corpus, options.match), options.kept_weight)
    (options.out / MARKED).write_text(json.dumps(marked, indent=1) + "\n")
    logger.info("marked: %s", marked)
    if not corpus.train_rows:
        raise SystemExit("draft 1 matches every sample: give more text, or a larger --match")
    words = None
    if not options.same_words:
        counts = corpus.expected_counts(vocab_size)
        words = counts.argsort(descending=True, stable=True)[: draft.vocab_ids.numel()]
    if not second.exists():
        draft = begin(options.start, target, corpus, options.layers, words)
        tune(draft, corpus, options, second, "agreement_1_of_the_rest")
    logger.info("drafting.drafts=[%s,%s]", first, second)


if __name__ == "__main__":
    main()
