"""Which layers attend to what: read from a model's config, before anything runs."""

from dataclasses import dataclass
from typing import Any

from torch import nn

FULL = "full_attention"
SLIDING = "sliding_attention"
UNUSED = ("moe", "mlp")  # layers that attend to nothing


@dataclass(frozen=True)
class Layout:
    """The attention pattern of each decoder layer.

    `types` has one word a layer (transformers' `layer_types`); `window` is the number of
    positions a sliding layer sees, itself included, or None.
    """

    types: tuple[str, ...]
    window: int | None
    by_type: bool
    """The model picks a mask by layer type, from a dict; else one mask serves all layers."""

    @property
    def masks(self) -> tuple[str, ...]:
        """The distinct kinds of mask that a forward pass needs."""
        kinds = dict.fromkeys(kind for kind in self.types if kind not in UNUSED)
        return tuple(kinds)

    def window_of(self, kind: str) -> int | None:
        """The window of a kind of layer; None sees everything."""
        return self.window if kind == SLIDING else None

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """Read the layout of a transformers decoder."""
        config = decoder_config(module)
        window = getattr(config, "sliding_window", None)
        types = getattr(config, "layer_types", None)
        if types is None:
            kind = FULL if window is None else SLIDING
            if getattr(config, "attention_chunk_size", None) is not None:
                kind = "chunked_attention"
            return cls((kind,) * int(config.num_hidden_layers), window, by_type=False)
        return cls(tuple(types), window, by_type=len(set(types) - set(UNUSED)) > 1)


def decoder_config(module: nn.Module) -> Any:
    """The config of the text decoder (a multi-modal model nests it)."""
    return module.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]


def why_no_tree(module: nn.Module) -> str | None:
    """Why a tree cannot be verified on this model in one pass; None when it can.

    A recurrent layer folds all it has read into one state: a mask cannot keep branches apart.
    """
    config = decoder_config(module)
    name = str(config.model_type)
    if config.is_encoder_decoder:
        return f"{name} is an encoder-decoder"
    if getattr(module, "_is_stateful", False):
        return f"{name} is recurrent or hybrid: branches of a tree would share one state"
    odd = [kind for kind in Layout.of(module).masks if kind not in (FULL, SLIDING)]
    if odd:
        return f"{name} has {', '.join(odd)} layers, which no tree mask describes"
    if getattr(config, "alibi", False) or name in ("bloom", "mpt"):
        return f"{name} adds position biases (ALiBi) that follow slots, not depths"
    return None
