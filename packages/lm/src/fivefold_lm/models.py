"""A language model: module, tokenizer, and what it can do."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fivefold import UserError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ._words import Capability
from .config import ModelConfig
from .layout import decoder_config, why_no_tree
from .marks import matrix_mark, weight_mark
from .offload.streamed import offload_of
from .packed import BlockEmbedding, BlockLinear
from .text import decoded

CHAT = ("auto", "always", "never")
PASSING = ("transformers_version", "_name_or_path", "architectures", "dtype")  # not the model's


@dataclass
class LanguageModel:
    """A causal language model and its tokenizer, ready to decode."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    """As the user named it: hub id, folder, file."""
    context_len: int
    """Most tokens of prompt and answer together."""
    capabilities: frozenset[Capability]
    """What methods may rely on."""
    why_not: dict[Capability, str] = field(default_factory=dict)
    """For each capability it lacks, the reason."""
    fingerprint: str = ""
    """Hash of config and some numbers of every weight: the same for the same model."""
    vocab_size: int = 0
    """Entries of the logits."""
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a text."""

    @classmethod
    def wrap(
        cls, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> "LanguageModel":
        """Describe a module that is loaded already; it is left as it is."""
        reason = why_no_tree(module)
        every = frozenset(Capability)
        return cls(
            module=module,
            tokenizer=tokenizer,
            name=name,
            context_len=context_len(module),
            capabilities=every if reason is None else frozenset({Capability.HIDDEN_STATES}),
            why_not={}
            if reason is None
            else dict.fromkeys((Capability.TREE_ATTENTION, Capability.CROPPABLE), reason),
            fingerprint=fingerprint(module),
            vocab_size=_vocab_size(module),
            eos_ids=_eos_ids(module, tokenizer),
        )

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.module.dtype

    def require(self, capability: Capability) -> None:
        """Refuse a model that lacks a capability.

        Raises:
            UserError: with the reason.
        """
        if capability not in self.capabilities:
            raise UserError(
                f"this model has no {capability}: {self.why_not[capability]}",
                setting="model.name",
                value=self.name,
                remedy="choose a model with plain or sliding-window attention",
            )

    def encode(self, prompt: str | Sequence[Mapping[str, str]], chat: str = "auto") -> list[int]:
        """Turn a prompt into tokens.

        Args:
            prompt: text, or messages of `role` and `content`.
            chat: `auto` applies the model's chat template to text when it has one, `always`
                insists on it, `never` takes the text as it is. Messages always need a template.

        Raises:
            UserError: a template is needed and there is none, or it refuses the messages.
        """
        if chat not in CHAT:
            raise ValueError(f"chat is one of {', '.join(CHAT)}")
        is_text = isinstance(prompt, str)
        template = self.tokenizer.chat_template
        if is_text and (chat == "never" or (chat == "auto" and not template)):
            return list(self.tokenizer(prompt)["input_ids"])
        if not template:
            raise UserError(
                "this model has no chat template",
                setting="model.chat_template",
                remedy="give one (Jinja text or a file), or plain text with chat=never",
            )
        messages: Any = [{"role": "user", "content": prompt}] if is_text else list(prompt)
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program of somebody else's
            raise UserError(
                f"the chat template refuses the messages: {error}",
                setting="model.chat_template",
                remedy="send messages with role and content as the model expects them",
            ) from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Turn tokens into text, without special tokens."""
        return decoded(self.tokenizer, ids, skip_special=True)


def load_model(config: ModelConfig, say: Callable[[str], None] = lambda _: None) -> LanguageModel:
    """Load the model that the settings name.

    Args:
        config: which model, and where it runs.
        say: told, once each, what takes time: a download, a conversion.

    Raises:
        UserError: no such model, no access to it, a broken file, or one that cannot be decoded.
    """
    from .loading import load

    return load(config, say)


def context_len(module: PreTrainedModel) -> int:
    """Most positions the model may see.

    Models whose rotary frequencies change with the length of the text (dynamic, longrope) are
    held to the length before the change: keys computed before it would no longer fit.
    """
    config = decoder_config(module)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
    known = [getattr(config, name, None) for name in names]
    longest = next((int(value) for value in known if value), 2**31)
    rope: Any = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        longest = min(longest, int(rope.get("original_max_position_embeddings") or longest))
    return longest


def fingerprint(module: PreTrainedModel) -> str:
    """Hash the config and some numbers of every weight; streamed or not, it is the same model."""
    offload = offload_of(module)
    if offload is not None:
        return hash_of(module, offload.marks)
    weights = [weight_mark(name, weight) for name, weight in module.named_parameters()]
    blocks = [
        matrix_mark(name, part.matrix)
        for name, part in module.named_modules()
        if isinstance(part, BlockLinear | BlockEmbedding)
    ]
    return hash_of(module, weights + blocks)


def hash_of(module: PreTrainedModel, marks: Sequence[bytes]) -> str:
    """Hash a model's config and the marks of its weights."""
    settings = decoder_config(module).to_dict()
    for passing in PASSING:
        settings.pop(passing, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for mark in marks:
        digest.update(mark)
    return digest.hexdigest()[:16]


def _vocab_size(module: PreTrainedModel) -> int:
    head: Any = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(head, torch.nn.Linear):
        return int(head.out_features)
    if head is not None and hasattr(head, "weight"):
        return int(head.weight.shape[0])
    return int(decoder_config(module).vocab_size)


def _eos_ids(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Collect the end tokens that generation config, config and tokenizer name."""
    found: list[int] = []
    generation = getattr(module, "generation_config", None)
    for source in (generation, module.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
        if found and source is not tokenizer:
            break
    return tuple(dict.fromkeys(found))
