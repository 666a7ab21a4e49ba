"""The student: a few layers of the teacher's shape between its embedding and its output rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError
from fivefold_lm.layout import decoder_config
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

DRAFT = "draft.safetensors"
"""The student as a draft file, beside the model folder's own weights."""
_SHAPE = (
    "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim"
    " rms_norm_eps max_position_embeddings rope_parameters num_hidden_layers"
)
_QUIET = 0.2
"""Scale of what a new layer adds at first, so that its output is near its input."""
_SPREAD = 2.0
"""Standard deviation of the first logits, which is about that of a trained model's."""


def new_student(teacher: PreTrainedModel, layers: int, seed: int) -> PreTrainedModel:
    """Return an untrained model of the teacher's shape with fewer layers.

    Embedding and output rows are the teacher's, frozen; its first logits are of the teacher's
    size.

    Args:
        teacher: the model to learn from.
        layers: of the student.
        seed: of its weights.

    Raises:
        UserError: the teacher has fewer layers than that.
    """
    config = copy.deepcopy(teacher.config)
    inner: Any = decoder_config(teacher)
    if layers >= inner.num_hidden_layers:
        raise UserError(
            f"the teacher has {inner.num_hidden_layers} layers itself",
            setting="distill.layers",
            value=layers,
            remedy="give fewer",
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]
    auto: Any = AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student: PreTrainedModel = auto.from_config(config, dtype=teacher.dtype)
    nn.Module.to(student, teacher.device)
    _share(student, teacher)
    with torch.no_grad():
        for name, weight in student.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "c_proj.weight")):
                weight.mul_(_QUIET)
        final = _final_norm(student)
        source = _final_norm(teacher)
        if final is not None and source is not None:
            rows = plain_rows(teacher, "teacher").float()
            spread = (rows * source.float()).square().sum(1).mean().sqrt()
            final.copy_(source * (_SPREAD / spread))
    student.train()
    return student


def plain_rows(model: PreTrainedModel, setting: str) -> Float[Tensor, "vocab hidden"]:
    """Return a model's output rows, for logits that are rows @ hidden and nothing else.

    Raises:
        UserError: its logits are capped, scaled or shifted.
    """
    config: Any = decoder_config(model)
    bent = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(config, name, None) not in (None, 1, 1.0)
    ]
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if getattr(head, "bias", None) is not None:
        bent.append("a bias of the head")
    if bent:
        raise UserError(
            f"distillation reads plain logits, and this model has {bent[0]}",
            setting=setting,
            remedy="choose a model such as Llama, Qwen, Mistral or SmolLM",
        )
    rows: Tensor = head.weight
    return rows


def frequent_words(ids: Int[Tensor, " token"], vocab_size: int, count: int) -> Int[Tensor, " word"]:
    """Return the most frequent words of some text, the most frequent first.

    Words that do not occur follow by their number: merges of a tokenizer are numbered by frequency
    in the text it was made on.

    Args:
        ids: the text.
        vocab_size: of the tokenizer.
        count: how many words; 0: all, in the order of their numbers.
    """
    if not count or count >= vocab_size:
        return torch.arange(vocab_size)
    counts = torch.bincount(ids.long(), minlength=vocab_size)
    return counts.argsort(descending=True, stable=True)[:count]


def write_draft(
    student: PreTrainedModel, words: Int[Tensor, " word"], folder: Path, card: dict[str, Any]
) -> bool:
    """Write a Llama student as a draft file (`drafting.draft=FOLDER/draft.safetensors`).

    The format is that of `fivefold_speculative.drafts`: weights in float16 without embedding and
    output rows, which are the target's, the ids of the words, and a card in the header.

    Args:
        student: the model.
        words: ids of the words it can propose.
        folder: where to write.
        card: further fields of the card.

    Returns:
        Whether there was anything to write: other families have no such file.
    """
    config: Any = decoder_config(student)
    if config.model_type != "llama":
        return False
    fields = {name: getattr(config, name) for name in _SHAPE.split()}
    tensors = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in student.state_dict().items()
        if name.startswith("model.") and "embed_tokens" not in name
    }
    tensors["vocab_ids"] = words.to("cpu", torch.int32).contiguous()
    whole = {"kind": "independent", "config": fields, "vocab_size": words.numel(), **card}
    text = json.dumps(whole, default=str)
    save_file(tensors, folder / DRAFT, metadata={"draft": text})
    return True


def _share(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Copy embedding and output rows from the teacher and freeze them."""
    for part in ("get_input_embeddings", "get_output_embeddings"):
        own, source = getattr(student, part)(), getattr(teacher, part)()
        with torch.no_grad():
            own.weight.copy_(source.weight)
        own.weight.requires_grad_(False)


def _final_norm(model: PreTrainedModel) -> Tensor | None:
    decoder: Any = model.base_model
    norm = getattr(decoder, "norm", None)
    weight = getattr(norm, "weight", None)
    return weight if isinstance(weight, Tensor) else None
