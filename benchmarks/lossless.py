"""Is every shipped method lossless on the real model, at size?

`python benchmarks/lossless.py [--quick] [--out DIR]` writes `DIR/result.json`. Figures:

- `equal_texts_{METHOD}_batch_{1,8}`: the share of prompts (half of chat as far as there are any,
  the others HumanEval) whose greedy text is that of plain decoding, token for token, one prompt
  at a time; batches are ragged;
- `equal_texts_{FORMAT}_{METHOD}_batch_{1,8}`: likewise with `--formats`: bfloat16, or the GGUF file
  run from its own blocks, where plain decoding of that format is the reference;
- `checks_failed_{METHOD}`: checks of `fivefold audit` that failed at temperatures 0.3, 0.7 and 1.0,
  with and without a nucleus; not with `--texts`.

Rows hold every cell; a text that differs is a row with the place where it parts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
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


FORMATS = {
    "float32": ModelConfig(),
    "bfloat16": ModelConfig(dtype="bfloat16"),
    "file": ModelConfig(weights="file"),
}
FULL = Case(prompts=50, tokens=128, toy_samples=20_000, model_samples=600, samplers=6)
QUICK = Case(prompts=8, tokens=48, toy_samples=20_000, model_samples=200, samplers=1)


def main() -> int:
    """Compare, print, write; 1 when anything differs."""
    options = read_options()
    case = QUICK if options.quick else FULL
    case = replace(
        case, **{name: value for name in ("prompts", "tokens") if (value := getattr(options, name))}
    )
    result = Result("benchmarks/lossless")
    result.environment |= {"quick_case": options.quick, "model": options.model, **vars(case)}
    chosen = {name: METHODS[name] for name in options.methods or METHODS}
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(
        options.processes,
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, num_cores() // options.processes),),
    ) as pool:
        result.status = "partial"  # until all is done
        for name in options.formats:
            config = replace(FORMATS[name], name=options.model)
            compare_texts(pool, name, config, case, chosen, result)
            result.write(options.out)
        if not options.texts:
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
    parser.add_argument("--formats", nargs="*", choices=list(FORMATS), default=["float32"])
    parser.add_argument("--prompts", type=int, help="how many; default: 50, or 8 if quick")
    parser.add_argument("--tokens", type=int, help="of each text; default: 128, or 48 if quick")
    parser.add_argument("--texts", action="store_true", help="compare texts only: no audits")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), help="default: all")
    parser.add_argument("--processes", type=int, default=num_cores(), help="share the work")
    return parser.parse_args()


_LOADED: dict[str, LanguageModel] = {}  # the one model that this process holds


def loaded(config: ModelConfig) -> LanguageModel:
    """Return a model, kept until another one is asked for."""
    key = repr(config)
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = load_model(config, print)
    return _LOADED[key]


# ------------------------------------------------------------------------------------- greedy text


def compare_texts(
    pool: Executor,
    format: str,
    config: ModelConfig,
    case: Case,
    methods: Methods,
    result: Result,
) -> None:
    """Compare greedy texts with plain decoding of one prompt at a time."""
    chat = spread(chat_prompts(), case.prompts // 2)
    code = spread(human_eval_prompts(), case.prompts - len(chat))
    ordered = sorted([*enumerate(chat), *enumerate(code)], key=lambda pair: pair[0])
    prompts = [prompt for _, prompt in ordered]
    encode = loaded(config).encode
    tokens = [encode(prompt.content) for prompt in prompts]
    label = "" if format == "float32" else f"{format}_"

    def begun(spec: str | Mapping[str, Any], batch: int) -> list[Future[list[list[int]]]]:
        parts = [tokens[at : at + PART] for at in range(0, len(tokens), PART)]
        return [pool.submit(texts, config, spec, part, case.tokens, batch) for part in parts]

    plainly = begun("none", 1)
    running = {cell: begun(methods[cell[0]], cell[1]) for cell in product(methods, BATCHES)}
    plain = [text for part in plainly for text in part.result()]
    for (name, batch), parts in running.items():
        found = [text for part in parts for text in part.result()]
        equal = [a == b for a, b in zip(found, plain, strict=True)]
        figure = f"equal_texts_{label}{name}_batch_{batch}"
        result.figures[figure] = sum(equal) / len(equal)
        print(f"{figure} = {result.figures[figure]}", flush=True)
        for prompt, same, text, wanted in zip(prompts, equal, found, plain, strict=True):
            row: dict[str, object] = {"format": format, "method": name, "batch": batch}
            row |= {"prompt": prompt.id, "tokens": len(wanted), "identical_to_plain": same}
            if not same:
                pairs = enumerate(zip(text, wanted, strict=False))
                row["parts_at"] = next((i for i, (a, b) in pairs if a != b), len(wanted))
            result.rows.append(row)


def texts(
    config: ModelConfig,
    spec: str | Mapping[str, Any],
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch: int,
) -> list[list[int]]:
    """Continue prompts greedily, some at a time."""
    one, found = ours(loaded(config), spec), []
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
    target = loaded(ModelConfig(name=model))
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
