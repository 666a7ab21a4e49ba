"""Answers with OpenVINO GenAI, for `peers.py`: `python peer_openvino.py FILE SETTINGS`.

FILE is the model, SETTINGS properties of the device as JSON. It runs in an environment of its own
and imports nothing of ours. A line `{"prompt": [ids], "max_new_tokens": n}` is answered by
`{"tokens": [ids], "seconds": wall time, prompt included}`; the end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai  # type: ignore[import-not-found]


def main() -> None:
    """Load the model, then answer line by line."""
    file, settings = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer
    pipeline = openvino_genai.LLMPipeline(
        file, "CPU", scheduler_config=scheduler(), **json.loads(settings)
    )
    for line in sys.stdin:
        print(json.dumps(answer(pipeline, **json.loads(line))), file=answers)


def scheduler() -> Any:
    """Return the pipeline's own default scheduling, but with every prompt read anew."""
    config = openvino_genai.SchedulerConfig()
    config.enable_prefix_caching = False  # by default, a prompt that came before is not read
    config.max_num_batched_tokens = sys.maxsize  # a prompt is read in one pass
    return config


def answer(pipeline: Any, prompt: list[int], max_new_tokens: int) -> dict[str, object]:
    """Continue a prompt greedily."""
    begin = time.perf_counter()
    config = pipeline.get_generation_config()
    config.do_sample = False
    config.max_new_tokens = max_new_tokens
    results = pipeline.generate(openvino.Tensor(np.array([prompt])), config)
    seconds = time.perf_counter() - begin
    return {"tokens": list(results.tokens[0]), "seconds": seconds}


if __name__ == "__main__":
    main()
