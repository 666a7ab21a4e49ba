"""Drafts carried by this wheel: small networks distilled from SmolLM2's own text.

This module names them and imports nothing heavy; `independent.py` and `feature_head.py` load them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SHIPPED", "ShippedDraft", "shipped_for"]

_SMOLLM2: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


@dataclass(frozen=True)
class ShippedDraft:
    """A draft file of this wheel and the target it was distilled from."""

    name: str
    """Name under which it is found in `SHIPPED`."""
    kind: str
    """What it reads: `independent` (tokens) or `feature_head` (tokens and hidden states)."""
    file: str
    """File name beside this module."""
    target: str
    """Hub id of the target model."""
    fingerprint: Mapping[str, object]
    """Fields of the target's configuration that must agree."""

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return Path(__file__).with_name(self.file)

    def fits(self, config: Mapping[str, object]) -> bool:
        """Say whether a target with this configuration (`config.to_dict()`) can use the draft."""
        return all(config.get(key) == value for key, value in self.fingerprint.items())


SHIPPED: dict[str, ShippedDraft] = {
    f"smollm2_{kind}": ShippedDraft(
        name=f"smollm2_{kind}",
        kind=kind,
        file=f"smollm2_{kind}.safetensors",
        target="HuggingFaceTB/SmolLM2-135M-Instruct",
        fingerprint=_SMOLLM2,
    )
    for kind in ("independent", "feature_head")
}
"""Every shipped draft by name."""


def shipped_for(kind: str, config: Mapping[str, object]) -> ShippedDraft | None:
    """Return the shipped draft of a kind that fits a target, or `None`.

    Args:
        kind: `independent` or `feature_head`.
        config: the target's configuration as a dictionary.
    """
    fitting = (draft for draft in SHIPPED.values() if draft.kind == kind and draft.fits(config))
    return next(fitting, None)
