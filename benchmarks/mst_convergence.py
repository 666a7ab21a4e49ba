"""Fine-tuning with and without mini-sequences, step by step: how far losses part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fivefold.result import Result
from fivefold_lm import LanguageModel, ModelConfig, load_model
from fivefold_mst_train.engine.config import DataConfig
from fivefold_mst_train.engine.data.blocks import Blocks
from fivefold_mst_train.engine.reading import read_blocks
from mst_schemes import Apply, mst, plain
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from mst import Case

ROWS = 2
SMALL, LARGE = 5e-5, 1e-3
PLAIN, MST, TURNED = "plain", "mst", "plain, rows in another order"
EXACT = "plain, loss in float64"
"""Of the same float32 scores: what torch's own cross entropy rounds away is the difference."""
Curves = dict[tuple[float, str], list[float]]
"""The losses of each run, by rate and name."""


def measure_convergence(case: Case, device: torch.device, result: Result, out: Path | None) -> None:
    """Run the same steps under each scheme, and plot the losses."""
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    model = load_model(ModelConfig(name="smollm2", kernels="torch"), print)
    blocks = read_blocks(DataConfig(), model.tokenizer, model.vocab_size, case.tokens)
    kept = {name: value.clone() for name, value in model.module.state_dict().items()}
    tile = max(1, case.tokens * ROWS // 3)
    apply: dict[str, Apply] = {
        PLAIN: plain, MST: mst(tile, tile), EXACT: with_exact_loss, TURNED: plain,
    }  # fmt: skip
    curves: Curves = {}
    for lr, names, steps in (
        (SMALL, (PLAIN, MST, EXACT), case.steps),
        (LARGE, (PLAIN, MST, TURNED), case.large_steps),
    ):
        for name in names:
            curve = recorded(result, lr, name, steps)
            if not curve:
                model.module.load_state_dict(kept)
                curve = losses(model, blocks, apply[name], lr, steps, device, name is TURNED)
                result.rows.append({"what": "convergence", "run": name, "lr": lr, "losses": curve})
            curves[lr, name] = curve
            print(f"{name} at {lr}: {curve[0]:.4f} … {curve[-1]:.4f}", flush=True)
    for lr, name in curves:
        if name is not PLAIN:
            apart = max(differences(curves, lr, name))
            result.rows.append({"what": "difference", "lr": lr, "run": name, "worst": apart})
            print(f"{name} at {lr}: {apart:.2e} from plain at the worst step", flush=True)
    figures = result.figures
    figures["convergence_worst_difference"] = max(differences(curves, SMALL, MST))
    figures["convergence_worst_difference_exact"] = max(differences(curves, SMALL, MST, EXACT))
    if out is not None:
        plot(curves, out)


def recorded(result: Result, lr: float, name: str, steps: int) -> list[float]:
    """Return the losses of a run that the record holds already; empty: of none."""
    for row in result.rows:
        found: Any = row.get("losses", [])
        if (row.get("lr"), row.get("run"), len(found)) == (lr, name, steps):
            return list(found)
    return []


@contextlib.contextmanager
def with_exact_loss(model: nn.Module) -> Iterator[None]:
    """Let a model of transformers take the cross entropy of its scores in float64."""
    causal: Any = model
    usual = causal.loss_function

    def exact(
        logits: Tensor, labels: Tensor, num_items_in_batch: Tensor, shift_labels: Tensor, **_: Any
    ) -> Tensor:
        summed = functional.cross_entropy(
            logits.flatten(0, 1).double(), shift_labels.flatten(), reduction="sum"
        )
        return summed / num_items_in_batch

    causal.loss_function = exact
    try:
        yield
    finally:
        causal.loss_function = usual


def losses(
    model: LanguageModel,
    blocks: Blocks,
    apply: Apply,
    lr: float,
    steps: int,
    device: torch.device,
    is_turned: bool,
) -> list[float]:
    """Fine-tune and return the loss of every step."""
    module: Any = model.module.to(device).train()  # type: ignore[arg-type]
    module.requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, fused=True)
    found = []
    with apply(module):
        for step in range(steps):
            places = [(step * ROWS + row) % len(blocks) for row in range(ROWS)]
            batch = blocks.batch(places[::-1] if is_turned else places)
            inputs: dict[str, Tensor] = batch.on(device)
            count = torch.tensor(batch.num_labels, device=device)
            loss = module(**inputs, num_items_in_batch=count, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss.detach()))
    return found


def differences(curves: Curves, lr: float, name: str, other: str = PLAIN) -> list[float]:
    """Return how far a run's losses are from another's, step by step."""
    return [abs(a - b) for a, b in zip(curves[lr, name], curves[lr, other], strict=True)]


def plot(curves: Curves, out: Path) -> None:
    """Draw losses, and what parts the runs from plain training, where matplotlib is at hand."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex="col", sharey="row")
    for (lr, name), curve in curves.items():
        top, bottom = axes[:, 0 if lr == SMALL else 1]
        top.plot(curve, label=name, linestyle="-" if name is PLAIN else "--")
        top.set_title(f"AdamW, lr {lr:g}")
        if name is not PLAIN:
            bottom.semilogy([max(each, 1e-9) for each in differences(curves, lr, name)], label=name)
        bottom.set_xlabel("step")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("difference from plain")
    for axis in axes.flat:
        axis.legend()
    figure.tight_layout()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "convergence.svg", metadata={"Date": None})
