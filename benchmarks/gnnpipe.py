"""GNNPipe against graph parallelism and one device: bytes, time, accuracy, what it costs alone.

`python benchmarks/gnnpipe.py [--quick] [--only PART,…] [--keep] [--out DIR]` writes
`DIR/result.json` and its pictures. Parts: volume, time, accuracy, staleness, alone, gpu; staleness
has rows and no figure: one technique of the source changed at a time. `--keep` leaves in the record
what it holds of other parts; runs of `accuracy` and `staleness` that it holds are not run again.
Figures:

- `bytes_graph_over_pipe_debian`: bytes an epoch of graph parallelism (the best partition found)
  over the pipeline's, Debian graph, 32 layers, 4 devices; `bytes_graph_over_pipe_preferential`: the
  same on a preferential-attachment graph. Counters of both are compared with the formulas.
- `bytes_headline_mean`: over the source's four graphs and four models at 8 devices and 32 layers,
  the mean of (the source's logged graph-parallel total) / (our pipeline, all-reduces counted);
  `bytes_headline_gcnii`: GCNII alone; `bytes_gcnii_over_source`: ours over the source's own.
- `epoch_graph_over_pipe`: seconds an epoch, two real processes in namespaces on a link on which
  graph parallelism communicates for 70 % of its epoch; `_4`: four processes. Where namespaces are
  not allowed the names end in `_simulated`.
- `planner_worst_error`: |predicted / measured - 1|, two processes, the worse of the two methods;
  the planner runs on as many processes, as under torchrun, and measures the link itself.
- `accuracy_worst_difference_points`: pipeline minus full graph, test accuracy at the best
  validation epoch, upper end of the 95 % interval over paired seeds, the worst of the cells;
  `accuracy_worst_mean_points`: the worst mean; `epochs_to_95_percent_ratio`: the worst of the
  cells, mean epochs to 95 % of the full graph's final validation accuracy over the full graph's;
  null where a run never came there.
- `plain_overhead`: an epoch of one process with K = 1 over the same model in plain PyG;
  `gpu_chunked_over_plain`, `gpu_one_chunk_over_plain`: two stages in stale mode, and K = 1, over
  plain PyG on a GPU; null without one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from fivefold.result import Result
from gnnpipe_accuracy import measure_accuracy
from gnnpipe_alone import measure_alone
from gnnpipe_case import FULL, QUICK, Case
from gnnpipe_gpu import measure_gpu
from gnnpipe_staleness import measure_staleness
from gnnpipe_time import measure_time
from gnnpipe_volume import measure_volume
from records import keep

PARTS: dict[str, Callable[[Case, Result, Path], None]] = {
    "volume": measure_volume,
    "time": measure_time,
    "accuracy": measure_accuracy,
    "staleness": measure_staleness,
    "alone": measure_alone,
    "gpu": measure_gpu,
}
ROWS = {
    "volume": ("volume", "headline"),
    "time": ("time", "rates"),
    "accuracy": ("accuracy", "accuracy_cell"),
    "staleness": ("staleness", "staleness_cell"),
    "alone": ("alone", "growth"),
}
"""The rows of each part that a CPU can measure, by what they call themselves."""
RESUMED = {"accuracy", "staleness"}
"""Rows of single runs, which `--keep` leaves even where their part is asked for."""


def main() -> None:
    """Measure what is asked for and write `result.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small case, in minutes")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--keep", action="store_true", help="what DIR holds of other parts")
    parser.add_argument("--out", default="docs/benchmarks/gnnpipe", help="folder of the record")
    words = parser.parse_args()
    wanted = words.only.split(",")
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {unknown[0]}; there are {', '.join(PARTS)}")
    case = QUICK if words.quick else FULL
    out = Path(words.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    result = Result("benchmark gnnpipe")
    result.environment |= {"threads": 1, "quick_case": words.quick, **asdict(case)}
    if words.keep:
        anew = {kind for name in wanted for kind in ROWS.get(name, (name,))} - RESUMED
        keep(result, out / "result.json", lambda row: row["part"] in anew)
    result.status = "partial"
    for name in wanted:
        PARTS[name](case, result, out)
        measured = {row["part"] for row in result.rows}
        is_whole = all(measured >= set(kinds) for kinds in ROWS.values())
        result.status = "ok" if is_whole else "partial"
        result.write(out)  # what is measured is kept, whatever becomes of the rest
    print(result.as_json())


if __name__ == "__main__":
    main()
