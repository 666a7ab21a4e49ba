"""How much the house speeds up decoding, against itself and against transformers.

`python benchmarks/house.py [--quick] [--out DIR]` measures everything it prints, both sides in one
run, and writes `DIR/result.json` and its picture. Figures:

- `mean_acceptance_length_{humaneval,chat}`: tokens a target pass, greedy, with the tree of at most
  32 nodes that accepted most in the calibration;
- `ratio_to_plain_…`: tokens/s of the method that was fastest in the calibration over those of our
  own plain decoding; `ratio_to_transformers_…`, `ratio_to_transformers_assisted_…`,
  `ratio_to_transformers_lookup_…`: over transformers' `generate` alone, with the shipped
  independent draft as `assistant_model`, and with its own prompt look-up;
- `plugins_listing_seconds`: wall time of `fivefold plugins`.

Every side runs at its best number of threads and settings, chosen on prompts of the open half
before anything is measured. Ratios count only prompts on which both sides wrote the same tokens.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bounds
from contestants import (
    Answered,
    Contestant,
    Ours,
    Threaded,
    assisted_stock,
    lookup_stock,
    ours,
    plain_stock,
    stock_module,
)
from fivefold.result import Result
from fivefold_lm import LanguageModel, ModelConfig, load_model
from fivefold_speculative.drafts import shipped_for
from fivefold_speculative.drafts.export import export_assistant
from fivefold_speculative.drafts.independent import load_independent
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts, spread
from fivefold_speculative.repetition import repeated_4grams

SETS = ("humaneval", "chat")
CHAINS: list[Mapping[str, Any]] = [
    {"feature_head": {"widths": [1, 1, 1]}},
    {"feature_head": {"widths": [1, 1, 1, 1]}},
    {"feature_head": {"widths": [1, 1, 1, 1, 1, 1]}},
    {"chain": {"length": 2}},
    {"chain": {"length": 4}},
]
TREES: list[Mapping[str, Any]] = [
    {"feature_head": {"topology": "feature_head_8"}},
    {"feature_head": {"topology": "feature_head_16"}},
    {"feature_head": {"topology": "feature_head_32"}},
    {"feature_head": {"widths": [3, 2, 1, 1]}},
    {"expansion": {"topology": "feature_head_16"}},
]
"""Of at most 32 nodes each, the root included."""
LOOKUPS: list[Mapping[str, Any]] = [{"prompt_lookup": {"num_tokens": 4}}, {"prompt_lookup": {}}]
PEERS = ("transformers", "transformers_assisted", "transformers_lookup")


@dataclass(frozen=True)
class Case:
    """How much is measured."""

    prompts: int
    tokens: int
    repeats: int
    calibration: int
    counts: tuple[int, ...]
    thresholds: tuple[float, ...]


FULL = Case(6, 96, 3, 2, (2, 4, 8), (0.0, 0.4))
QUICK = Case(4, 64, 1, 1, (3, 8), (0.4,))
"""The named smaller case: 4 prompts a set, 64 tokens, one repeat, one prompt to calibrate on."""


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    result = Result("benchmarks/house")
    result.environment |= {"quick_case": options.quick, "model": options.model, **vars(case)}
    result.figures["plugins_listing_seconds"] = listing_seconds()
    config = ModelConfig(name=options.model)
    model, stock = load_model(config, print), stock_module(config)
    contestants = Calibration(model, case, result).choose(stock, options.draft)
    for name in SETS:
        measure_set(name, model, case, contestants, result)
    options.out.mkdir(parents=True, exist_ok=True)
    result.write(options.out)
    report(result, options.out)
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/house"))
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--draft", default="shipped", help="independent draft: folder, or shipped")
    return parser.parse_args()


def listing_seconds() -> float:
    """Return the median wall time of `fivefold plugins` in a process of its own."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        command = [sys.executable, "-m", "fivefold", "plugins"]
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


# ------------------------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Chosen:
    """Who takes part, each at its best settings and threads.

    Args:
        plain: our own plain decoding.
        fast: our fastest method.
        tree: our tree of at most 32 nodes that accepts most.
        chain: our fastest chain, shown beside it.
        peers: transformers' ways, by name; those that could be made.
    """

    plain: Threaded
    fast: Threaded
    tree: Threaded | None
    chain: Threaded | None
    peers: dict[str, Threaded]

    def all(self) -> list[Threaded]:
        """Return everybody once, in a fixed order."""
        named = [self.plain, self.fast, self.tree, self.chain, *self.peers.values()]
        return list(dict.fromkeys(one for one in named if one is not None))


@dataclass(frozen=True)
class Calibration:
    """Choosing settings and threads on the open half of the chat prompts."""

    model: LanguageModel
    case: Case
    result: Result

    def choose(self, stock: Any, draft: str) -> Chosen:
        """Try every setting of every side and keep its best."""
        plain = self.tried("none", [ours(self.model, "none")])
        lookups, chains, trees = (self.ours(specs, draft) for specs in (LOOKUPS, CHAINS, TREES))
        speeds = self.tried("ours", [*lookups, *chains, *trees])
        deepest = max(trees, key=self.acceptance, default=None)
        counts, thresholds = self.case.counts, self.case.thresholds
        peers = {
            "transformers": self.tried("transformers", plain_stock(stock)),
            "transformers_lookup": self.tried("transformers_lookup", lookup_stock(stock, counts)),
        }
        folder = self.assistant_folder(draft)
        if folder is not None:
            assisted = assisted_stock(stock, folder, counts, thresholds)
            peers["transformers_assisted"] = self.tried("transformers_assisted", assisted)
        fastest_plain, fastest = fastest_of(plain), fastest_of(speeds)
        assert fastest_plain is not None
        assert fastest is not None
        return Chosen(
            plain=fastest_plain,
            fast=fastest,
            tree=fastest_of(speeds, [deepest] if deepest else []),
            chain=fastest_of(speeds, chains),
            peers={name: one for name, found in peers.items() if (one := fastest_of(found))},
        )

    def ours(self, specs: Iterable[Mapping[str, Any]], draft: str) -> list[Ours]:
        """Make our contestants; those whose draft is not there are left out, with the reason."""
        made = []
        for spec in specs:
            ((method, values),) = spec.items()
            if method in ("chain", "expansion") and draft != "shipped":
                values = {**values, "draft": draft}
            one = ours(self.model, {method: values})
            try:
                one.answer(self.prompts()[0], 2)
            except Exception as error:  # whatever keeps it from running is the record's to tell
                self.result.rows.append({"left_out": dict(one.settings), "reason": str(error)})
                continue
            made.append(one)
        return made

    def assistant_folder(self, draft: str) -> Path | None:
        """Return the draft as transformers reads it: given, or the shipped one written out."""
        if draft != "shipped":
            return Path(draft)
        module = self.model.module
        shipped = shipped_for("independent", module.config.to_dict())
        if shipped is None or not shipped.path.is_file():
            reason = f"no independent draft is shipped for {self.model.name}"
            self.result.rows.append({"left_out": "transformers_assisted", "reason": reason})
            return None
        folder = Path(tempfile.mkdtemp(prefix="assistant-"))
        independent = load_independent(shipped.path, module)
        export_assistant(independent, module, self.model.tokenizer, folder)
        return folder

    def prompts(self) -> list[list[int]]:
        """Return prompts of the open half."""
        chosen = spread(chat_prompts("open"), self.case.calibration)
        return [self.model.encode(prompt.content) for prompt in chosen]

    def tried(self, what: str, contestants: Sequence[Contestant]) -> dict[Threaded, float]:
        """Return everybody's speed, with one thread and with all."""
        threads = sorted({1, bounds.num_cores()})
        speeds = {}
        for one in [Threaded(one, count) for one in contestants for count in threads]:
            speeds[one] = self.speed(one)
            row = {"calibration": what, "tokens_per_second": speeds[one], **one.settings}
            self.result.rows.append(row)
            print(f"calibration of {what}: {speeds[one]:6.1f} tokens/s  {dict(one.settings)}")
        return speeds

    def speed(self, one: Contestant) -> float:
        """Return tokens a second over the calibration prompts, after a warm-up."""
        one.answer(self.prompts()[0], 4)
        done = [one.answer(prompt, self.case.tokens // 2) for prompt in self.prompts()]
        return sum(len(a.tokens) for a in done) / sum(a.seconds for a in done)

    def acceptance(self, one: Ours) -> float:
        """Return tokens a pass over the calibration prompts."""
        done = [one.answer(prompt, self.case.tokens // 2) for prompt in self.prompts()]
        return sum(len(a.tokens) for a in done) / sum(a.passes for a in done)


def fastest_of(
    speeds: Mapping[Threaded, float], among: Sequence[Contestant] | None = None
) -> Threaded | None:
    """Return the fastest, among some contestants if they are given; None if there is none."""
    taking_part = [one for one in speeds if among is None or one.contestant in among]
    return max(taking_part, key=speeds.__getitem__, default=None)


# ------------------------------------------------------------------------------- measurement


def measure_set(
    name: str, model: LanguageModel, case: Case, chosen: Chosen, result: Result
) -> None:
    """Let everybody answer every prompt of a set, in turn, and record figures and rows."""
    prompts = prompt_tokens(name, model, case)
    everybody = chosen.all()
    for one in everybody:
        one.answer(prompts[0], 8)
    done: dict[Threaded, list[list[Answered]]] = {one: [] for one in everybody}
    for repeat in range(case.repeats):
        for one in everybody:
            done[one].append([])
        for number, prompt in enumerate(prompts):
            turn = (repeat + number) % len(everybody)
            for one in [*everybody[turn:], *everybody[:turn]]:
                done[one][repeat].append(one.answer(prompt, case.tokens))
    for one in everybody:
        result.rows.append(row_of(name, one, done, chosen, model))
    fast = done[chosen.fast]
    for peer, other in {"plain": chosen.plain, **chosen.peers}.items():
        result.figures[f"ratio_to_{peer}_{name}"] = ratio(fast, done[other])
    for peer in set(PEERS) - set(chosen.peers):
        result.figures[f"ratio_to_{peer}_{name}"] = None
    result.figures[f"mean_acceptance_length_{name}"] = (
        acceptance(done[chosen.tree]) if chosen.tree else None
    )


def prompt_tokens(name: str, model: LanguageModel, case: Case) -> list[list[int]]:
    """Return the prompts of a set as tokens, in the chat template, as `generate` has them."""
    given = chat_prompts("held_out") if name == "chat" else human_eval_prompts()
    room = model.context_len - case.tokens
    fitting = [p for p in given if len(model.encode(p.content)) < room]
    return [model.encode(p.content) for p in spread(fitting, case.prompts)]


def ratio(fast: list[list[Answered]], other: list[list[Answered]]) -> float | None:
    """Return how much faster one side was: the median over repeats, equal texts only."""
    ratios = []
    for ours_, theirs in zip(fast, other, strict=True):
        same = [(a, b) for a, b in zip(ours_, theirs, strict=True) if a.tokens == b.tokens]
        if same:
            ratios.append(sum(b.seconds for _, b in same) / sum(a.seconds for a, _ in same))
    return statistics.median(ratios) if ratios else None


def acceptance(repeats: list[list[Answered]]) -> float:
    """Return tokens a target pass."""
    return sum(len(a.tokens) for a in repeats[0]) / sum(a.passes for a in repeats[0])


def row_of(
    name: str,
    one: Threaded,
    done: Mapping[Threaded, list[list[Answered]]],
    chosen: Chosen,
    model: LanguageModel,
) -> dict[str, object]:
    """Return one cell: a contestant on a set, and how far its loops are from their bounds."""
    answers, plain = done[one], done[chosen.plain]
    first = answers[0]
    speeds = [sum(len(a.tokens) for a in r) / sum(a.seconds for a in r) for r in answers]
    same = [a.tokens == b.tokens for a, b in zip(first, plain[0], strict=True)]
    row: dict[str, object] = {
        "set": name,
        "method": one.name,
        "settings": dict(one.settings),
        "prompts": len(first),
        "temperature": 0,
        "batch": 1,
        "tokens_per_second": statistics.median(speeds),
        "ratio_to_plain": ratio(answers, plain),
        "identical_to_plain": all(same),
        "equal_texts": sum(same) / len(same),
        "repeated_4grams": repeated_4grams(a.tokens for a in first),
    }
    if not first[0].passes:
        return row
    passes = sum(a.passes for a in first)
    seconds = {
        stage: sum(a.stages.get(stage, 0.0) for a in first) / passes for stage in first[0].stages
    }
    nodes = max(a.nodes for a in first)
    machine = bounds.measure(model.module, one.threads)
    bound = machine.pass_bound(model.module, nodes)
    return row | {
        "mean_acceptance_length": acceptance(answers),
        "nodes": nodes,
        "seconds_a_pass": seconds,
        "target_pass_bound_seconds": bound,
        "target_pass_over_bound": seconds["t_target"] / bound,
        "bytes_per_second": machine.bytes_per_second,
        "flops_per_second": machine.flops_per_second,
    }


# ------------------------------------------------------------------------------------ report


def report(result: Result, out: Path) -> None:
    """Print figures and cells, and draw them from what was recorded."""
    cells: list[dict[str, Any]] = [row for row in result.rows if "set" in row]
    for row in cells:
        length = row.get("mean_acceptance_length")
        print(
            f"{row['set']:10} {row['method']:22} {row['tokens_per_second']:7.1f} tokens/s  "
            f"{f'{length:.2f} tokens a pass' if length else '':20} "
            f"{'same text' if row['identical_to_plain'] else 'other text'}"
        )
    for name, value in result.figures.items():
        print(f"{name} = {'null' if value is None else f'{value:.3f}'}")
    draw(cells, out / "tokens_per_second.svg")


def draw(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw tokens a second of everybody on every set."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.3 * len(cells)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{row['set']}: {row['method']}" for row in cells]
    places = range(len(cells))
    bars = axes.barh(places, [row["tokens_per_second"] for row in cells], color="#3b6ea5")
    axes.set_yticks(places, labels)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="tokens a second (more is better)")
    FigureCanvasSVG(figure).print_figure(path)


if __name__ == "__main__":
    sys.exit(main())
