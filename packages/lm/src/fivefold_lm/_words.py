"""The vocabulary of language models: what a model or a cache can do (imports nothing heavy)."""

from enum import StrEnum


class Capability(StrEnum):
    """What a method may need of the model it composes with."""

    TREE_ATTENTION = "tree-attention"
    """Several branches are verified in one forward pass."""

    HIDDEN_STATES = "hidden-states"
    """The last hidden state after the final norm can be read."""

    CROPPABLE = "croppable"
    """The cache can forget its newest tokens and leave no trace of them."""
