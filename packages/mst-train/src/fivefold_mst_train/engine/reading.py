"""From settings to blocks: documents read, encoded, packed."""

from __future__ import annotations

from fivefold import UserError
from transformers import PreTrainedTokenizerBase

from .config import DataConfig
from .data.blocks import Blocks
from .data.documents import documents
from .data.tokens import Tokens, check_vocabulary, encode


def read_tokens(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str = ""
) -> Tokens:
    """Read and encode the data that the settings name.

    Args:
        config: the settings.
        tokenizer: the model's.
        vocab_size: of the model's output.
        name: in place of `config.name`: the data for evaluation.

    Raises:
        UserError: they cannot be read, or tokenizer and model do not belong together.
    """
    found = documents(config, name, "data.eval_name" if name else "data.name")
    tokens = encode(found, tokenizer, config.loss_on)
    check_vocabulary(tokens, vocab_size)
    return tokens


def read_blocks(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int, seq_len: int
) -> Blocks:
    """Read, encode and pack the data that the settings name.

    Args:
        config: the settings.
        tokenizer: the model's.
        vocab_size: of the model's output.
        seq_len: tokens of a block.

    Raises:
        UserError: as `read_tokens`, or there is too little for one block.
    """
    tokens = read_tokens(config, tokenizer, vocab_size)
    return Blocks(tokens, seq_len, config.mask_documents)


def read_evaluation(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int, seq_len: int
) -> Blocks | None:
    """Read the data that are named for evaluation; None: a share of the others is held out.

    Raises:
        UserError: as `read_blocks`.
    """
    if not config.eval_name:
        return None
    tokens = read_tokens(config, tokenizer, vocab_size, config.eval_name)
    try:
        return Blocks(tokens, seq_len, config.mask_documents, "data.eval_name")
    except UserError as error:
        raise error.located("data.eval_name", config.eval_name) from error
