"""The vocabulary of training methods (imports nothing heavy)."""

from enum import StrEnum


class Promise(StrEnum):
    """What a training method leaves as it is."""

    EXACT = "exact"
    """Loss and gradients are those of plain training, up to the order of summation."""


class Recompute(StrEnum):
    """When the wide tensors of an MLP are made again for backward."""

    PER_TILE = "per_tile"
    """Tile by tile: one tile's wide tensors are alive at a time."""
    NONE = "none"
    """Never: every tile's are kept (the source's own behaviour)."""


class HeadImpl(StrEnum):
    """What computes the loss from hidden states and the head's weight."""

    EAGER = "eager"
    """Ours, in plain torch: every feature, any device."""
    TORCH = "torch"
    """`torch.nn.functional.linear_cross_entropy` with its chunked options."""
    LIGER = "liger"
    """Liger's fused linear cross entropy; needs `liger-kernel` and a GPU."""
    CCE = "cce"
    """Apple's cut cross entropy; needs `cut-cross-entropy`."""


class HeadStrategy(StrEnum):
    """When the gradients of the head are computed."""

    GRAD_IN_FORWARD = "grad_in_forward"
    """With the loss, chunk by chunk: three products, nothing computed twice."""
    RECOMPUTE = "recompute"
    """In backward, from scores computed again: four products, nothing kept between."""


class AccumDtype(StrEnum):
    """Number format in which gradients of weights are added up over tiles."""

    FLOAT32 = "float32"
    """Float32 for half-precision weights; the weight's own format if that is wider."""
    PARAM = "param"
    """The weight's own: half the bytes for half-precision weights, one rounding a tile."""


class Kernel(StrEnum):
    """What computes the product of activation and up projection, and its gradient."""

    AUTO = "auto"
    """Triton where the model is on a GPU and Triton is installed, else torch."""
    TORCH = "torch"
    """The module's own operations."""
    TRITON = "triton"
    """Our fused kernel; a model it does not fit is refused."""


class Offload(StrEnum):
    """Where the inputs of checkpointed layers wait for backward."""

    NONE = "none"
    """On the device."""
    CPU = "cpu"
    """In host memory; pinned and copied on a side stream where the model is on a GPU."""


class Score(StrEnum):
    """What the head returns beside the loss, computed chunk by chunk, without logits."""

    LOSS = "loss"
    """The loss alone."""
    NLL = "nll"
    """Negative log-likelihood of each label."""
    ACCURACY = "accuracy"
    """Whether the most likely token is the label."""
    ARGMAX = "argmax"
    """The most likely token."""
    ENTROPY = "entropy"
    """Entropy of each position's law, in nats."""
