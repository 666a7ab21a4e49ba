"""Speed: the tensor engine beside the compiled circuit, and its memory at Omega N = 2^26."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median

import numpy as np
from fivefold.result import Result
from fivefold_quark import Chebyshev, Weighting
from fivefold_quark.engine.engines.compiled import Compiled
from fivefold_quark.engine.engines.tensor import Tensor
from fivefold_quark.engine.problems.images import bundled_digits, tiny

_TEST, _K = Chebyshev(15, 0.9), 19
_REPEATS = 5
_MEMORY = """
import json, resource, time
from fivefold_quark import Chebyshev
from fivefold_quark.engine.engines.choosing import build_engine
from fivefold_quark.engine.problems.edge import edge_with_distractors
engine = build_engine("tensor", edge_with_distractors({bits}))
begin = time.perf_counter()
found = engine.run(Chebyshev(3, 0.9), 20)
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({{"peak_gib": peak, "seconds": seconds, "ks": len(found.flag)}}))
"""


def measure_speed(result: Result) -> None:
    """Run tiny67, L = 15, k = 19 on both engines; building the circuit is timed apart."""
    problem = tiny(bundled_digits(), (6, 7), weighting=Weighting.MULTIPLICITY)
    tensor, compiled = Tensor(problem), Compiled(problem)
    tensor.run(_TEST, 1)  # warm
    times, arrays = [], []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        arrays.append(tensor.run(_TEST, _K))
        times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    circuit = compiled.build(_TEST, _K)
    build = time.perf_counter() - begin
    begin = time.perf_counter()
    amplified = compiled.execute(_TEST, circuit, _K)
    ran = time.perf_counter() - begin
    error = float(np.abs(arrays[0].probabilities - amplified.probabilities).max())
    row = {
        "case": "tiny67 weighted, chebyshev(15), k = 19",
        "tensor_seconds": median(times),
        "compiled_build_seconds": build,
        "compiled_seconds": ran,
        "largest_difference": error,
    }
    result.rows.append(row)
    print(row, flush=True)
    result.figures["tensor_over_compiled"] = ran / median(times)
    result.figures["tensor_seconds"] = median(times)
    result.figures["compiled_seconds"] = ran
    result.figures["compiled_build_seconds"] = build


def measure_memory(num_bits: int, result: Result) -> None:
    """Run Omega = 2^bits weights on 512 samples in a process of its own."""
    program = _MEMORY.format(bits=num_bits)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    row = {"case": f"Omega N = 2^{num_bits + 9}, k = 0 .. 20", **json.loads(done.stdout)}
    result.rows.append(row)
    print(row, flush=True)
    result.figures["peak_gib"] = row["peak_gib"]
