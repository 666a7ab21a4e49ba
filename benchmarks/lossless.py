"""Is every shipped method lossless on the real model, at size?

`python benchmarks/lossless.py [--quick] [--out DIR]` writes `DIR/result.json`. Figures:

- `equal_texts_{METHOD}_batch_{1,8}`: the share of prompts (half HumanEval, half chat) whose greedy
  text is token for token that of plain decoding, one prompt at a time; batches are ragged;
- `checks_failed_{METHOD}`: checks of `fivefold audit` that failed at temperatures 0.3, 0.7 and 1.0,
  with and without a nucleus.

Rows hold every cell; a text that differs is a row with the place where it parts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from bounds import num_cores
from contestants import ours
from fivefold.result import Result
from fivefold_lm import LanguageModel, ModelConfig, Sampler, SamplingConfig, load_model
from fivefold_speculative import Request
from fivefold_speculative.audit import Audit
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts, spread
from fivefold_speculative.task_configs import AuditConfig

Methods = dict[str, Mapping[str, Any]]
METHODS: Methods = {
    "prompt_lookup": {"prompt_lookup": {}},
    "chain": {"chain": {}},
    "expansion": {"expansion": {}},
    "feature_head": {"feature_head": {}},
    "feature_head_32": {"feature_head": {"topology": "feature_head_32"}},
}
TEMPERATURES = (0.3, 0.7, 1.0)
NUCLEI = (1.0, 0.9)
BATCHES = (1, 8)
PART = 8
"""Prompts that one process continues before it takes others: a ragged batch, or eight alone."""


@dataclass(frozen=True)
class Case:
    """How much is compared."""

    prompts: int
    tokens: int
    toy_samples: int
    model_samples: int
    samplers: int


FULL = Case(prompts=50, tokens=128, toy_samples=20_000, model_samples=600, samplers=6)
QUICK = Case(prompts=8, tokens=48, toy_samples=20_000, model_samples=200, samplers=1)


def main() -> int:
    """Compare, print, write; 1 when anything differs."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/lossless")
    result.environment |= {"quick_case": options.quick, "model": options.model, **vars(case)}
    model = load_model(ModelConfig(name=options.model), print)
    chosen = {name: METHODS[name] for name in options.methods or METHODS}
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(
        options.processes,
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, num_cores() // options.processes),),
    ) as pool:
        compare_texts(pool, model, case, chosen, result)
        result.status = "partial"  # until the audits are done as well
        result.write(options.out)
        audit_samplers(pool, options.model, case, chosen, result)
    result.status = "ok"
    result.write(options.out)
    for name, value in result.figures.items():
        print(f"{name} = {value}")
    good = all(
        value == (1.0 if name.startswith("equal") else 0.0)
        for name, value in result.figures.items()
    )
    return 0 if good else 1


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/lossless"))
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), help="default: all")
    parser.add_argument("--processes", type=int, default=num_cores(), help="share the work")
    return parser.parse_args()


@cache
def loaded(name: str) -> LanguageModel:
    """Return the model of this process, loaded once."""
    return load_model(ModelConfig(name=name), print)


# ------------------------------------------------------------------------------------- greedy text


def compare_texts(
    pool: Executor, model: LanguageModel, case: Case, methods: Methods, result: Result
) -> None:
    """Compare greedy texts with plain decoding of one prompt at a time."""
    half = case.prompts // 2
    code, chat = spread(human_eval_prompts(), half), spread(chat_prompts(), half)
    prompts = [prompt for pair in zip(code, chat, strict=True) for prompt in pair]
    tokens = [model.encode(prompt.content) for prompt in prompts]

    def begun(spec: str | Mapping[str, Any], batch: int) -> list[Future[list[list[int]]]]:
        parts = [tokens[at : at + PART] for at in range(0, len(tokens), PART)]
        return [pool.submit(texts, model.name, spec, part, case.tokens, batch) for part in parts]

    plainly = begun("none", 1)
    running = {cell: begun(methods[cell[0]], cell[1]) for cell in product(methods, BATCHES)}
    plain = [text for part in plainly for text in part.result()]
    for (name, batch), parts in running.items():
        found = [text for part in parts for text in part.result()]
        equal = [a == b for a, b in zip(found, plain, strict=True)]
        figure = f"equal_texts_{name}_batch_{batch}"
        result.figures[figure] = sum(equal) / len(equal)
        print(f"{figure} = {result.figures[figure]}", flush=True)
        for prompt, same, text, wanted in zip(prompts, equal, found, plain, strict=True):
            row: dict[str, object] = {"method": name, "batch": batch, "prompt": prompt.id}
            row |= {"tokens": len(wanted), "identical_to_plain": same}
            if not same:
                pairs = enumerate(zip(text, wanted, strict=False))
                row["parts_at"] = next((i for i, (a, b) in pairs if a != b), len(wanted))
            result.rows.append(row)


def texts(
    model: str,
    spec: str | Mapping[str, Any],
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch: int,
) -> list[list[int]]:
    """Continue prompts greedily, some at a time."""
    one, found = ours(loaded(model), spec), []
    for at in range(0, len(prompts), batch):
        requests = [Request(prompt, max_new_tokens) for prompt in prompts[at : at + batch]]
        running = one.engine.batch(requests, text=False)
        for _ in running.steps():
            pass
        found += [record.tokens for record in running.session.records]
    return found


# ------------------------------------------------------------------------------------------- audit


def audit_samplers(
    pool: Executor, model: str, case: Case, methods: Methods, result: Result
) -> None:
    """Audit every method under every sampler."""
    samplers = list(product(TEMPERATURES, NUCLEI))[-case.samplers :]
    running = {
        name: [pool.submit(audited, model, spec, case, *sampler) for sampler in samplers]
        for name, spec in methods.items()
    }
    for name, parts in running.items():
        rows = [{"method": name, **row} for part in parts for row in part.result()]
        failed = sum(not row["passed"] for row in rows)
        result.rows += rows
        result.figures[f"checks_failed_{name}"] = float(failed)
        print(f"checks_failed_{name} = {failed}", flush=True)


def audited(
    model: str, spec: Mapping[str, Any], case: Case, temperature: float, top_p: float
) -> list[dict[str, object]]:
    """Audit one method under one sampler and return a row a check."""
    config = AuditConfig(
        prompts=1,
        max_new_tokens=16,
        toy_samples=case.toy_samples,
        model_samples=case.model_samples,
    )
    target = loaded(model)
    sampling = SamplingConfig(temperature=temperature, top_p=top_p)
    sampler = Sampler(sampling, vocab_size=target.vocab_size)
    engine = replace(ours(target, spec).engine, sampler=sampler)
    return [
        {
            "temperature": temperature,
            "top_p": top_p,
            "check": check.name,
            "passed": check.passed,
            "statistic": check.statistic,
            "threshold": check.threshold,
        }
        for check in Audit(engine, config).checks()
    ]


if __name__ == "__main__":
    sys.exit(main())
