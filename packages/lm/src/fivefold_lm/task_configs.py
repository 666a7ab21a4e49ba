"""The tasks that language models bring (imports nothing heavy)."""

from dataclasses import dataclass, field

from fivefold import Task, UserError

from .groups import RUNTIME


@dataclass
class KernelsConfig:
    """List the kernels: which run on this machine, whether they are right, how near their bound."""

    rows: list[int] = field(default_factory=lambda: [1, 8])
    """Rows (tree nodes, for attention) to time; verifying n should cost little more than 1."""

    def __post_init__(self) -> None:
        """Refuse numbers of rows that mean nothing.

        Raises:
            UserError: none, or one below 1.
        """
        if not self.rows or min(self.rows) < 1:
            raise UserError(
                "no rows to time",
                setting="rows",
                value=self.rows,
                remedy="give 1 or more, as [1,8]",
            )


TASKS = [
    Task(
        name="kernels",
        config=KernelsConfig,
        run="fivefold_lm.kernels_task:run",
        summary="list the kernels with a self-test and their time against the bound",
        groups=(RUNTIME,),
    )
]
