"""The benchmarks of drafting run from end to end, on the real model and as little as can be."""

import json

import documents
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.xdist_group("model")]

START = f"""
import os
import sys

os.chdir({str(documents.HOUSE)!r})
sys.path.insert(0, "benchmarks")
import trees
import trees_bench
import trees_cells

trees_cells.SIZES = (4, 8)
trees.QUICK = trees_bench.QUICK = trees_bench.Case(
    2, 8, (0.6,), (2, 4), (0.6,), ("chat",), ("independent",)
)
"""
OF_TREES = {
    "prediction_error",
    "prediction_error_plain",
    "prediction_error_on_decoded",
    "prediction_error_from_open_half",
    "prediction_error_plain_from_open_half",
    "sequoia_over_best_chain",
    "sequoia_over_k_chains",
    "chain_ratio_off_prediction",
    "worst_rule_lead",
}


def result_of(python, program, folder, *words):
    python(START + program, "--quick", *words, "--out", str(folder))
    return json.loads((folder / "result.json").read_text("utf-8"))


def test_trees_print_every_figure(tmp_path, python):
    result = result_of(python, "sys.exit(trees.main())", tmp_path)
    assert set(result["figures"]) == OF_TREES
    grown = {row["growth"] for row in result["rows"] if "growth" in row}
    assert grown == {"sequoia", "specexec", "specinfer", "chain"}
    assert (tmp_path / "growth.svg").is_file()
    assert (tmp_path / "rules.svg").is_file()


def test_drafting_prints_every_figure(tmp_path, python):
    program = """
import drafting

drafting.QUICK = drafting.Case(7, 4, (0.0,), (1,))
sys.exit(drafting.main())
"""
    result = result_of(python, program, tmp_path)
    of_times = {"auto_ratio_code", "auto_ratio_chat", "auto_worst_ratio_to_plain"}
    assert set(result["figures"]) == OF_TREES | of_times
    assert result["status"] == "ok"
    cells = [row for row in result["rows"] if "planned" in row]
    assert all(len(row["pairs"]) == 7 for row in cells)
    assert {row["prompts"] for row in cells} == {"code", "chat"}
    again = result_of(python, program, tmp_path, "--speed-alone", "--keep")
    assert (again["rows"], again["figures"]) == (result["rows"], result["figures"])


def test_offload_prints_every_figure_and_no_text_differs(tmp_path, python):
    program = """
import offload

offload.QUICK = offload.Case(prompts=1, tokens=4, budgets=(4,), errors=(None, 0.3), probe=3)
sys.exit(offload.main())
"""
    result = result_of(python, program, tmp_path, "--drafts", "shipped")
    figures = result["figures"]
    assert set(figures) == {
        "stream_share_of_disk",
        "disk_ratio_unshaped_t0",
        "disk_ratio_t0",
        "disk_ratio_t06",
        "equal_texts",
    }
    assert figures["equal_texts"] == 1.0
    (rate,) = [row for row in result["rows"] if row["what"] == "rate"]
    assert rate["t_target"] >= 50 * rate["t_draft"]
