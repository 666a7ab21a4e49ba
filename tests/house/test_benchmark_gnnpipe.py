"""The graph benchmark runs from end to end on a tiny graph; its arithmetic needs no graph."""

import json

import documents
import pytest

PROGRAM = """
import sys
from dataclasses import replace

sys.path.insert(0, "benchmarks")
import gnnpipe

gnnpipe.QUICK = replace(
    gnnpipe.QUICK,
    data={"source": "blocks", "nodes": 300, "features": 8, "degree": 6.0},
    preferential_nodes=400,
    layers=4,
    hidden=8,
    epochs_timed=2,
    rates=(50.0,),
    accuracy=(("gcnii", 2, 2),),
    accuracy_epochs=6,
    staleness=(("gcnii", 2, 1),),
    staleness_epochs=4,
    growth_nodes=(200,),
    growth_layers=(2,),
)
gnnpipe.main()
"""
FIGURES = {
    "accuracy_worst_difference_points",
    "accuracy_worst_mean_points",
    "bytes_gcnii_over_source",
    "bytes_graph_over_pipe_debian",
    "bytes_graph_over_pipe_preferential",
    "bytes_headline_gcnii",
    "bytes_headline_mean",
    "counters_equal_formulas",
    "plain_overhead",
}


@pytest.mark.slow
def test_benchmark_prints_every_figure_that_needs_no_link(tmp_path, python):
    program = f"import os; os.chdir({str(documents.HOUSE)!r}){PROGRAM}"
    parts = ["--only", "volume,accuracy,staleness,alone"]
    python(program, "--quick", *parts, "--out", str(tmp_path))
    figures = json.loads((tmp_path / "result.json").read_text("utf-8"))["figures"]
    assert set(figures) >= FIGURES
    assert figures["counters_equal_formulas"] == 1
    assert figures["bytes_headline_mean"] > 10.27  # arithmetic on the source's own totals
