"""The GPU benchmark says that it needs one, and its code runs on tiny models without."""

import json
import subprocess
import sys

import documents
import pytest
import torch

MODELS = ("smollm2", "8b")
SCRIPT = documents.HOUSE / "benchmarks" / "runtime_gpu.py"


def run(*words):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        cwd=documents.HOUSE,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = run("--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("no CUDA device here")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_tiny_models_run_all_of_its_code(tmp_path):
    done = run("--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    wanted = {"gpu_plain_share_of_bandwidth", "gpu_ratio_to_transformers"}
    wanted |= {f"gpu_t{2**power}_over_t1" for power in range(1, 9)}
    assert set(result["figures"]) == {f"{kind}_{name}" for kind in wanted for name in MODELS}
    assert all(value > 0 for value in result["figures"].values())
    assert result["environment"]["tiny"] is True
