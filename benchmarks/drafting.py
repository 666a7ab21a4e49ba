"""Drafting, whole: what planned trees yield, and what `drafting=auto` is worth in time.

`python benchmarks/drafting.py [--quick] [--keep] [--out DIR]` writes `DIR/result.json`; `--keep`
goes on where a record stopped. Figures:

- those of `trees.py` (`prediction_error`, `sequoia_over_best_chain`, `sequoia_over_k_chains`, …);
- `auto_ratio_code`, `auto_ratio_chat`: tokens/s of `drafting=auto` over our own plain decoding,
  greedy, one request at a time, on HumanEval and on the held-out half of the chat prompts;
- `auto_worst_ratio_to_plain`: over all cells (class of prompts, temperature, batch) the least upper
  end of the 95 % interval of that ratio.

A cell is at least seven pairs: one batch of prompts decoded by both, in an order that alternates,
no text ending early. Its interval is that of the mean logarithm of the ratios, by Student's t.
Passes and drafts are measured at the start of the run, on the machine as it then is. Rows say what
was planned in each cell, and hold transformers' assisted generation with the same draft beside the
greedy cells of one request.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import trees_bench
from contestants import Stock, assisted_stock, stock_module
from fivefold.cache import cache_folder, clear
from fivefold.result import Result
from fivefold_lm import FullAttention, LanguageModel, ModelConfig, Sampler, SamplingConfig
from fivefold_lm import load_model as load
from fivefold_speculative import DraftLoader, Request
from fivefold_speculative.choosing import choose
from fivefold_speculative.drafts import shipped_for
from fivefold_speculative.drafts.export import export_assistant
from fivefold_speculative.drafts.independent import load_independent
from fivefold_speculative.engine import Engine
from fivefold_speculative.planner.drafter import AutoDrafter
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts
from records import keep
from trees_cells import measure_cells
from trees_growth import measure_growth
from trees_rules import measure_rules

STUDENT_95 = {7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 12: 2.201, 16: 2.131}
"""Two-sided 95 % quantiles by number of pairs."""


@dataclass(frozen=True)
class Case:
    """How much is timed.

    Args:
        pairs: of a cell; a key of `STUDENT_95`.
        tokens: new tokens a text.
        temperatures: of sampling.
        batches: requests decoded together.
    """

    pairs: int
    tokens: int
    temperatures: tuple[float, ...]
    batches: tuple[int, ...]


FULL = Case(8, 64, (0.0, 0.6, 1.0), (1, 2, 4, 8))
QUICK = Case(7, 32, (0.0, 0.6), (1, 4))
"""The named smaller case: 7 pairs of 32 tokens, two temperatures, batches of 1 and 4."""


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/drafting")
    result.environment |= {"quick_case": options.quick, "model": options.model, **vars(case)}
    result.environment["threads"] = torch.get_num_threads()
    options.out.mkdir(parents=True, exist_ok=True)
    result.status = "partial"  # until all is done
    if options.keep:
        keep(result, options.out / "result.json", lambda row: False)
    config = ModelConfig(name=options.model, dtype=options.dtype)
    model = load(config, print)
    Speed(model, config, case, result).measure(options.out, assisted=not options.quick)
    if not options.speed_alone:
        measure_yield(model, options.quick, result, options.out)
    result.status = "ok"
    result.write(options.out)
    for name, value in result.figures.items():
        print(f"{name} = {value}")
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/drafting"))
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--dtype", default="float32", help="as in `model.dtype=NAME`")
    parser.add_argument("--speed-alone", action="store_true", help="leave the yield of trees out")
    parser.add_argument("--keep", action="store_true", help="what DIR holds is not done again")
    return parser.parse_args()


def measure_yield(model: LanguageModel, quick: bool, result: Result, out: Path) -> None:
    """Run the cells of `trees.py` into the same result."""
    bench = trees_bench.Trees(
        model, trees_bench.QUICK if quick else trees_bench.FULL, result, batch=8
    )
    measure_cells(bench, out)
    measure_growth(bench)
    measure_rules(bench)


@dataclass(frozen=True)
class Speed:
    """`drafting=auto` beside plain decoding, cell by cell."""

    model: LanguageModel
    config: ModelConfig
    case: Case
    result: Result

    def measure(self, out: Path, *, assisted: bool) -> None:
        """Measure every cell that has no row yet; write each, with the figures so far.

        Args:
            out: folder of the record.
            assisted: also measure transformers' assisted generation.
        """
        for entry in ("plans", "profiles"):  # of another hour, when the machine was another
            if (cache_folder() / entry).is_dir():
                clear(cache_folder(), entry)
        model = replace(self.model, eos_ids=())  # no text ends early: pairs are of one length
        loader = DraftLoader(model)
        timed = {cell_of(row) for row in self.result.rows if is_timed(row)}
        cells = product(("code", "chat"), self.case.temperatures, self.case.batches)
        for name, temperature, batch in (cell for cell in cells if cell not in timed):
            sampler = Sampler(SamplingConfig(temperature=temperature), vocab_size=model.vocab_size)
            plain, auto = (
                Engine(
                    model=model,
                    attention=FullAttention(),
                    sampler=sampler,
                    drafting=choose("drafting", method).build,
                    drafts=loader,
                )
                for method in ("none", "auto")
            )
            row = self.cell(plain, auto, self.prompts(name, batch)) | {"prompts": name}
            row |= {"temperature": temperature, "batch": batch}
            if assisted and batch == 1 and temperature == 0:
                row |= self.assisted(plain, self.prompts(name, 1))
            self.result.rows.append(row)
            print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()})
            self.result.figures |= figures_of(self.result.rows)
            self.result.write(out)

    def cell(self, plain: Engine, auto: Engine, batches: list[list[Request]]) -> dict[str, Any]:
        """Return ratio, interval and plan of one cell."""
        for engine in (plain, auto):  # plans are made, drafts read, memory taken
            seconds_of(engine, batches[-1])
        ratios = []
        for pair, requests in enumerate(batches[: self.case.pairs]):
            order = (plain, auto) if pair % 2 else (auto, plain)
            seconds = {id(engine): seconds_of(engine, requests) for engine in order}
            ratios.append(seconds[id(plain)] / seconds[id(auto)])
        prepared = auto.batch(batches[0], text=False).drafter
        assert isinstance(prepared, AutoDrafter)
        ratio, lower, upper = interval(ratios)
        return {
            "planned": prepared.plan.best.label,
            "predicted_ratio": prepared.plan.ratio(prepared.plan.best),
            "ratio": ratio,
            "lower": lower,
            "upper": upper,
            "pairs": ratios,
        }

    def assisted(self, plain: Engine, batches: list[list[Request]]) -> dict[str, float]:
        """Return transformers' assisted generation over our plain decoding, at its best setting."""
        stock, own = stock_module(self.config), self.model.module
        shipped = shipped_for("independent", own.config.to_dict())
        if shipped is None:
            return {}
        with TemporaryDirectory() as folder:
            draft = load_independent(shipped.path, own)
            export_assistant(draft, own, self.model.tokenizer, Path(folder))
            sides = assisted_stock(stock, Path(folder), (2, 4, 8), (0.0, 0.4))
            best = min(sides, key=lambda side: self.stock_seconds(side, batches[-1]))
            ratios = [
                seconds_of(plain, batch) / self.stock_seconds(best, batch)
                for batch in batches[: self.case.pairs]
            ]
        return {"transformers_assisted_over_plain": statistics.median(ratios)}

    def stock_seconds(self, side: Stock, batch: list[Request]) -> float:
        """Return the seconds of transformers' answer to one request."""
        longer = replace(
            side, arguments=dict(side.arguments) | {"min_new_tokens": self.case.tokens}
        )
        return longer.answer(batch[0].tokens, self.case.tokens).seconds

    def prompts(self, name: str, batch: int) -> list[list[Request]]:
        """Return the batches of a cell, one a pair, and one more to warm up on."""
        prompts = human_eval_prompts() if name == "code" else chat_prompts("held_out")
        tokens = [self.model.encode(prompt.content) for prompt in prompts]
        keys = range((self.case.pairs + 1) * batch)
        every = [
            Request(tokens[key * len(tokens) // len(keys)], self.case.tokens, key=key)
            for key in keys
        ]
        return [every[at : at + batch] for at in range(0, len(every), batch)]


def is_timed(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a cell of the times, not of `trees.py`."""
    return "planned" in row


def cell_of(row: Mapping[str, Any]) -> tuple[str, float, int]:
    """Return class of prompts, temperature and batch."""
    return row["prompts"], row["temperature"], row["batch"]


def figures_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of the cells that are timed."""
    timed = {cell_of(row): row for row in rows if is_timed(row)}
    figures = {"auto_worst_ratio_to_plain": min(row["upper"] for row in timed.values())}
    for name, temperature, batch in timed:
        if temperature == 0 and batch == 1:
            figures[f"auto_ratio_{name}"] = timed[name, temperature, batch]["ratio"]
    return figures


def seconds_of(engine: Engine, requests: list[Request]) -> float:
    """Return the wall time of decoding a batch, prompts included."""
    begin = time.perf_counter()
    for _ in engine.batch(requests, text=False).steps():
        pass
    return time.perf_counter() - begin


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios and the ends of its 95 % interval."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.mean(logs)
    half = STUDENT_95[len(logs)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


if __name__ == "__main__":
    sys.exit(main())
