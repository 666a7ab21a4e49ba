"""One rank of the pipeline's tests under torchrun's variables: `pipe_rank.py JSON`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from fivefold import UserError
from fivefold_gnnpipe import GNNPipeConfig, GraphParallelConfig
from fivefold_gnnpipe.config import (
    DataConfig,
    ModelConfig,
    TrainOptions,
    TransportConfig,
)
from fivefold_gnnpipe.engine.api import build_method, make_session
from fivefold_gnnpipe.engine.checkpoint import CheckpointFolder
from fivefold_gnnpipe.engine.loop import fit
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.engine.sources import load_graph
from fivefold_gnnpipe.pipe.config import HistoryConfig, Initial


def settings_of(case):
    given = dict(case["settings"])
    if "history" in given:
        given["history"] = HistoryConfig(**given["history"])
    if "initial" in given:
        given["initial"] = Initial(given["initial"])
    wire = TransportConfig(timeout=90.0)
    kind = GraphParallelConfig if case.get("method") == "graph_parallel" else GNNPipeConfig
    return kind(transport=wire, **given)


def main(case):
    rank = int(os.environ.get("RANK", "0"))
    torch.set_num_threads(1)
    data = load_graph(DataConfig(source="karate"))
    model = ModelConfig(name=case.get("model", "gcnii"), layers=6, hidden=8)
    plan = make_plan(model, data.num_features, data.num_classes, dtype=torch.float64)
    seed = rank if case.get("disagrees") else 0
    options = TrainOptions(epochs=case["epochs"], eval_every=3, checkpoint_every=1, seed=seed)
    session = make_session(options, "cpu", torch.float64)
    method = build_method(settings_of(case), plan, data, session)
    keeper = saved = None
    if case.get("folder"):
        keeper = CheckpointFolder(Path(case["folder"]), rank)
        if case.get("resumes"):
            saved = keeper.read_state("resume")

    def watch(point):
        if rank == 1 and point.epoch == case.get("dies_after"):
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        outcome = fit(method, data, options, keeper=keeper, saved=saved, watch=watch)
        logits, weights = method.logits(), method.weights()
        if rank == 0:
            found = {
                "losses": [point.loss for point in outcome.curve.points],
                "bytes": [point.bytes for point in outcome.curve.points],
                "formula": method.facts()["bytes_formula"],
                "best": outcome.curve.best.test,
                "logits": float(logits.sum()),
                "weights": {name: value.double().sum().item() for name, value in weights.items()},
            }
            print(json.dumps(found), flush=True)
    finally:
        method.close()


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except UserError as error:
        print(f"fivefold: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
