"""Independent draft: a small decoder of its own that reads the target's tokens."""

from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from .weights import DraftCard, read_draft, write_draft
from .words import WordHead, adopt_tensors, draft_model, own_tensors

__all__ = ["KIND", "IndependentDraft", "load_independent", "save_independent"]

KIND = "independent"


class IndependentDraft(nn.Module):
    """A few decoder layers between the target's own embedding and its own output rows.

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
        self.words = WordHead(target, vocab_ids)

    @property
    def vocab_ids(self) -> Int[Tensor, " word"]:
        """The target's ids of the words, in the order of the logits."""
        return self.words.vocab_ids

    def head(self, hidden: Float[Tensor, "... hidden"]) -> Float[Tensor, "... word"]:
        """Return the logits of the kept words from the decoder's last hidden states."""
        logits: Tensor = self.words(hidden)
        return logits


def load_independent(path: Path | str, target_module: PreTrainedModel) -> IndependentDraft:
    """Load an independent draft in the target's dtype and on its device.

    Args:
        path: draft file.
        target_module: the target model.

    Raises:
        ValueError: the file holds no independent draft, or the target does not fit it.
    """
    tensors, vocab_ids, card = read_draft(Path(path), KIND)
    draft = IndependentDraft(card.config, vocab_ids, target_module)
    adopt_tensors(draft, tensors)
    return draft.eval()


def save_independent(draft: IndependentDraft, path: Path | str, card: DraftCard) -> None:
    """Write an independent draft's own weights."""
    write_draft(Path(path), own_tensors(draft), draft.vocab_ids, card)
