"""Draw the pipeline of `docs/methods/training/gnnpipe.md` from a run.

It becomes `docs/pictures/gnnpipe_timeline.svg`: three stages on the digits graph, twelve chunks, a
simulated link of 200 Mbit/s.
"""

from __future__ import annotations

from pathlib import Path

import torch
from fivefold_gnnpipe import GNNPipeConfig, load_graph
from fivefold_gnnpipe.config import DataConfig, ModelConfig, TrainOptions, TransportConfig
from fivefold_gnnpipe.engine.api import make_session
from fivefold_gnnpipe.engine.models import make_plan
from fivefold_gnnpipe.pipe.timeline_plot import draw_timeline
from fivefold_gnnpipe.pipe.train import build

PICTURE = Path(__file__).parent / "pictures" / "gnnpipe_timeline.svg"


def main() -> None:
    """Train a few epochs and draw the last."""
    torch.set_num_threads(1)
    data = load_graph(DataConfig(source="digits"))
    config = ModelConfig(name="resgcn", layers=9, hidden=64)
    plan = make_plan(config, data.num_features, data.num_classes)
    session = make_session(TrainOptions(epochs=200), "cpu", torch.float32)
    settings = GNNPipeConfig(stages=3, cuts=[3, 6], transport=TransportConfig(emulate_mbit=200.0))
    method = build(settings, plan, data, session)
    for index in range(4):
        method.epoch(index)
    draw_timeline(method.stays, PICTURE, is_simulated=True)


if __name__ == "__main__":
    main()
