"""What SpecExec gains where the target's weights are read from disk in every pass.

`python benchmarks/offload.py [--quick] [--out DIR]` writes `DIR/result.json`; with
`--streaming-alone` it measures only the first figure anew and keeps the others. Both sides are our
engine on the same streamed target: plain decoding, and `drafting=specexec` with a resident draft,
prompts interleaved; ratios are of tokens a second, the median over prompts. Figures:

- `stream_share_of_disk`: bytes streamed in plain decoding over its wall time, prompts included,
  over the bandwidth of direct reads of the same layers, and of as many fresh bytes, the best of
  measurements before and after;
- `disk_ratio_unshaped_t0`: the ratio at temperature 0, the disk being as fast as it is;
- `disk_ratio_t0`, `disk_ratio_t06`: the ratio at temperatures 0 and 0.6 with reads held to the rate
  at which a target pass takes as long as 100 passes of the draft over one token, as in the
  published set-ups; rows state the rate and the measured pass;
- `equal_texts`: the share of texts that are those of plain decoding, by the same seed.

Budget and `logit_error` are chosen for each draft, rate and temperature on a prompt that is not
measured, and so is the draft that the figures are of, at temperature 0; rows hold all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from bounds import num_cores
from contestants import Answered, Ours, ours
from disk_rate import direct_read_rate
from fivefold import UserError
from fivefold.result import Result
from fivefold_lm import KVCache, LanguageModel, ModelConfig, Sampler, SamplingConfig, load_model
from fivefold_lm.offload.streamed import Offload, offload_of
from fivefold_speculative import DraftKind, DraftLoader, DraftModel
from fivefold_speculative.prompt_sets import chat_prompts, spread
from records import keep

DRAFTS: dict[str, dict[str, Any]] = {
    "shipped": {"draft": "shipped"},
    "shipped head": {"draft": "shipped", "kind": "feature_head"},
    "quantised 6 bits": {"draft": "quantised", "bits": 6},
    "quantised 5 bits": {"draft": "quantised", "bits": 5},
}
PASSES = 100
"""Draft passes that a target pass costs in the published set-ups (a 7B draft, a 70B target)."""
TEMPERATURES = {"t0": 0.0, "t06": 0.6}
MEGA = 1e6


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    prompts: int
    tokens: int
    budgets: tuple[int, ...]
    errors: tuple[float | None, ...]
    """Of `drafting.logit_error`; `None`: trees of the most probable words, as in the source."""
    probe: int
    """New tokens of the prompt on which budget and error are chosen."""


FULL = Case(
    prompts=5, tokens=96, budgets=(16, 32, 64, 128), errors=(None, 0.6, 0.3, 0.15), probe=32
)
QUICK = Case(prompts=2, tokens=24, budgets=(16, 64), errors=(None, 0.3), probe=16)


@dataclass(frozen=True)
class Measured:
    """One draft at one rate.

    Args:
        draft: its name here.
        promise: ratio on the prompt on which the budget was chosen.
        ratios: by temperature.
    """

    draft: str
    promise: float
    ratios: dict[str, float]


def main() -> int:
    """Measure, print, write; 1 when a text differs."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/offload")
    result.environment |= {"quick_case": options.quick, **vars(case)}
    torch.set_num_threads(num_cores())
    config = ModelConfig(
        name=options.model, dtype=options.dtype, offload="disk", memory=options.memory
    )
    bench = Bench(config, case, result)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.streaming_alone:
        keep(result, options.out / "result.json", lambda row: False)
        bench.measure_streaming()
    else:
        bench.measure({name: DRAFTS[name] for name in options.drafts})
    result.write(options.out)
    for figure, value in result.figures.items():
        print(f"{figure} = {value}")
    return 0 if result.figures.get("equal_texts", 1.0) == 1.0 else 1


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/offload"))
    parser.add_argument("--streaming-alone", action="store_true", help="the first figure alone")
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--dtype", default="bfloat16", help="as in `model.dtype=NAME`")
    parser.add_argument("--memory", default="80MiB", help="as in `model.memory=SIZE`")
    parser.add_argument("--drafts", nargs="*", choices=list(DRAFTS), default=list(DRAFTS))
    return parser.parse_args()


class Bench:
    """The measurements of one target, by draft and rate.

    Args:
        config: the streamed target.
        case: how much is measured.
        result: takes rows and figures.
    """

    def __init__(self, config: ModelConfig, case: Case, result: Result) -> None:
        self.config, self.case, self.result = config, case, result
        self.equal: list[bool] = []

    def measure(self, drafts: dict[str, dict[str, Any]]) -> None:
        """Measure at the disk's own rate, then at the rate that suits each draft."""
        target = self._target()
        nbytes = target.offload.bytes_per_pass
        disk = self._measure_streaming(target)
        unshaped, costs = [], {}
        for name, settings in drafts.items():
            draft = draft_of(target.model, settings)
            if draft is not None:
                costs[name] = draft_pass_seconds(draft)
                unshaped.append(self._draft_at(target, name, settings, 0.0, {"t0": 0.0}))
        del target
        shaped = []
        for name, cost in costs.items():
            rate = nbytes / (PASSES * cost)
            row = {"draft": name, "t_draft": cost, "rate_mb_s": rate / MEGA}
            if rate > disk:
                print(f"{name}: the disk is slower than {PASSES} draft passes a target pass as is")
            slowed = Target(replace(self.config, disk_rate=rate / MEGA))
            row["t_target"] = self._pass_seconds(slowed)
            self.result.rows.append({"what": "rate", **row})
            shaped.append(self._draft_at(slowed, name, drafts[name], rate, TEMPERATURES))
            del slowed
        figures = self.result.figures
        figures["disk_ratio_unshaped_t0"] = best_of(unshaped).ratios["t0"]
        for when in TEMPERATURES:
            figures[f"disk_ratio_{when}"] = best_of(shaped).ratios[when]
        figures["equal_texts"] = statistics.mean(self.equal)
        chosen = {"unshaped": best_of(unshaped).draft, "shaped": best_of(shaped).draft}
        self.result.environment |= {"drafts_of_the_figures": chosen}

    def measure_streaming(self) -> None:
        """Measure how fast plain decoding streams, and nothing else."""
        self._measure_streaming(self._target())

    def _measure_streaming(self, target: Target) -> float:
        """Record the share of the disk's rate at which plain decoding streams; return that rate.

        The disk is measured before and after; its better rate counts.
        """
        nbytes = target.offload.bytes_per_pass
        before = direct_read_rate(nbytes)
        streamed = self._stream_rate(target)
        disk = max(before, direct_read_rate(nbytes))
        self.result.environment |= {"disk_bytes_per_second": disk}
        self.result.figures["stream_share_of_disk"] = streamed / disk
        return disk

    def _target(self) -> Target:
        """Load the streamed target, and the prompts, of which one is not measured."""
        target = Target(self.config)
        prompts = spread(chat_prompts("held_out"), self.case.prompts + 1)
        self.probe, *self.prompts = [target.model.encode(prompt.content) for prompt in prompts]
        self.result.environment |= target.offload.environment()
        return target

    def _draft_at(
        self,
        target: Target,
        name: str,
        settings: dict[str, Any],
        rate: float,
        temperatures: dict[str, float],
    ) -> Measured:
        """Choose settings on the probe, then measure prompt by prompt, plain decoding beside it."""
        ratios, promises = {}, []
        for when, temperature in temperatures.items():
            sampling = SamplingConfig(temperature=temperature)
            tried = self._tried(target, settings, sampling)
            budget, error = max(tried, key=tried.__getitem__)
            promises.append(tried[budget, error])
            spec = best_first(settings, budget, error)
            sides = target.contestant("none", sampling), target.contestant(spec, sampling)
            found = [self._pair(*sides, prompt) for prompt in self.prompts]
            ratios[when] = statistics.median(speed(ours) / speed(base) for base, ours in found)
            self.result.rows.append(
                {
                    "what": "ratio",
                    "draft": name,
                    "rate_mb_s": rate / MEGA or None,
                    "temperature": temperature,
                    "budget": budget,
                    "logit_error": error,
                    "tried": {f"{size}, {off}": ratio for (size, off), ratio in tried.items()},
                    "ratio": ratios[when],
                    "ratios": [speed(ours) / speed(base) for base, ours in found],
                    "tokens_per_pass": statistics.mean(
                        len(ours.tokens) / ours.passes for _, ours in found
                    ),
                    "stages": [dict(ours.stages) for _, ours in found],
                }
            )
            shown = f"{name}, {when}, budget {budget}, error {error}"
            print(f"{shown}: {ratios[when]:.2f}", flush=True)
        return Measured(name, promises[0], ratios)

    def _tried(
        self, target: Target, settings: dict[str, Any], sampling: SamplingConfig
    ) -> dict[tuple[int, float | None], float]:
        """Return what each budget and error is worth on the probe, over plain decoding."""
        plain = self._probe_speed(target, "none", sampling)
        tried = {}
        for budget, error in product(self.case.budgets, self.case.errors):
            spec = best_first(settings, budget, error)
            tried[budget, error] = self._probe_speed(target, spec, sampling) / plain
        return tried

    def _probe_speed(
        self, target: Target, spec: str | dict[str, Any], sampling: SamplingConfig
    ) -> float:
        """Return tokens a second on the prompt that is not measured, once all is warm."""
        contestant = target.contestant(spec, sampling)
        contestant.answer(self.probe, 2)
        return speed(contestant.answer(self.probe, self.case.probe))

    def _pair(self, plain: Ours, drafting: Ours, prompt: Sequence[int]) -> tuple[Answered, ...]:
        base = plain.answer(prompt, self.case.tokens)
        found = drafting.answer(prompt, self.case.tokens)
        self.equal.append(base.tokens == found.tokens)
        return base, found

    def _stream_rate(self, target: Target) -> float:
        """Return bytes a second that plain decoding streams, wall time."""
        plain = target.contestant("none", SamplingConfig())
        plain.answer(self.probe, 2)
        before, begin = target.offload.done().nbytes, time.perf_counter()
        for prompt in self.prompts:
            plain.answer(prompt, self.case.tokens)
        return (target.offload.done().nbytes - before) / (time.perf_counter() - begin)

    def _pass_seconds(self, target: Target) -> float:
        """Return the seconds of a target pass over one token."""
        answer = target.contestant("none", SamplingConfig()).answer(self.probe, 6)
        return answer.stages["t_target"] / answer.passes


class Target:
    """The target, streamed, and the drafts that were loaded for it."""

    def __init__(self, config: ModelConfig) -> None:
        self.model = load_model(config, print)
        found = offload_of(self.model.module)
        if found is None or not found.bytes_per_pass:
            sys.exit("all layers fit into --memory: nothing is streamed")
        self.offload: Offload = found
        self._drafts = DraftLoader(self.model)

    def contestant(self, spec: str | dict[str, Any], sampling: SamplingConfig) -> Ours:
        """Return our loop on this target."""
        one = ours(self.model, spec)
        sampler = Sampler(sampling, vocab_size=self.model.vocab_size)
        return replace(one, engine=replace(one.engine, sampler=sampler, drafts=self._drafts))


def best_first(settings: dict[str, Any], budget: int, error: float | None) -> dict[str, Any]:
    """Return the drafting of a draft's settings with a budget and an error."""
    return {"specexec": {**settings, "budget": budget, "logit_error": error}}


def best_of(measured: Sequence[Measured]) -> Measured:
    """Return the draft that promised most on the prompt that is not measured."""
    return max(measured, key=lambda each: each.promise)


def speed(answer: Answered) -> float:
    """Return tokens a second."""
    return len(answer.tokens) / answer.seconds


def draft_of(target: LanguageModel, settings: dict[str, Any]) -> DraftModel | None:
    """Return a draft, or say why there is none and go on without."""
    name = settings["draft"]
    source = f"{name}:{settings['bits']}" if name == "quantised" else name
    try:
        return DraftLoader(target)(source, DraftKind(settings.get("kind", "independent")))
    except UserError as error:
        print(f"left out: {error}")
        return None


def draft_pass_seconds(draft: DraftModel, passes: int = 30) -> float:
    """Return the median seconds of a draft's pass over one token, its output layer included."""
    forward, cache = draft.forward(), KVCache.for_module(draft.module, 1, 64)
    token, depth = torch.tensor([[1]]), torch.tensor([[0]])
    seen = torch.ones(1, 1, 1, dtype=torch.bool)
    embeds = None
    if draft.embed is not None:
        size = int(draft.module.config.hidden_size)
        embeds = draft.embed(token, torch.zeros(1, 1, size, dtype=draft.module.dtype))
    times = []
    for _ in range(passes):
        begin = time.perf_counter()
        rows = forward(
            cache,
            token if embeds is None else None,
            depth,
            seen,
            inputs_embeds=embeds,
            want_hidden=draft.head is not None,
            want_logits=draft.head is None,
        )
        draft.logits(rows.logits, rows.hidden)
        times.append(time.perf_counter() - begin)
        cache.rewind(torch.zeros(1, dtype=torch.long))
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
