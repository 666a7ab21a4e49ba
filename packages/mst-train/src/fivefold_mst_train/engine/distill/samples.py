"""Samples: text that the teacher writes, to be learnt from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError
from fivefold_lm.quiet import without_bars
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import DistillConfig
from ..data.tokens import Tokens

FILE = "samples.safetensors"
"""Where samples are kept, so that a resumed run need not write them again."""


def prompts(tokens: Tokens, config: DistillConfig, seed: int) -> list[list[int]]:
    """Return the beginnings of samples, drawn from the data.

    Of a conversation it is what stands before the first answer; of a text, some tokens in a row.

    Args:
        tokens: the data.
        config: how many, and how long.
        seed: of the draw.
    """
    firsts = torch.nonzero(tokens.starts).flatten().tolist()
    spans = []
    for first, last in zip(firsts, [*firsts[1:], len(tokens)], strict=True):
        learnt = torch.nonzero(tokens.is_learnt[first:last]).flatten()
        if len(learnt) and int(learnt[0]) > 0:
            spans.append((first, first + int(learnt[0])))
        else:
            ends = range(first + config.prompt_len, last, config.prompt_len)
            spans += [(end - config.prompt_len, end) for end in ends]
    if not spans:
        raise UserError(
            f"no document of the data is longer than {config.prompt_len} tokens",
            setting="distill.prompt_len",
            value=config.prompt_len,
            remedy="give fewer",
        )
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(spans), generator=source).tolist()
    chosen = [spans[drawn[index % len(drawn)]] for index in range(config.samples)]
    return [tokens.ids[first:last].tolist() for first, last in chosen]


def write_samples(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    begins: list[list[int]],
    seq_len: int,
    config: DistillConfig,
    seed: int,
    say: Callable[[str], None],
) -> Tokens:
    """Let the teacher continue prompts; what it wrote is learnt, the prompts are not.

    Args:
        teacher: the model.
        tokenizer: its tokenizer.
        begins: prompts.
        seq_len: tokens of a sample, prompt included.
        config: temperature, samples written at once.
        seed: of the random numbers.
        say: told how far it has come.
    """
    parts: list[tuple[list[int], list[bool]]] = []
    order = sorted(range(len(begins)), key=lambda index: len(begins[index]))
    torch.manual_seed(seed)
    for at in range(0, len(order), config.sample_batch):
        group = [begins[index] for index in order[at : at + config.sample_batch]]
        parts += _written(teacher, tokenizer, group, seq_len, config.sample_temperature)
        say(f"the teacher has written {len(parts)} of {len(begins)} samples")
    return Tokens.of(parts)


def save_samples(tokens: Tokens, path: Path) -> None:
    """Keep samples, whole or not at all."""
    tensors = {"ids": tokens.ids, "is_learnt": tokens.is_learnt, "starts": tokens.starts}
    draft = path.with_suffix(".tmp")
    draft.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, draft)
    draft.replace(path)


def load_samples(path: Path) -> Tokens:
    """Read samples back."""
    found = load_file(path)
    return Tokens(found["ids"], found["is_learnt"], found["starts"])


@torch.inference_mode()
def _written(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    group: list[list[int]],
    seq_len: int,
    temperature: float,
) -> list[tuple[list[int], list[bool]]]:
    """Continue a batch of prompts, padded on the left."""
    end: Any = tokenizer.eos_token_id
    width = max(map(len, group))
    pad = end if end is not None else 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in group])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in group])
    law: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        law |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    with without_bars():
        generate: Any = teacher.generate
        output: Tensor = generate(
            input_ids=ids.to(teacher.device),
            attention_mask=mask.to(teacher.device),
            max_new_tokens=max(1, seq_len - width),
            pad_token_id=pad,
            **law,
        )
    ends = {end, *_ends(teacher)}
    found = []
    for row, new in zip(group, output[:, width:].tolist(), strict=True):
        stop = next((place + 1 for place, token in enumerate(new) if token in ends), len(new))
        found.append((row + new[:stop], [False] * len(row) + [True] * stop))
    return found


def _ends(teacher: PreTrainedModel) -> list[int]:
    ids = getattr(teacher.generation_config, "eos_token_id", None)
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
