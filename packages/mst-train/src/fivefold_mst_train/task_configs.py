"""What a user may set in `train plan` and `train inspect`; the tasks (imports nothing heavy)."""

from dataclasses import dataclass

from fivefold import Group, Task, UserError
from fivefold_lm.groups import MODEL, RUNTIME
from fivefold_lm.offload.sizes import parse_size

from .config import one_of

DTYPES = ("bfloat16", "float16", "float32")
OPTIMIZERS = ("adamw", "sgd")


@dataclass
class ShapeConfig:
    """The model that is planned for: its shape alone, no weight is read."""

    name: str = "smollm2"
    """`smollm2`, a model whose shape comes with the package (`meta-llama/Llama-3.1-8B`, …), or a
    folder or `config.json` of any causal model."""
    dtype: str = "bfloat16"
    """Number format of weights, gradients and optimizer state: bfloat16, float16 or float32."""

    def __post_init__(self) -> None:
        """Refuse an unknown number format.

        Raises:
            UserError: naming the choices.
        """
        one_of(self.dtype, DTYPES, "model.dtype")


@dataclass
class PlanConfig:
    """Say where the memory of training goes, before anything is allocated."""

    seq_len: int = 8192
    """Tokens of one sequence."""
    batch_size: int = 1
    """Sequences trained at the same time."""
    device_memory: str = ""
    """Memory of the device, such as 80GiB; empty: what this machine's device has."""
    margin: float = 0.03
    """Share of the device left free for the allocator and what counting cannot see."""
    optimizer: str = "adamw"
    """Optimizer whose state counts: adamw (two moments a weight) or sgd (none)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be planned.

        Raises:
            UserError: names the setting.
        """
        for name in ("seq_len", "batch_size"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                remedy = "give 1 or more"
                raise UserError("nothing to train", setting=name, value=value, remedy=remedy)
        if not 0 <= self.margin < 1:
            raise UserError(
                "no share", setting="margin", value=self.margin, remedy="give 0 to less than 1"
            )
        one_of(self.optimizer, OPTIMIZERS, "optimizer")
        if self.device_memory:
            try:
                parse_size(self.device_memory)
            except ValueError as error:
                raise UserError(
                    str(error),
                    setting="device_memory",
                    value=self.device_memory,
                    remedy="give a size such as 80GiB",
                ) from error


@dataclass
class InspectConfig:
    """Say which modules of a model would be tiled, which would not, and why."""


SHAPE = Group(
    node="model",
    config=ShapeConfig,
    options={"smollm2": {"name": "smollm2"}},
    default="smollm2",
    free="name",
)
TASKS = [
    Task(
        name="train plan",
        config=PlanConfig,
        run="fivefold_mst_train.mst.plan_task:run",
        summary="where the memory of training goes, and the longest sequence that fits",
        hooks={"training": "mst"},
        groups=(SHAPE, RUNTIME),
        provides=frozenset({"task:train"}),
    ),
    Task(
        name="train inspect",
        config=InspectConfig,
        run="fivefold_mst_train.mst.inspect_task:run",
        summary="which modules of a model are tiled, which are not, and why",
        hooks={"training": "mst"},
        groups=(MODEL, RUNTIME),
        provides=frozenset({"task:train"}),
    ),
]
"""The tasks of the method; `builtin.py` adds those of the engine."""
