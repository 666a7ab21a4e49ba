"""The reduced output vocabulary of drafts: some rows of the target's own output matrix."""

from typing import Any

from fivefold_lm.packed import weight_rows
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

__all__ = ["WordHead", "adopt_tensors", "draft_model", "own_tensors"]


class WordHead(nn.Module):
    """Logits of a few of the target's words, by the target's own output rows.

    logits[k] = <hidden, output_embedding[vocab_ids[k]]>

    The rows are copied once, so that a step reads them in one run; they are never stored.

    Args:
        target: the target model.
        vocab_ids: ids of the words, in the order of the logits.
    """

    vocab_ids: Tensor
    rows: Tensor

    def __init__(self, target: PreTrainedModel, vocab_ids: Int[Tensor, " word"]) -> None:
        super().__init__()
        vocab_ids = vocab_ids.to(target.device)
        rows = weight_rows(target.get_output_embeddings(), vocab_ids)  # type: ignore[no-untyped-call]
        self.register_buffer("vocab_ids", vocab_ids, persistent=False)
        self.register_buffer("rows", rows.to(target.dtype).contiguous(), persistent=False)

    def forward(self, hidden: Float[Tensor, "... hidden"]) -> Float[Tensor, "... word"]:
        """Return the logits of the kept words."""
        return F.linear(hidden, self.rows)


def draft_model(config: dict[str, Any], target: PreTrainedModel) -> LlamaModel:
    """Return an untrained decoder of a draft's configuration, sharing the target's embedding.

    The embedding module is the target's own object, no copy: moving the draft moves it too.

    Args:
        config: fields of `LlamaConfig`.
        target: the target model; dtype and device are those of its embedding.

    Raises:
        ValueError: the target's embedding has another size than the draft expects.
    """
    embedding = target.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    vocab_size, hidden_size = embedding.num_embeddings, embedding.embedding_dim
    if (config["vocab_size"], config["hidden_size"]) != (vocab_size, hidden_size):
        raise ValueError(
            f"the draft expects {config['vocab_size']} words of {config['hidden_size']} numbers; "
            f"the target's embedding holds {vocab_size} of {hidden_size}"
        )
    unused = {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None}
    model = LlamaModel(LlamaConfig(**{**config, **unused}))
    model.config.vocab_size = model.vocab_size = vocab_size
    nn.Module.to(model, target.device, target.dtype)
    model.embed_tokens = embedding
    return model


def own_tensors(draft: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are the draft's own, by name: all but the shared embedding."""
    return {name: x for name, x in draft.state_dict().items() if "embed_tokens" not in name}


def adopt_tensors(draft: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put stored weights into a draft, in its own dtype and on its own device.

    Raises:
        ValueError: a weight is missing or has no place.
    """
    if set(tensors) != set(own_tensors(draft)):
        raise ValueError(f"weights do not match: {set(tensors) ^ set(own_tensors(draft))}")
    draft.load_state_dict(tensors, strict=False)
