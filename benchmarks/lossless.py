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
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from contestants import Ours, ours
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
    compare_texts(model, case, chosen, result)
    audit_samplers(model, case, chosen, result)
    options.out.mkdir(parents=True, exist_ok=True)
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
    return parser.parse_args()


def compare_texts(model: LanguageModel, case: Case, methods: Methods, result: Result) -> None:
    """Compare greedy texts with plain decoding of one prompt at a time."""
    half = case.prompts // 2
    code, chat = spread(human_eval_prompts(), half), spread(chat_prompts(), half)
    prompts = [prompt for pair in zip(code, chat, strict=True) for prompt in pair]
    tokens = [model.encode(prompt.content) for prompt in prompts]
    plain = list(texts(ours(model, "none"), tokens, case.tokens, 1))
    for (name, spec), batch in product(methods.items(), BATCHES):
        found = list(texts(ours(model, spec), tokens, case.tokens, batch))
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
    one: Ours, prompts: Sequence[list[int]], max_new_tokens: int, batch: int
) -> Iterator[list[int]]:
    """Continue all prompts greedily, some at a time."""
    for at in range(0, len(prompts), batch):
        requests = [Request(prompt, max_new_tokens) for prompt in prompts[at : at + batch]]
        running = one.engine.batch(requests, text=False)
        for _ in running.steps():
            pass
        yield from (record.tokens for record in running.session.records)


def audit_samplers(model: LanguageModel, case: Case, methods: Methods, result: Result) -> None:
    """Audit every method under every sampler."""
    samplers = list(product(TEMPERATURES, NUCLEI))[-case.samplers :]
    config = AuditConfig(
        prompts=1,
        max_new_tokens=16,
        toy_samples=case.toy_samples,
        model_samples=case.model_samples,
    )
    for name, spec in methods.items():
        failed = 0
        for temperature, top_p in samplers:
            sampling = SamplingConfig(temperature=temperature, top_p=top_p)
            sampler = Sampler(sampling, vocab_size=model.vocab_size)
            engine = replace(ours(model, spec).engine, sampler=sampler)
            for check in Audit(engine, config).checks():
                failed += not check.passed
                result.rows.append(
                    {
                        "method": name,
                        "temperature": temperature,
                        "top_p": top_p,
                        "check": check.name,
                        "passed": check.passed,
                        "statistic": check.statistic,
                        "threshold": check.threshold,
                    }
                )
        result.figures[f"checks_failed_{name}"] = float(failed)
        print(f"checks_failed_{name} = {failed}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
