"""`fivefold graph predict`: a trained network's scores of a graph, as npz."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from fivefold import Run, UserError

from ..config import DataConfig, ModelConfig, RuntimeConfig
from ..task_configs import PredictConfig
from .api import predict
from .checkpoint import CheckpointFolder, check_same
from .fleet import rank_device
from .graph import GraphData
from .metrics import score
from .models import make_plan
from .plan import LayerPlan
from .sources import load_graph


def run(config: PredictConfig, run: Run) -> int:
    """Predict, write the file, print the scores where labels are known.

    The npz holds `prediction [N]` (class, or [N, C] of 0 and 1), `probability [N, C]` and, where
    the graph has them, the names of its classes.
    """
    runtime = run.node("runtime", RuntimeConfig)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    folder = CheckpointFolder(Path(config.checkpoint))
    described = folder.description("checkpoint")
    data = load_graph(run.node("data", DataConfig))
    wanted = {
        name: getattr(data, name) for name in ("num_features", "num_classes", "is_multilabel")
    }
    trained_on = described.get("graph", "")
    remedy = f"give data= the graph it was trained on ({trained_on}), or one with the same columns"
    check_same(described, wanted, "checkpoint", remedy)
    plan = plan_from(described, folder.read_weights(config.weights, "checkpoint"))
    logits = predict(plan, data, rank_device(runtime.device, 0))
    output = Path(config.output) if config.output else run.folder / "predictions.npz"
    _write(output, arrays_of(logits, data))
    scores = score(logits, data)
    for name, value in scores.named("score_").items():
        run.figure(name, value)
    run.figure("num_nodes", data.num_nodes)
    rows = [{"vertices": name, "score": value} for name, value in scores.named().items()]
    is_same = described["graph_digest"] == data.digest
    of = "the graph it was trained on" if is_same else "another graph than it was trained on"
    run.table(f"{data.name}: {of}", rows)
    run.print(f"predictions: {output}")
    return 0


def plan_from(described: dict[str, object], weights: dict[str, torch.Tensor]) -> LayerPlan:
    """Return the network that a checkpoint describes, with its weights.

    Raises:
        UserError: a network of a user's own that was made in Python, or weights of another one.
    """
    recipe = dict(described["model"] or {})  # type: ignore[call-overload]
    if "name" not in recipe:
        raise UserError(
            "the checkpoint's network was made in Python",
            setting="checkpoint",
            remedy="make it again there, and load best.safetensors into it",
        )
    features, classes = int(recipe.pop("num_features")), int(recipe.pop("num_classes"))
    dtype = next(iter(weights.values())).dtype
    plan = make_plan(ModelConfig(**recipe), features, classes, dtype=dtype)
    try:
        plan.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            "the checkpoint's weights do not fit its network",
            setting="checkpoint",
            remedy="it is damaged or of another version; train again",
        ) from error
    return plan


def arrays_of(logits: torch.Tensor, data: GraphData) -> dict[str, np.ndarray]:
    """Return what the npz holds."""
    if data.is_multilabel:
        found = {"prediction": (logits > 0).to(torch.int64).numpy()}
        found["probability"] = logits.sigmoid().float().numpy()
    else:
        found = {"prediction": logits.argmax(1).numpy()}
        found["probability"] = logits.softmax(1).float().numpy()
    if "classes" in data.facts:
        found["class_names"] = np.array(data.facts["classes"])
    return found


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        temporary = path.with_name(f"{path.name}.partial")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"the predictions cannot be written: {error}",
            setting="output",
            value=str(path),
            remedy="give a file in a folder that can be written to",
        ) from error
