"""Fine-tuning with and without mini-sequences, step by step: `convergence_worst_difference`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fivefold.result import Result
from fivefold_lm import LanguageModel, ModelConfig, load_model
from fivefold_mst_train.engine.config import DataConfig
from fivefold_mst_train.engine.data.blocks import Blocks
from fivefold_mst_train.engine.reading import read_blocks
from mst_schemes import Apply, mst, plain
from torch import Tensor

if TYPE_CHECKING:
    from mst import Case

ROWS = 2
RATES = {"5e-5": 5e-5, "1e-3": 1e-3}


def measure_convergence(case: Case, device: torch.device, result: Result, out: Path) -> None:
    """Run the same steps under each scheme, and plot the losses."""
    model = load_model(ModelConfig(name="smollm2", kernels="torch"), print)
    blocks = read_blocks(DataConfig(), model.tokenizer, model.vocab_size, case.tokens)
    kept = {name: value.clone() for name, value in model.module.state_dict().items()}
    curves: dict[str, list[float]] = {}
    tile = max(1, case.tokens * ROWS // 3)
    runs: dict[str, tuple[Apply, bool]] = {
        "plain": (plain, False),
        "mst": (mst(tile, tile), False),
        "plain, rows in another order": (plain, True),
    }
    for rate, lr in RATES.items():
        for name, (apply, is_turned) in runs.items():
            model.module.load_state_dict(kept)
            curve = losses(model, blocks, apply, lr, case.steps, device, is_turned)
            curves[f"{name}, {rate}"] = curve
            result.rows.append({"what": "convergence", "run": name, "lr": lr, "losses": curve})
            print(f"{name} at {rate}: {curve[0]:.4f} … {curve[-1]:.4f}", flush=True)
    for rate in RATES:
        ours = difference(curves[f"mst, {rate}"], curves[f"plain, {rate}"])
        rounding = difference(
            curves[f"plain, rows in another order, {rate}"], curves[f"plain, {rate}"]
        )
        result.rows.append(
            {"what": "difference", "lr": RATES[rate], "mst": ours, "rounding_alone": rounding}
        )
    ours = difference(curves["mst, 5e-5"], curves["plain, 5e-5"])
    result.figures["convergence_worst_difference"] = ours
    plot(curves, out)


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
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr)
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


def difference(one: list[float], other: list[float]) -> float:
    """Return the largest difference of two curves."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def plot(curves: dict[str, list[float]], out: Path) -> None:
    """Draw what parts the runs from plain training, where matplotlib is at hand."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(RATES), figsize=(9, 3.5), sharey=True)
    for axis, rate in zip(axes, RATES, strict=True):
        base = curves[f"plain, {rate}"]
        draw: Callable[..., object] = axis.semilogy
        for name in ("mst", "plain, rows in another order"):
            curve = curves[f"{name}, {rate}"]
            draw([max(abs(a - b), 1e-9) for a, b in zip(curve, base, strict=True)], label=name)
        axis.set_title(f"AdamW, lr {rate}")
        axis.set_xlabel("step")
    axes[0].set_ylabel("difference of the loss from plain")
    axes[0].legend()
    figure.tight_layout()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "convergence.svg", metadata={"Date": None})
