"""Text: let the target write the drafts' training text, question and answer.

Every shard is one batch of rows of one kind (`prompts.Kind`): the system prompt, a user turn that
is given or written by the target at a moderate temperature, and answers, greedy or sampled by row.
When an answer ends, the row goes on with another user turn, so that no row idles. Shards are
written one by one; a second call goes on where the first stopped.
"""

import argparse
import itertools
import json
import logging
import random
import time
from enum import IntEnum
from pathlib import Path

import torch
from exclusion import Exclusion, benchmark_exclusion
from prompts import Kind, Prompt, prompts
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from writer import Writer

logger = logging.getLogger("text")

CYCLE = [
    Kind.INSTRUCTION,
    Kind.DOCSTRING,
    Kind.OPENING,
    Kind.LIBRARY,
    Kind.DOCSTRING,
    Kind.OPENING,
    Kind.INSTRUCTION,
    Kind.OPENING,
]
"""Kinds of consecutive shards."""
NEW_TOKENS = {
    Kind.OPENING: 232,
    Kind.INSTRUCTION: 176,
    Kind.LIBRARY: 176,
    Kind.DOCSTRING: 248,
}
TEMPERATURES = [0.0] * 14 + [0.7] * 5 + [1.0]
"""Answers' temperatures, one drawn for each row."""
USER_TEMPERATURE = 0.75
SHORTEST_TURN, LONGEST_TURN = 5, 96
"""Tokens of a user turn that the target writes."""
LONGEST_PROMPT = 320
"""Tokens of a given prompt, template included."""
NOISE_LEN = 1 << 25
"""Length of the table of Gumbel noise; a step reads a slice of it at a random offset."""


class Role(IntEnum):
    """Where a token comes from."""

    GIVEN = 0
    USER = 1
    GREEDY = 2
    SAMPLED = 3


class Row:
    """One row while it is written: what was written, by which temperature, and what is due next."""

    def __init__(
        self, given: list[int], prompt: Prompt, temperature: float, turns: "Turns"
    ) -> None:
        self.turns, self.temperature = turns, temperature
        self.tokens = list(given)
        self.roles = [Role.GIVEN] * len(given)
        self.in_user, self.ends_at_quotes = prompt.is_open, prompt.ends_at_quotes
        self.turn_len = 0
        self.due: list[int] = []

    @property
    def role(self) -> Role:
        """The role of the token that comes next, unless one is due."""
        if self.in_user:
            return Role.USER
        return Role.SAMPLED if self.temperature else Role.GREEDY

    def add(self, chosen: int) -> int:
        """Add the chosen token, or the one that is due, and return it."""
        if self.due:
            self.tokens.append(self.due.pop(0))
            self.roles.append(Role.GIVEN)
            return self.tokens[-1]
        self.tokens.append(chosen)
        self.roles.append(self.role)
        self.turn_len += 1
        turns = self.turns
        if chosen == turns.end:
            self.due = turns.to_answer[1:] if self.in_user else turns.to_user[1:]
        elif self.in_user and self.ends_at_quotes and chosen in turns.quotes:
            self.due = turns.newline + turns.to_answer
        elif self.in_user and self.turn_len >= LONGEST_TURN:
            self.due = list(turns.to_answer)
        if self.due:
            self.in_user, self.ends_at_quotes, self.turn_len = not self.in_user, False, 0
        return chosen


class Turns:
    """The token sequences by which the chat template changes turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.to_answer = self.encode("<|im_end|>\n<|im_start|>assistant\n")
        self.to_user = self.encode("<|im_end|>\n<|im_start|>user\n")
        self.newline = self.encode("\n")
        self.end = self.to_answer[0]
        words = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        self.quotes = {i for i, word in enumerate(words) if '"""' in word or "'''" in word}
        self.is_ascii = torch.tensor([word.isascii() for word in words])

    def encode(self, text: str) -> list[int]:
        """Encode without special additions."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def opened(self, prompt: Prompt) -> list[int]:
        """Return the template's tokens around a prompt, the user turn closed unless it is open."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.text}], tokenize=False, add_generation_prompt=True
        )
        if prompt.is_open:
            text = text[: text.rindex("<|im_end|>")]
        return self.encode(text)


def start_rows(
    kind: Kind, rows: int, rng: random.Random, turns: Turns, exclusion: Exclusion
) -> list[Row]:
    """Return new rows, their prompts none of those excluded."""
    started: list[Row] = []
    for prompt in prompts(kind, rng):
        given = turns.opened(prompt)
        if len(given) <= LONGEST_PROMPT and not exclusion.refuses(prompt.text):
            started.append(Row(given, prompt, rng.choice(TEMPERATURES), turns))
        if len(started) == rows:
            break
    return started


def prefill(writer: Writer, rows: list[Row], width: int, chunk: int = 16) -> Tensor:
    """Read the prompts, left-padded to `width`, and return each row's first slot in use."""
    pads = torch.tensor([width - len(row.tokens) for row in rows], device=writer.device)
    tokens = torch.tensor([[0] * (width - len(row.tokens)) + row.tokens for row in rows])
    slots = torch.arange(width, device=writer.device)
    causal = slots[None] <= slots[:, None]
    for at in range(0, len(rows), chunk):
        part = slice(at, at + chunk)
        own = slots[None, None] >= pads[part, None, None]
        visible = (causal[None] & own) | (slots[None] == slots[:, None])[None]
        positions = (slots[None] - pads[part, None]).clamp(min=0)
        writer.forward(tokens[part].to(writer.device), positions, visible, part, start=0)
    return pads


@torch.inference_mode()
def write(
    writer: Writer, rows: list[Row], new_tokens: int, noise: Tensor, rng: random.Random
) -> None:
    """Let the target write `new_tokens` tokens in every row.

    A token is `argmax(logits / T + gumbel)`; greedy rows take no noise. In user turns only ASCII
    words are drawn (another language would follow otherwise), and the turn may not end at once.
    """
    width = max(len(row.tokens) for row in rows) - 1
    last = [row.tokens.pop() for row in rows]  # the newest token of a row is not yet read
    writer.open(len(rows), width + new_tokens)
    pads = prefill(writer, rows, width)
    for row, token in zip(rows, last, strict=True):
        row.tokens.append(token)
    slots = torch.arange(width + new_tokens, device=writer.device)
    foreign = torch.where(rows[0].turns.is_ascii, 0.0, -torch.inf).to(writer.device)
    for slot in range(width, width + new_tokens):
        visible = (slots[None, : slot + 1] >= pads[:, None]).unsqueeze(1)
        tokens = torch.tensor(last, device=writer.device).unsqueeze(1)
        hidden = writer.forward(tokens, (slot - pads).unsqueeze(1), visible, start=slot)
        logits = writer.logits(hidden[:, 0]).float()  # [row, vocab]
        chosen = logits.argmax(-1)
        drawn = [i for i, row in enumerate(rows) if row.role is not Role.GREEDY and not row.due]
        if drawn:
            heat = [USER_TEMPERATURE if rows[i].in_user else rows[i].temperature for i in drawn]
            scores = logits[drawn] / torch.tensor(heat, device=writer.device).unsqueeze(1)
            offset = rng.randrange(noise.numel() - scores.numel())
            scores += noise[offset : offset + scores.numel()].view_as(scores)
            for place, i in enumerate(drawn):
                if rows[i].in_user:
                    scores[place] += foreign
                    if rows[i].turn_len < SHORTEST_TURN:
                        scores[place, rows[i].turns.end] = -torch.inf
            chosen[drawn] = scores.argmax(-1)
        last = [row.add(token) for row, token in zip(rows, chosen.tolist(), strict=True)]


def is_kept(row: Row, exclusion: Exclusion) -> bool:
    """Say whether a finished row may be trained on: English, and nothing of a benchmark in it."""
    foreign = sum(not row.turns.is_ascii[token] for token in row.tokens)
    text: str = row.turns.tokenizer.decode(row.tokens, skip_special_tokens=True)
    return foreign < 0.03 * len(row.tokens) and not exclusion.refuses(text)


def save_shard(path: Path, kind: Kind, rows: list[Row]) -> None:
    """Write rows as one flat run of tokens with their roles and the rows' lengths."""
    tensors = {
        "tokens": torch.tensor([t for row in rows for t in row.tokens], dtype=torch.int32),
        "roles": torch.tensor([r for row in rows for r in row.roles], dtype=torch.uint8),
        "lengths": torch.tensor([len(row.tokens) for row in rows], dtype=torch.int32),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"kind": json.dumps(kind.name)})
    partial.rename(path)


def main() -> None:
    """Write shards until there are enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="folder or hub id of the target model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--shards", type=int, default=56)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--chat-prompts", type=Path, default=Path("chat.jsonl"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    options.out.mkdir(parents=True, exist_ok=True)
    turns = Turns(AutoTokenizer.from_pretrained(options.target))
    exclusion = benchmark_exclusion(options.chat_prompts)
    target = AutoModelForCausalLM.from_pretrained(options.target)
    writer = Writer(target, torch.bfloat16, options.device)
    generator = torch.Generator().manual_seed(options.seed)
    noise = -torch.empty(NOISE_LEN).exponential_(generator=generator).log_().to(options.device)
    for index, kind in zip(range(options.shards), itertools.cycle(CYCLE), strict=False):
        path = options.out / f"text_{index:04d}.safetensors"
        if path.exists():
            continue
        began = time.monotonic()
        rng = random.Random(options.seed * 100_003 + index)
        rows = start_rows(kind, options.rows, rng, turns, exclusion)
        write(writer, rows, NEW_TOKENS[kind], noise, rng)
        kept = [row for row in rows if is_kept(row, exclusion)]
        save_shard(path, kind, kept)
        rate = options.rows * NEW_TOKENS[kind] / (time.monotonic() - began)
        logger.info("%s %s: %d rows, %.0f tokens/s", path.name, kind.name, len(kept), rate)


if __name__ == "__main__":
    main()
