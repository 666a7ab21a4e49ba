"""Evaluate drafts on held-out prompts: agreement by depth, tokens a pass of chains and trees.

The target's own greedy answers are written once in float32. For each place in them a draft is run
along the true continuation; the rank it gives each true token decides which nodes of a static tree
would have been accepted, so every chain and tree is judged exactly without decoding again.
"""

import argparse
import json
import logging
import random
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from exclusion import HELD_OUT_PROMPTS, chat_prompts, human_eval_prompts
from fivefold_speculative.drafts.feature_head import KIND as HEAD
from fivefold_speculative.drafts.feature_head import FeatureHead, load_feature_head
from fivefold_speculative.drafts.independent import IndependentDraft, load_independent
from fivefold_speculative.drafts.weights import read_card
from jaxtyping import Float, Int
from prompts import Prompt
from text import Row, Turns, write
from torch import Tensor
from torch.nn import functional as F
from train_feature_head import Unrolled
from transformers import AutoModelForCausalLM, AutoTokenizer
from writer import Writer

logger = logging.getLogger("evaluate")

DEPTH = 8
"""Deepest level of a draft that is looked at."""
BATCH = 64
"""Rows written at once."""
LIMIT = 12
"""Ranks from here on count as no match."""


@dataclass
class Answer:
    """A prompt with the target's greedy answer."""

    tokens: list[int]
    """Template, prompt and answer."""
    start: int
    """Where the answer begins."""


def greedy_answers(
    writer: Writer, prompts: list[str], turns: Turns, new_tokens: int
) -> list[Answer]:
    """Let the target answer every prompt greedily, up to the end of its turn."""
    given = [turns.opened(Prompt(text, is_open=False)) for text in prompts]
    order = sorted(range(len(given)), key=lambda i: len(given[i]))
    noise, answers = torch.zeros(1 << 23), {}
    for at in range(0, len(order), BATCH):
        part = order[at : at + BATCH]
        rows = [Row(given[i], Prompt("", is_open=False), 0.0, turns) for i in part]
        write(writer, rows, new_tokens, noise, random.Random(0))
        for i, row in zip(part, rows, strict=True):
            start = len(given[i])
            written = row.tokens[start:]
            stop = written.index(turns.end) + 1 if turns.end in written else len(written)
            answers[i] = Answer(row.tokens[: start + stop], start)
    return [answers[i] for i in range(len(given))]


def saved_answers(
    path: Path, writer: Writer, sets: dict[str, list[str]], turns: Turns, new_tokens: int
) -> dict[str, list[Answer]]:
    """Return the answers of every set, written once and then read from the file."""
    if not path.exists():
        found = {
            name: [asdict(answer) for answer in greedy_answers(writer, texts, turns, new_tokens)]
            for name, texts in sets.items()
        }
        path.write_text(json.dumps(found))
    read = json.loads(path.read_text())
    return {name: [Answer(**answer) for answer in answers] for name, answers in read.items()}


def ranks(
    logits: Float[Tensor, "token word"], true: Int[Tensor, " token"], vocab_ids: Tensor
) -> Int[Tensor, " token"]:
    """Return how many words the draft finds likelier than the true one; `LIMIT` at most."""
    word_of = torch.full((int(max(vocab_ids.max(), true.max())) + 1,), -1)
    word_of[vocab_ids] = torch.arange(vocab_ids.numel())
    words = word_of[true]
    own = logits.gather(1, words.clamp(min=0).unsqueeze(1))
    better = (logits > own).sum(1).clamp(max=LIMIT)
    return torch.where(words >= 0, better, LIMIT)


@torch.inference_mode()
def head_ranks(head: FeatureHead, writer: Writer, answer: Answer) -> Int[Tensor, "token depth"]:
    """Return the rank of the d-th token after each place of the answer, as the head drafts it."""
    tokens = torch.tensor([answer.tokens])
    positions = torch.arange(tokens.shape[1]).unsqueeze(0)
    features = writer.forward(tokens, positions, visible=None)
    unrolled = Unrolled(head, scales=(1.0, 1.0), dtype=torch.float32)
    outputs = unrolled.steps(tokens, features, DEPTH)
    found = []
    for step, hidden in enumerate(outputs):
        places = slice(answer.start - 2 + step, -1)  # entry p - 1 belongs to the token at p
        true = tokens[0, answer.start + step :]
        found.append(F.pad(ranks(head.head(hidden[0, places]), true, head.vocab_ids), (0, step)))
    return torch.stack(found, dim=1)


@torch.inference_mode()
def independent_ranks(draft: IndependentDraft, answer: Answer) -> Int[Tensor, "token depth"]:
    """Return the rank of the d-th token after each place of the answer, as the draft drafts it."""
    tokens = torch.tensor([answer.tokens])
    hidden = draft.model(input_ids=tokens).last_hidden_state[0, answer.start - 1 : -1]
    own = ranks(draft.head(hidden), tokens[0, answer.start :], draft.vocab_ids)
    return torch.stack([F.pad(own[d:], (0, d)) for d in range(DEPTH)], dim=1)


def best_tree(tables: list[Tensor], nodes: int) -> set[tuple[int, ...]]:
    """Return the static tree of the most accepted nodes, each named by its path of ranks."""
    counts: Counter[tuple[int, ...]] = Counter()
    for table in tables:
        for row, path in enumerate(table.tolist()):
            for depth in range(1, min(DEPTH, len(table) - row) + 1):
                if LIMIT in path[:depth]:
                    break
                counts[tuple(path[:depth])] += 1
    # a path is at least as frequent as what continues it, so its parent is always chosen before
    ordered = sorted(counts, key=lambda path: (-counts[path], len(path), path))
    return set(ordered[: nodes - 1])


def tokens_per_pass(tables: list[Tensor], tree: set[tuple[int, ...]]) -> float:
    """Return the mean number of tokens a pass yields when the tree is drafted at every place."""
    passes = tokens = 0
    for table in tables:
        at, paths = 0, table.tolist()
        while at < len(paths):
            depth = 0
            while depth < DEPTH and tuple(paths[at][: depth + 1]) in tree:
                depth += 1
            step = min(depth + 1, len(paths) - at)
            passes, tokens, at = passes + 1, tokens + step, at + step
    return tokens / passes


def chain(length: int) -> set[tuple[int, ...]]:
    """Return the chain of the draft's first choices as a set of paths."""
    return {(0,) * depth for depth in range(1, length + 1)}


def report(name: str, tables: list[Tensor]) -> dict[str, float]:
    """Log and return the figures of one set of prompts."""
    figures = {}
    for depth in range(5):
        column = torch.cat([table[: len(table) - depth, depth] for table in tables])
        figures[f"agreement_{depth + 1}"] = float((column == 0).float().mean())
    for length in (3, 4, 5):
        figures[f"chain_{length}"] = tokens_per_pass(tables, chain(length))
    for nodes in (8, 16, 32):  # the tree is fitted on one half of the prompts, judged on the other
        halves = tables[::2], tables[1::2]
        judged = [tokens_per_pass(halves[i], best_tree(halves[1 - i], nodes)) for i in (0, 1)]
        figures[f"tree_{nodes}"] = sum(judged) / 2
    logger.info("%s: %s", name, "  ".join(f"{key} {x:.3f}" for key, x in figures.items()))
    return figures


def main() -> None:
    """Judge draft files on HumanEval and on the held-out chat prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drafts", type=Path, nargs="+", help="draft files")
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--answers", type=Path, required=True, help="file of the target's answers")
    parser.add_argument("--chat-prompts", type=Path, help="JSON lines of further chat prompts")
    parser.add_argument("--out", type=Path, help="JSON file of the figures and the best trees")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--limit", type=int, default=60, help="HumanEval problems to take")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    target = AutoModelForCausalLM.from_pretrained(options.target)
    writer = Writer(target, torch.float32, "cpu")
    turns = Turns(AutoTokenizer.from_pretrained(options.target))
    sets = {"chat_benchmark": chat_prompts(options.chat_prompts)} if options.chat_prompts else {}
    sets |= {
        "human_eval": human_eval_prompts()[: options.limit],
        "chat": HELD_OUT_PROMPTS.read_text("utf-8").splitlines(),
    }
    answers = saved_answers(options.answers, writer, sets, turns, options.new_tokens)
    results: dict[str, object] = {}
    for path in options.drafts:
        if read_card(path).kind == HEAD:
            head = load_feature_head(path, target)
            tables = {
                name: [head_ranks(head, writer, answer) for answer in part]
                for name, part in answers.items()
            }
        else:
            draft = load_independent(path, target)
            tables = {
                name: [independent_ranks(draft, answer) for answer in part]
                for name, part in answers.items()
            }
        tree = best_tree([table for part in tables.values() for table in part], 32)
        results[path.name] = {
            "tree_32": sorted(tree, key=lambda path: (len(path), path)),
            **{name: report(f"{path.name} {name}", part) for name, part in tables.items()},
        }
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
