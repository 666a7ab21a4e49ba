"""Draft models: a smaller model of the same tokenizer, or a head on the target's hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from fivefold import UserError
from fivefold.errors import near
from fivefold_lm import (
    Capability,
    FullAttention,
    LanguageModel,
    ModelConfig,
    Sampler,
    SamplingConfig,
    TreeForward,
    load_model,
)
from fivefold_lm.kernels import hold_packed, speed_up, speedup_of
from fivefold_lm.loading import NoSuchModelError
from fivefold_lm.lower_bits import lower_bits_copy
from fivefold_lm.packed import pack_linears, packed_product
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from .config import QUANTISED
from .drafts import shipped_for
from .drafts.feature_head import FeatureHead, load_feature_head
from .drafts.independent import IndependentDraft, load_independent

SHIPPED = "shipped"
_SETTING = "drafting.draft"


class DraftKind(StrEnum):
    """What a draft reads."""

    INDEPENDENT = "independent"
    """Tokens."""
    FEATURE_HEAD = "feature_head"
    """Tokens and the target's last hidden states."""


@dataclass
class DraftModel:
    """A decoder that writes ahead of the target.

    Args:
        module: the decoder.
        head: logits from its last hidden states; `None`: the module has its own output layer.
        embed: its input from tokens and features; `None`: it reads tokens.
        vocab_ids: the target's ids of its words; `None`: the first ones of the vocabulary.
        num_words: columns of its logits that are tokens of the target.
        context_len: most tokens it can read.
        name: as the user named it.
    """

    module: PreTrainedModel
    head: Callable[[Tensor], Tensor] | None
    embed: Callable[[Tensor, Tensor], Tensor] | None
    vocab_ids: Int[Tensor, " word"] | None
    num_words: int
    context_len: int
    name: str

    @classmethod
    def of(cls, draft: LanguageModel, target: LanguageModel, setting: str = _SETTING) -> DraftModel:
        """Return a language model as a draft for a target.

        Args:
            draft: the smaller model.
            target: the model that it is for.
            setting: what names it, for errors.

        Raises:
            UserError: the tokenizers differ, or the draft cannot run a tree.
        """
        if draft.tokenizer.get_vocab() != target.tokenizer.get_vocab():
            raise UserError(
                f"draft and target read different vocabularies ({len(draft.tokenizer)} and "
                f"{len(target.tokenizer)} tokens)",
                setting=setting,
                value=draft.name,
                remedy=f"choose a draft with the tokenizer of {target.name}",
            )
        if Capability.TREE_ATTENTION not in draft.capabilities:
            raise UserError(
                f"this model cannot draft: {draft.why_not[Capability.TREE_ATTENTION]}",
                setting=setting,
                value=draft.name,
                remedy="choose a draft with plain or sliding-window attention",
            )
        num_words = min(draft.vocab_size, target.vocab_size)
        return cls(draft.module, None, None, None, num_words, draft.context_len, draft.name)

    @property
    def kind(self) -> DraftKind:
        """What it reads."""
        return DraftKind.INDEPENDENT if self.embed is None else DraftKind.FEATURE_HEAD

    def forward(self) -> TreeForward:
        """Return what runs it over nodes of a tree."""
        return TreeForward(self.module, FullAttention())

    def logits(self, own: Tensor | None, hidden: Tensor | None) -> Float[Tensor, "batch node word"]:
        """Return float32 logits over its words.

        Args:
            own: logits of the module's output layer, if it has one.
            hidden: its last hidden states, if it has not.
        """
        if self.head is None:
            assert own is not None
            return own[..., : self.num_words].float()
        assert hidden is not None
        return self.head(hidden).float()


def no_feature_head(name: str, setting: str, remedy: str) -> UserError:
    """Return the refusal of a whole model where a feature head is needed."""
    return UserError(
        "a feature head is a draft file made for one target, no model of its own",
        setting=setting,
        value=name,
        remedy=remedy,
    )


class DraftLoader:
    """Finds draft models for a target; loads each once.

    Args:
        target: the model that the drafts are for.
        config: the target's settings; a draft is loaded with the same token and trust.
        say: told what takes time: a download, a conversion.
        setting: what names the draft, for errors.
        methods: drafting methods that could stand there as well, for remedies.
    """

    def __init__(
        self,
        target: LanguageModel,
        config: ModelConfig | None = None,
        say: Callable[[str], None] = lambda _: None,
        *,
        setting: str = _SETTING,
        methods: Sequence[str] = (),
    ) -> None:
        self._target = target
        self._config = config or ModelConfig()
        self._say = say
        self._setting = setting
        self._methods = methods
        self._loaded: dict[tuple[str, DraftKind], DraftModel] = {}

    def __call__(self, name: str, kind: DraftKind) -> DraftModel:
        """Return a draft by the user's name for it.

        Args:
            name: `shipped`, a draft file, a folder, a hub id, or `quantised:BITS`.
            kind: what it must read.

        Raises:
            UserError: there is no such draft, or it does not fit the target.
        """
        if (name, kind) not in self._loaded:
            self._loaded[name, kind] = self._load(name, kind)
        return self._loaded[name, kind]

    def _load(self, name: str, kind: DraftKind) -> DraftModel:
        if name == SHIPPED:
            return self._read(self._shipped(kind), name, kind)
        if name.endswith(".safetensors"):
            return self._read(Path(name), name, kind)
        if name.startswith(f"{QUANTISED}:") and kind is DraftKind.INDEPENDENT:
            return self._copy(int(name.removeprefix(f"{QUANTISED}:")))
        if kind is DraftKind.FEATURE_HEAD:
            raise no_feature_head(
                name.partition(":")[0],
                self._setting,
                "give a .safetensors file written by the recipe, or shipped",
            )
        return DraftModel.of(self.load_model(name), self._target, self._setting)

    def _copy(self, bits: int) -> DraftModel:
        """Return a copy of the target in fewer bits, and say what it is like.

        Raises:
            UserError: our CPU kernels do not run here, or the copy would be the target itself.
        """
        from .measuring import own_texts  # decoding needs sessions, and they need drafts

        target = self._target
        speedup = speedup_of(target.module)
        if speedup is None or speedup.kernels.library is None:
            raise UserError(
                "a copy in fewer bits runs on our CPU kernels alone",
                setting=self._setting,
                value=QUANTISED,
                remedy="set model.device=cpu and model.kernels=auto (with g++ installed), or name "
                "a smaller model",
            )
        kernels = replace(speedup.kernels.for_drafts(), name=f"{speedup.kernels.name}-{bits}bits")
        greedy = Sampler(SamplingConfig(), vocab_size=target.vocab_size)
        module, report = lower_bits_copy(
            target,
            bits,
            speedup.kernels.library,
            lambda: own_texts(target, greedy).tokens,
            self._say,
        )
        self._say(f"draft: {target.name} in {report}")
        hold_packed(module, kernels)
        return DraftModel(
            module=module,
            head=None,
            embed=None,
            vocab_ids=None,
            num_words=target.vocab_size,
            context_len=target.context_len,
            name=f"{target.name} in {bits} bits",
        )

    def load_model(self, name: str) -> LanguageModel:
        """Load a whole model that is to draft, in the target's number format or 8 bits.

        Raises:
            UserError: it cannot be loaded; the draft's own setting is named.
        """
        config = replace(
            self._config,
            name=name,
            revision="",
            chat_template="",
            device=str(self._target.device),
            dtype=str(self._target.dtype).removeprefix("torch."),
            weights=self._weights(),
            offload="none",  # a draft stays, whatever streams the target
            memory="",
            disk_rate=0.0,
        )
        try:
            return load_model(config, self._say)
        except NoSuchModelError as error:
            raise UserError(
                error.problem, setting=self._setting, value=name, remedy=self._other_drafts(name)
            ) from error
        except UserError as error:
            raise UserError(
                error.problem, setting=self._setting, value=name, remedy=error.remedy
            ) from error

    def _weights(self) -> str:
        """Return 8 bits where our CPU kernels run: a draft's text is verified anyway."""
        speedup = speedup_of(self._target.module)
        return "int8" if speedup is not None and speedup.kernels.library is not None else "float"

    def _other_drafts(self, name: str) -> str:
        """Return a remedy that says what a draft may be; a model for targets is none."""
        close = near(name, [SHIPPED, QUANTISED, *self._methods])
        guess = f"did you mean {' or '.join(close)}? else " if close else ""
        methods = f", or a drafting method ({', '.join(self._methods)})" if self._methods else ""
        return f"{guess}set {self._setting}={SHIPPED}, a draft file or a local folder{methods}"

    def _shipped(self, kind: DraftKind) -> Path:
        shipped = shipped_for(kind, self._target.module.config.to_dict())
        if shipped is None or not shipped.path.exists():
            raise UserError(
                f"no {kind} draft is shipped for {self._target.name}",
                setting=self._setting,
                value=SHIPPED,
                remedy="name one, or choose drafting=prompt_lookup, which needs none",
            )
        return shipped.path

    def _read(self, path: Path, name: str, kind: DraftKind) -> DraftModel:
        target = self._target.module
        try:
            load = load_feature_head if kind is DraftKind.FEATURE_HEAD else load_independent
            draft: FeatureHead | IndependentDraft = load(path, target)
        except FileNotFoundError:
            raise UserError(
                "there is no such draft file",
                setting=self._setting,
                value=name,
                remedy="check the path",
            ) from None
        except (ValueError, OSError) as error:
            raise UserError(
                f"the draft does not fit: {error}",
                setting=self._setting,
                value=name,
                remedy=f"give a draft of kind {kind} made for {self._target.name}",
            ) from error
        head: Callable[[Tensor], Tensor] = draft.head
        speedup = speedup_of(target)
        if speedup is not None:
            kernels = speedup.kernels.for_drafts()
            if kernels.pack is not None:
                head = packed_product(draft.words.rows, kernels.pack)
            speed_up(draft.model, kernels, self._say)
            if kernels.pack is not None:
                pack_linears(draft, kernels.pack)
        return DraftModel(
            module=draft.model,
            head=head,
            embed=draft.embed if isinstance(draft, FeatureHead) else None,
            vocab_ids=draft.vocab_ids,
            num_words=len(draft.vocab_ids),
            context_len=int(draft.model.config.max_position_embeddings),
            name=name,
        )
