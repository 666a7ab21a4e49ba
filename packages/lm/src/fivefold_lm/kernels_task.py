"""`fivefold kernels`: which kernels run on this machine, and how near they come to their bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import torch
from fivefold import Run
from fivefold_kernels import UnsupportedError, cpu_library
from fivefold_kernels.exam import Finding, examine, examine_library
from torch import Tensor

from .config import RuntimeConfig
from .kernels import kernels_folder
from .packed import OneDnnProduct
from .runtime import apply_runtime
from .task_configs import KernelsConfig


def run(config: KernelsConfig, run: Run) -> int:
    """Run `fivefold kernels`; the status is 1 when a kernel that runs here is wrong."""
    apply_runtime(run.node("runtime", RuntimeConfig))
    wrong = 0
    findings = chain(examine(config.rows, kernels_folder()), examine_libraries(config.rows))
    for finding in findings:
        run.row(**_row(finding, config.rows))
        wrong += not finding.why_not and not finding.passed
    run.table("kernels; linear products of 4096 by 2048", run.result.rows)
    run.figure("kernels_wrong", wrong)
    return 1 if wrong else 0


def examine_libraries(rows: list[int]) -> Iterator[Finding]:
    """Look at the products that are taken where ours do not run: `model.kernels=onednn|torch`."""
    try:
        library = cpu_library(folder=kernels_folder())
    except UnsupportedError:
        library = None
    products: dict[str, Callable[[Tensor], Callable[[Tensor], Tensor]]] = {"torch": _stock}
    if torch.backends.mkldnn.is_available():
        products["onednn"] = partial(OneDnnProduct, bias=None)
    for name, pack in products.items():
        for dtype in (torch.float32, torch.bfloat16):
            yield examine_library(name, pack, dtype, rows, library)


def _stock(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: torch.nn.functional.linear(rows, weight)


def _row(finding: Finding, rows: list[int]) -> dict[str, object]:
    """Return a line of the table; times are ratios to the bytes bound of one row."""
    row: dict[str, object] = {
        "operation": finding.operation,
        "implementation": finding.implementation,
        "state": finding.why_not or ("ok" if finding.passed else "wrong"),
    }
    if finding.why_not:
        return row
    row["row invariant"] = "yes" if finding.row_invariant else "no"
    row["error"] = float(f"{finding.error:.1e}")
    for count, seconds in zip(rows, finding.seconds, strict=True):
        row[f"t({count}) / bound"] = round(seconds / finding.bound, 2)
    return row
