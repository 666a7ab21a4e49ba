"""What a row has said so far, as far as penalties and processors need to know it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class History:
    """The tokens of each row: values, never changed in place, so that a tree path can extend them.

    A sampler keeps only the parts it needs; the others are None.
    """

    seen: Bool[Tensor, "batch vocab"] | None = None
    """Tokens in prompt or text (repetition penalty)."""
    written: Bool[Tensor, "batch vocab"] | None = None
    """Tokens in the text alone (presence penalty)."""
    ids: Int[Tensor, "batch token"] | None = None
    """Prompt and text, padded on the right (stock processors)."""
    lengths: Int[Tensor, " batch"] | None = None
    """How many of `ids` count."""

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        *,
        seen: bool = True,
        written: bool = True,
        ids: bool = True,
        device: torch.device | str = "cpu",
    ) -> "History":
        """Begin with prompts, keeping the parts asked for."""
        size = (len(prompts), vocab_size)
        none = torch.zeros(size, dtype=torch.bool, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = max((len(prompt) for prompt in prompts), default=0)
        padded = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        padded = padded.to(device)
        counts = torch.arange(width, device=device) < lengths[:, None]
        read = none.long().scatter_add(1, padded, counts.long()) > 0
        return cls(
            seen=read if seen else None,
            written=none if written else None,
            ids=padded if ids else None,
            lengths=lengths if ids else None,
        )

    def with_tokens(
        self, tokens: Int[Tensor, " batch"], alive: Bool[Tensor, " batch"]
    ) -> "History":
        """Return the history after one more token in each row that is alive."""
        seen, written, ids, lengths = self.seen, self.written, self.ids, self.lengths
        if seen is not None:
            seen = _marked(seen, tokens, alive)
        if written is not None:
            written = _marked(written, tokens, alive)
        if ids is not None and lengths is not None:
            room = torch.cat([ids, ids.new_zeros(ids.shape[0], 1)], dim=1)
            at = lengths[:, None]
            token = torch.where(alive[:, None], tokens[:, None], room.gather(1, at))
            ids, lengths = room.scatter(1, at, token), lengths + alive
        return History(seen, written, ids, lengths)

    def select(self, rows: Int[Tensor, " kept"]) -> "History":
        """Return the history of these rows, in this order; rows may repeat."""
        parts = {name: part for name, part in vars(self).items() if part is not None}
        return replace(self, **{name: part[rows] for name, part in parts.items()})


def _marked(marks: Tensor, tokens: Tensor, alive: Tensor) -> Tensor:
    at = tokens[:, None]
    return marks.scatter(1, at, marks.gather(1, at) | alive[:, None])
