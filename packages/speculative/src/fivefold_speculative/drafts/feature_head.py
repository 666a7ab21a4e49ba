"""Feature head: one decoder layer that reads the target's last hidden states, as EAGLE does."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .weights import DraftCard, read_draft, write_draft
from .words import WordHead, adopt_tensors, draft_model, own_tensors

__all__ = ["KIND", "FeatureHead", "load_feature_head", "save_feature_head"]

KIND = "feature_head"


class FeatureHead(nn.Module):
    """Predict the target's next feature from its last one and the token drawn from it.

    x[i+1] = fc([embedding(token[i+1]) ; feature[i]]),   hidden = model(x),   logits = head(hidden)

    A feature is the target's last hidden state after its final norm. Where the target has not been
    (deeper levels of a draft), the head's own hidden state takes the feature's place.

    Source: EAGLE, arXiv 2401.15077; training on its own features: EAGLE-3, arXiv 2503.01840.

    Args:
        config: fields of the decoder's `LlamaConfig`.
        vocab_ids: ids of the words it can propose.
        target: the target model, whose embedding is shared.
    """

    def __init__(
        self, config: dict[str, Any], vocab_ids: Int[Tensor, " word"], target: PreTrainedModel
    ) -> None:
        super().__init__()
        self.model = draft_model(config, target)
        weight = self.model.norm.weight
        size = weight.shape[0]
        self.fc = nn.Linear(2 * size, size, bias=False, device=weight.device, dtype=weight.dtype)
        self.words = WordHead(target, vocab_ids)

    @property
    def vocab_ids(self) -> Int[Tensor, " word"]:
        """The target's ids of the words, in the order of the logits."""
        return self.words.vocab_ids

    def embed(
        self,
        tokens: Int[Tensor, "batch node"],
        features: Float[Tensor, "batch node hidden"],
    ) -> Float[Tensor, "batch node hidden"]:
        """Return the decoder's input for tokens and the features of the positions before them."""
        joined = torch.cat([self.model.embed_tokens(tokens), features], dim=-1)
        inputs: Tensor = self.fc(joined)
        return inputs

    def head(self, hidden: Float[Tensor, "... hidden"]) -> Float[Tensor, "... word"]:
        """Return the logits of the kept words from the decoder's last hidden states."""
        logits: Tensor = self.words(hidden)
        return logits


def load_feature_head(path: Path | str, target_module: PreTrainedModel) -> FeatureHead:
    """Load a feature head in the target's dtype and on its device.

    Args:
        path: draft file.
        target_module: the target model.

    Raises:
        ValueError: the file holds no feature head, or the target does not fit it.
    """
    tensors, vocab_ids, card = read_draft(Path(path), KIND)
    draft = FeatureHead(card.config, vocab_ids, target_module)
    adopt_tensors(draft, tensors)
    return draft.eval()


def save_feature_head(draft: FeatureHead, path: Path | str, card: DraftCard) -> None:
    """Write a feature head's own weights."""
    write_draft(Path(path), own_tensors(draft), draft.vocab_ids, card)
