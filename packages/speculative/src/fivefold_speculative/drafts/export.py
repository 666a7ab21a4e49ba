"""Export: write an independent draft as an ordinary Llama folder, for use without Fivefold."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from .independent import IndependentDraft

__all__ = ["export_assistant"]

_NORM_GAIN, _REFUSAL = 1e3, 6e4
"""Final norm's weight of the constant coordinate, and its coefficient in a missing word's logit:
both fit float16, and their product outweighs any residual stream."""


def export_assistant(
    draft: IndependentDraft,
    target_module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | str,
) -> None:
    """Write a folder that `AutoModelForCausalLM` loads as a draft over the whole vocabulary.

    Words the draft keeps have its logits; all others are far below -1000. Llama's output matrix
    has no bias, so the model is widened from D to E coordinates, one of which is a constant c that
    every layer passes on and none reads; the missing words' rows read nothing else. The norms stay
    as they were, for with c^2 = D eps - E eps' and weights scaled by sqrt(D / E)

        x / sqrt((|x|^2 + c^2) / E + eps') * sqrt(D / E) = x / sqrt(|x|^2 / D + eps).

    Args:
        draft: the draft.
        target_module: the target whose embedding it shares.
        tokenizer: the target's tokenizer, written beside the model.
        folder: where to write.
    """
    old, source = draft.model.config, target_module.config
    size, wide = old.hidden_size, old.hidden_size + old.num_attention_heads
    budget = size * old.rms_norm_eps  # half of it for c^2, half for the new eps
    fields = old.to_dict() | {
        "hidden_size": wide,
        "rms_norm_eps": budget / 2 / wide,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": source.bos_token_id,
        "eos_token_id": source.eos_token_id,
        "pad_token_id": source.pad_token_id,
    }
    model = LlamaForCausalLM(LlamaConfig(**fields))
    nn.Module.float(model)
    weights = {name: x.detach().float() for name, x in draft.model.state_dict().items()}
    with torch.no_grad():
        for name, wider in model.model.state_dict().items():
            wider.copy_(widened(weights[name], wider.shape))
            if name.endswith("norm.weight"):
                wider.mul_((size / wide) ** 0.5)
        model.model.embed_tokens.weight[:, size] = (budget / 2) ** 0.5
        model.model.norm.weight[size] = _NORM_GAIN
        head = model.lm_head.weight.zero_()
        head[:, size] = -_REFUSAL
        head[draft.vocab_ids] = widened(draft.words.rows.float(), (len(draft.vocab_ids), wide))
    model.generation_config.eos_token_id = target_module.generation_config.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def widened(weight: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Return the weight with zeros added at the end of each axis, up to the shape."""
    wider = weight.new_zeros(shape)
    wider[tuple(slice(size) for size in weight.shape)] = weight
    return wider
