"""Trees: fit the static trees that are shipped beside a feature head.

The tree of n nodes that a draft's acceptances pay for most: nodes are taken in the order of how
often the path of ranks to them was the target's own text. Fitted on the open half of the chat
prompts, on prompts of our own and on the standard library's functions; HumanEval and the other half
of the chat prompts judge and are not looked at.
"""

import argparse
import heapq
import json
import logging
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from evaluate import DEPTH, LIMIT, head_ranks, saved_answers
from exclusion import HELD_OUT_PROMPTS
from fivefold_speculative.drafts.feature_head import load_feature_head
from fivefold_speculative.topology import TreeTopology
from prompts import Kind, prompts
from text import Turns
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from writer import Writer

SIZES = (8, 16, 32)
"""Nodes, the root included."""

RankPath = tuple[int, ...]
"""A node by the ranks on the way to it."""


def count_paths(tables: list[Tensor]) -> Counter[RankPath]:
    """Count, over all places of all answers, how often each path of ranks was the true text."""
    counts: Counter[RankPath] = Counter()
    for table in tables:
        for place, ranks in enumerate(table.tolist()):
            for depth in range(1, min(DEPTH, len(table) - place) + 1):
                if ranks[depth - 1] >= LIMIT:
                    break
                counts[tuple(ranks[:depth])] += 1
    return counts


def fit_tree(counts: Counter[RankPath], nodes: int) -> TreeTopology:
    """Return the tree that grows, node by node, where the most text was found.

    A node is a candidate once its parent and its elder sibling are in the tree, so that rank and
    place among the siblings agree.
    """
    chosen: list[RankPath] = [()]
    heap: list[tuple[int, RankPath]] = [(-counts[(0,)], (0,))]
    while len(chosen) < nodes:
        _, path = heapq.heappop(heap)
        chosen.append(path)
        for following in ((*path, 0), (*path[:-1], path[-1] + 1)):
            heapq.heappush(heap, (-counts[following], following))
    ordered = sorted(chosen, key=lambda path: (len(path), path))
    place = {path: node for node, path in enumerate(ordered)}
    return TreeTopology((-1, *(place[path[:-1]] for path in ordered[1:])))


def library_prompts(count: int, seed: int) -> list[str]:
    """Return requests to complete functions of the standard library."""
    return [prompt.text for prompt in islice(prompts(Kind.LIBRARY, random.Random(seed)), count)]


def open_prompts(path: Path) -> list[str]:
    """Return the open half of the benchmark's chat prompts."""
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [record["prompt"] for record in records if record["split"] == "open"]


def main() -> None:
    """Fit and write the trees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("draft", type=Path, help="feature head")
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--answers", type=Path, required=True, help="file of the target's answers")
    parser.add_argument("--chat-prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trees")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--limit", type=int, default=40, help="prompts of each kind")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    target = AutoModelForCausalLM.from_pretrained(options.target)
    writer = Writer(target, torch.float32, "cpu")
    turns = Turns(AutoTokenizer.from_pretrained(options.target))
    own = HELD_OUT_PROMPTS.read_text("utf-8").splitlines()
    sets = {
        "open": open_prompts(options.chat_prompts)[: options.limit],
        "own": own[: options.limit],
        "library": library_prompts(options.limit, seed=3),
    }
    answers = saved_answers(options.answers, writer, sets, turns, options.new_tokens)
    head = load_feature_head(options.draft, target)
    tables = [head_ranks(head, writer, answer) for part in answers.values() for answer in part]
    counts, places = count_paths(tables), sum(len(table) for table in tables)
    for nodes in SIZES:
        tree = fit_tree(counts, nodes)
        tree.write(options.out / f"feature_head_{nodes}.json")
        logging.info("%d nodes, %d levels: %s", nodes, tree.num_levels, tree.parents)
    ranks = [counts[(rank,)] / places for rank in range(8)]
    logging.info("first token at rank 0, 1, ...: %s", " ".join(f"{x:.3f}" for x in ranks))


if __name__ == "__main__":
    main()
