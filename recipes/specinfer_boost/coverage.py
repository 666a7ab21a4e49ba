"""Coverage: how much of what the target writes is among the children of one draft, and of two.

The target's own greedy answers to held-out prompts are read once by every draft. A token is covered
by a node with k children when it is among the draft's k best words; merged, when it is among those
of either. The merged node is compared with draft 1 at twice the width, which has at least as many
children, and with the draft from which both were tuned.
"""

import argparse
import json
import logging
from pathlib import Path

import loop  # noqa: F401 - before the modules of the loop
import torch
from evaluate import Answer, independent_ranks, saved_answers
from exclusion import HELD_OUT_PROMPTS, chat_prompts, human_eval_prompts
from fivefold_speculative.drafts.independent import load_independent
from jaxtyping import Int
from text import Turns
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from writer import Writer

WIDTHS = (1, 2, 3, 5)
"""Children a node of one draft."""

Ranks = Int[Tensor, " token"]
"""Of every token of the answers: how many words a draft finds likelier."""


def ranks_of(path: Path, target: LlamaForCausalLM, answers: list[Answer]) -> Ranks:
    """Return the ranks that a draft gives the target's tokens."""
    draft = load_independent(path, target)
    return torch.cat([independent_ranks(draft, answer)[:, 0] for answer in answers])


def covered(ranks: list[Ranks], width: int) -> float:
    """Return the share of tokens among the `width` best words of any of the drafts."""
    return float(torch.stack(ranks).amin(0).lt(width).float().mean())


def table(first: Ranks, second: Ranks, start: Ranks | None) -> list[dict[str, float]]:
    """Return one line a width: coverage before and after, alone and merged."""
    lines = []
    for width in WIDTHS:
        line = {"width": width}
        if start is not None:
            line |= {
                "start": covered([start], width),
                "start_twice_the_width": covered([start], 2 * width),
            }
        line |= {
            "draft_1": covered([first], width),
            "draft_1_twice_the_width": covered([first], 2 * width),
            "draft_2": covered([second], width),
            "merged": covered([first, second], width),
        }
        lines.append({name: round(value, 4) for name, value in line.items()})
    return lines


def show(name: str, lines: list[dict[str, float]]) -> None:
    """Print the table of one set of prompts."""
    columns = list(lines[0])
    print(f"\n{name}: share of the target's tokens among the children of a node")
    print("  ".join(f"{column:>23}" for column in columns))
    for line in lines:
        print("  ".join(f"{line[column]:>23}" for column in columns))


def main() -> None:
    """Print and write coverage before and after boosting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drafts", type=Path, nargs=2, help="draft 1 and draft 2")
    parser.add_argument("--start", type=Path, help="the draft from which both were tuned")
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--answers", type=Path, required=True, help="file of the target's answers")
    parser.add_argument("--chat-prompts", type=Path, help="JSON lines of further chat prompts")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--limit", type=int, default=60, help="prompts of each set")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    target = AutoModelForCausalLM.from_pretrained(options.target)
    turns = Turns(AutoTokenizer.from_pretrained(options.target))
    sets = {"chat_benchmark": chat_prompts(options.chat_prompts)} if options.chat_prompts else {}
    sets |= {
        "human_eval": human_eval_prompts(),
        "chat": HELD_OUT_PROMPTS.read_text("utf-8").splitlines(),
    }
    sets = {name: prompts[: options.limit] for name, prompts in sets.items()}
    writer = Writer(target, torch.float32, "cpu")
    answers = saved_answers(options.answers, writer, sets, turns, options.new_tokens)
    figures = {}
    for name, part in answers.items():
        first, second = (ranks_of(path, target, part) for path in options.drafts)
        start = ranks_of(options.start, target, part) if options.start else None
        figures[name] = table(first, second, start)
        show(name, figures[name])
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
