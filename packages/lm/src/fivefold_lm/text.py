"""Text from tokens, piece by piece."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

HALF = "\ufffd"  # what a decoder shows for bytes that are no character yet


class TextStream:
    """Turn tokens into text as they come: the pieces joined are the text of all tokens.

    Some characters are spread over several tokens, and some tokenizers write a token differently
    at the start of a text. So a piece is the difference between two decodings that start at the
    same token, and it is held back while it ends in half a character.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        skip_special_tokens: bool = True,
        context: list[int] | None = None,
    ) -> None:
        """Begin a text.

        Args:
            tokenizer: the model's own.
            skip_special_tokens: leave out the end-of-text token and the like.
            context: tokens just before the text, which decide how its first token is written.
        """
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids = list(context or [])[-8:]
        self._done = len(self._ids)  # tokens whose text has been given out
        self._from = 0  # where decoding starts: some tokens before `_done`

    def push(self, ids: list[int]) -> str:
        """Add tokens; return the text that they complete."""
        self._ids += ids
        piece = self._pending()
        if piece.endswith(HALF):
            return ""
        return self._give(piece)

    def flush(self) -> str:
        """Return what was held back; the text has ended."""
        return self._give(self._pending())

    def _pending(self) -> str:
        before = self._decode(self._ids[self._from : self._done])
        return self._decode(self._ids[self._from :])[len(before) :]

    def _give(self, piece: str) -> str:
        if piece:  # tokens without a text of their own stay in front of the next ones
            self._from, self._done = self._done, len(self._ids)
        return piece

    def _decode(self, ids: list[int]) -> str:
        return decoded(self._tokenizer, ids, self._skip)


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip_special: bool) -> str:
    """Turn tokens into exactly their text: no spaces tidied away."""
    text: Any = tokenizer.decode(
        list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
    )
    return str(text)
