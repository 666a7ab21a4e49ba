"""How much a planned tree yields: against its prediction, against chains, by size, by rule.

`python benchmarks/trees.py [--quick] [--dtype FORMAT] [--keep] [--out DIR]` writes
`DIR/result.json` and its pictures; with `--keep` it goes on where a record stopped. No figure here
is a time: all are tokens a target pass, or shares. A cell is a draft, a temperature and a class of
prompts, of which the held-out half is decoded. Vectors are measured teacher-forced on plain answers
to these prompts. Figures (each the worst of its cells):

- `prediction_error`: |measured / F(T) - 1| of Sequoia's trees, F by depth and parent's rank;
  `prediction_error_plain`: F by one vector for all nodes;
  `prediction_error_from_open_half`, `prediction_error_plain_from_open_half`: likewise, with trees
  and F of a vector that was measured on the open half, so that what the halves differ in counts;
- `sequoia_over_best_chain`: tokens a pass of the tree of 64 nodes over those of the best chain of
  at most 63 drafted tokens; `sequoia_over_k_chains`: over the best k independent chains of as many
  nodes, k by prediction;
- `chain_ratio_off_prediction`: how far the first ratio is from the predicted one at 16 and 32;
- `worst_rule_lead`: the least lower end of a 95 % interval of the differences in acceptance
  without replacement - multi-step and multi-step - naive.

Rows hold every cell, and the growth with tree size of every method that is installed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from fivefold import UserError
from fivefold.result import Result
from fivefold_lm import FullAttention, LanguageModel, ModelConfig, Sampler, SamplingConfig
from fivefold_lm import load_model as load
from fivefold_speculative import (
    AcceptanceVector,
    DraftKind,
    DraftLoader,
    DraftModel,
    Proposal,
    Request,
    Rule,
    TreeTopology,
    measure_acceptance,
)
from fivefold_speculative.choosing import choose
from fivefold_speculative.engine import Engine
from fivefold_speculative.prompt_sets import chat_prompts, human_eval_prompts
from records import keep

SIZES = (16, 32, 64)
RULES: dict[str, tuple[Proposal, Rule]] = {
    "without_replacement": (Proposal.WITHOUT_REPLACEMENT, Rule.AUTO),
    "multi_step": (Proposal.SAMPLED, Rule.AUTO),
    "naive": (Proposal.SAMPLED, Rule.LOOKUP),
}
"""How children come about, and what judges them, best first."""
CHILDREN = 4
"""Children of the one node at which rules are compared."""
DRAWS = 4
"""How often children are drawn at every position of a text that is measured on."""
METHODS: dict[str, Callable[[int], Mapping[str, Any]]] = {
    "sequoia": lambda n: {"nodes": n, "levels": min(n, 16), "replan": 0.0},
    "specexec": lambda n: {"budget": n},
    "specinfer": lambda n: {"widths": specinfer_widths(n)},
    "chain": lambda n: {"length": min(n - 1, 63)},
}
"""Settings of each method for a tree of n nodes."""
TRUE_95 = 1.96


@dataclass(frozen=True)
class Case:
    """How much is measured.

    Args:
        prompts: of each half of each class.
        tokens: new tokens a prompt.
        temperatures: of yield.
        growth: sizes of the plot of growth.
        growth_prompts: decoded for each point of it.
        rule_temperatures: of the comparison of rules.
        classes: of prompts.
        kinds: of drafts.
    """

    prompts: int
    tokens: int
    temperatures: tuple[float, ...]
    growth: tuple[int, ...]
    rule_temperatures: tuple[float, ...]
    classes: tuple[str, ...] = ("chat", "humaneval")
    kinds: tuple[str, ...] = ("independent", "feature_head")
    growth_prompts: int = 4


FULL = Case(
    16,
    64,
    (0.0, 0.6),
    (2, 8, 32, 64, 128, 256, 512),
    (0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
)
QUICK = Case(4, 32, (0.0, 0.6), (2, 8, 32, 128), (0.2, 0.6, 1.2), ("chat",), ("independent",))
"""The named smaller case: 4 chat prompts a half, 32 tokens, one draft, two temperatures."""


def main() -> int:
    """Measure, print, write."""
    options = read_options()
    case = QUICK if options.quick else FULL
    given = {name: value for name in ("prompts", "tokens") if (value := getattr(options, name))}
    case = replace(case, **given)
    result = Result("benchmarks/trees")
    model = ModelConfig(name=options.model, dtype=options.dtype)
    result.environment |= {"quick_case": options.quick, "model": model.name, **vars(case)}
    result.environment["dtype"] = model.dtype
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Trees(load(model, print), case, result, options.batch)
    if options.keep:
        keep(result, options.out / "result.json", lambda row: False)
    result.status = "partial"  # until all is done
    for kind, temperature, name in product(case.kinds, case.temperatures, case.classes):
        if not bench.has(draft=kind, temperature=temperature, prompts=name):
            bench.cell(kind, temperature, name)
        bench.yields()
        result.write(options.out)
    bench.growth()
    result.write(options.out)
    bench.rules()
    result.status = "ok"
    result.write(options.out)
    report(result, options.out)
    return 0


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller case, under ten minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/trees"))
    parser.add_argument("--keep", action="store_true", help="what DIR holds is not done again")
    parser.add_argument("--model", default="smollm2", help="as in `model=NAME`")
    parser.add_argument("--dtype", default="float32", help="as in `model.dtype=FORMAT`")
    parser.add_argument("--prompts", type=int, help="of each half; default: the case's")
    parser.add_argument("--tokens", type=int, help="of each text; default: the case's")
    parser.add_argument("--batch", type=int, default=8, help="prompts decoded together")
    return parser.parse_args()


def specinfer_widths(nodes: int) -> list[int]:
    """Return expansion widths of about so many nodes: two wide levels, then single children."""
    wide = min(max(1, round(math.sqrt(nodes / 4))), nodes - 1)
    depth = max(1, round((nodes - 1) / wide))
    return [wide, *[1] * (depth - 1)]


def k_chains(nodes: int, k: int) -> TreeTopology:
    """Return k chains of one root, of so many nodes together, as equal as can be."""
    lengths = [(nodes - 1) // k + (place < (nodes - 1) % k) for place in range(k)]
    widths_left = [sum(length > depth for length in lengths) for depth in range(lengths[0])]
    parents, above = [-1], [0] * k
    for count in widths_left:
        first = len(parents)
        parents += above[:count]
        above = list(range(first, first + count))
    return TreeTopology(tuple(parents))


# ------------------------------------------------------------------------------------------ cells


@dataclass(frozen=True)
class Yield:
    """What was decoded: tokens and passes of every prompt, cut by nothing but EOS."""

    tokens: list[int]
    passes: list[int]

    @property
    def mean(self) -> float:
        """Tokens a pass."""
        return sum(self.tokens) / sum(self.passes)

    @property
    def error(self) -> float:
        """Standard error of the mean; prompts are independent."""
        count = len(self.tokens)
        if count < 2:
            return math.nan
        off = [t - self.mean * p for t, p in zip(self.tokens, self.passes, strict=True)]
        return math.sqrt(sum(x * x for x in off) * count / (count - 1)) / sum(self.passes)


@dataclass(frozen=True)
class Trees:
    """The benchmark of one model."""

    model: LanguageModel
    case: Case
    result: Result
    batch: int

    def has(self, **wanted: object) -> bool:
        """Say whether there is a row of these entries."""
        return any(wanted.items() <= row.items() for row in self.result.rows)

    def cell(self, kind: str, temperature: float, name: str) -> None:
        """Measure on both halves, decode the held-out half; a row a tree."""
        sampler = self.sampler(temperature)
        draft = DraftLoader(self.model)("shipped", DraftKind(kind))
        proposal = Proposal.WITHOUT_REPLACEMENT if temperature else Proposal.POINT_MASS
        held_out = self.prompts(name, held_out=True)
        vectors = {
            "open": self.vector(draft, sampler, proposal, self.prompts(name, held_out=False)),
            "held_out": self.vector(draft, sampler, proposal, held_out),
        }
        cell = {"draft": kind, "temperature": temperature, "prompts": name}
        for nodes in SIZES:
            decoded: dict[TreeTopology, Yield] = {}
            for on, ranked in product(vectors, (True, False)):
                vector = vectors[on] if ranked else vectors[on].plain()
                tree = planned(vector, nodes)
                self.yield_row(
                    {**cell, "measured_on": on, "ranked": ranked, "tree": "sequoia"},
                    (tree, vector, kind, sampler, held_out),
                    decoded,
                )
            vector = vectors["held_out"]
            chains = {"chain": TreeTopology.chain(nodes - 1)}
            if nodes == SIZES[-1]:
                some = [k_chains(nodes, k) for k in range(1, min(nodes - 1, 32) + 1)]
                chains["k_chains"] = max(some, key=vector.expected_tokens)
            for label, tree in chains.items():
                self.yield_row(
                    {**cell, "measured_on": "held_out", "ranked": True, "tree": label},
                    (tree, vector, kind, sampler, held_out),
                    decoded,
                )

    def yield_row(
        self,
        row: dict[str, object],
        what: tuple[TreeTopology, AcceptanceVector, str, Sampler, list[list[int]]],
        decoded: dict[TreeTopology, Yield],
    ) -> None:
        """Decode with a tree, once, and record it beside its prediction."""
        tree, vector, kind, sampler, prompts = what
        if tree not in decoded:
            decoded[tree] = self.decode(tree, kind, sampler, prompts)
        found, expected = decoded[tree], vector.expected_tokens(tree)
        row |= {
            "nodes": tree.num_nodes,
            "levels": tree.num_levels,
            "root_children": tree.widths[0],
            "tokens_a_pass": found.mean,
            "standard_error": found.error,
            "predicted": expected,
            "error": found.mean / expected - 1,
            "p": list(vector.probs[:4]),
        }
        self.result.rows.append(row)
        shown = {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}
        print(shown, flush=True)

    def growth(self) -> None:
        """Record tokens a pass by size, of every method that is installed and takes the size."""
        name, temperature = self.case.classes[0], self.case.temperatures[0]
        prompts = self.prompts(name, held_out=True)[: self.case.growth_prompts]
        for method, nodes in product(METHODS, self.case.growth):
            if self.has(growth=method, nodes=nodes):
                continue
            row: dict[str, object] = {"growth": method, "nodes": nodes, "prompts": name}
            try:
                chosen = choose("drafting", method, METHODS[method](nodes))
                engine = self.engine(chosen.build, self.sampler(temperature))
                found = self.run(engine, prompts)
            except UserError as error:
                self.result.rows.append(row | {"left_out": str(error)})
                continue
            row |= {"tokens_a_pass": found.mean, "standard_error": found.error}
            self.result.rows.append(row)
            print(row)

    def rules(self) -> None:
        """Record the acceptance of each rule at one node, text by text on the same texts."""
        name = self.case.classes[0]
        prompts = self.prompts(name, held_out=True)
        for kind, temperature in product(self.case.kinds, self.case.rule_temperatures):
            if self.has(rule="naive", draft=kind, temperature=temperature):
                continue
            sampler = self.sampler(temperature)
            draft = DraftLoader(self.model)("shipped", DraftKind(kind))
            texts, starts = self.texts(sampler, prompts)
            share: dict[str, list[float]] = {}
            for rule, (proposal, judge) in RULES.items():
                share[rule] = [
                    sum(
                        measure_acceptance(
                            self.model,
                            draft,
                            sampler,
                            proposal,
                            CHILDREN,
                            [text],
                            starts=[start],
                            rule=judge,
                            draws=DRAWS,
                        ).probs
                    )
                    for text, start in zip(texts, starts, strict=True)
                    if len(text) > start + 1
                ]
            cell = {"draft": kind, "temperature": temperature, "children": CHILDREN}
            for rule, shares in share.items():
                mean, half = interval(shares)
                row = {"rule": rule, **cell, "acceptance": mean, "half_interval": half}
                self.result.rows.append(row)
                print(row)
            for better, worse in pairwise(RULES):
                leads = [a - b for a, b in zip(share[better], share[worse], strict=True)]
                mean, half = interval(leads)
                lead = {"lead": f"{better} - {worse}", **cell, "mean": mean, "half_interval": half}
                self.result.rows.append(lead)
        found: list[dict[str, Any]] = [row for row in self.result.rows if "lead" in row]
        self.result.figures["worst_rule_lead"] = min(
            row["mean"] - row["half_interval"] for row in found
        )

    def yields(self) -> None:
        """Make figures of the cells that are there: of each the worst."""
        rows: list[dict[str, Any]] = [row for row in self.result.rows if "predicted" in row]
        for figure, on, ranked in (
            ("prediction_error", "held_out", True),
            ("prediction_error_plain", "held_out", False),
            ("prediction_error_from_open_half", "open", True),
            ("prediction_error_plain_from_open_half", "open", False),
        ):
            wanted = {"measured_on": on, "ranked": ranked, "tree": "sequoia"}
            errors = [abs(row["error"]) for row in rows if wanted.items() <= row.items()]
            self.result.figures[figure] = max(errors)
        over: dict[str, list[float]] = {"chain": [], "k_chains": []}
        off = []
        for row in rows:
            if row["tree"] not in over:
                continue
            key = ("draft", "temperature", "prompts", "measured_on", "ranked")
            (ours,) = [
                other
                for other in rows
                if other["tree"] == "sequoia"
                and other["nodes"] == row["nodes"]
                and all(other[name] == row[name] for name in key)
            ]
            ratio = ours["tokens_a_pass"] / row["tokens_a_pass"]
            row["sequoia_over_this"] = ratio
            row["predicted_ratio"] = ours["predicted"] / row["predicted"]
            if row["nodes"] == SIZES[-1]:
                over[row["tree"]].append(ratio)
            elif row["tree"] == "chain":
                off.append(abs(ratio / row["predicted_ratio"] - 1))
        self.result.figures["sequoia_over_best_chain"] = min(over["chain"])
        self.result.figures["sequoia_over_k_chains"] = min(over["k_chains"])
        self.result.figures["chain_ratio_off_prediction"] = max(off)

    # Decoding.

    def sampler(self, temperature: float) -> Sampler:
        """Return the sampler of a temperature."""
        return Sampler(SamplingConfig(temperature=temperature), vocab_size=self.model.vocab_size)

    def prompts(self, name: str, *, held_out: bool) -> list[list[int]]:
        """Return one half of a class, as tokens."""
        if name == "chat":
            half = chat_prompts("held_out" if held_out else "open")
        else:
            half = human_eval_prompts()[int(held_out) :: 2]
        fitting = [
            tokens
            for prompt in half
            if len(tokens := self.model.encode(prompt.content))
            < self.model.context_len - self.case.tokens
        ]
        places = [i * len(fitting) // self.case.prompts for i in range(self.case.prompts)]
        return fitting if self.case.prompts >= len(fitting) else [fitting[i] for i in places]

    def texts(
        self, sampler: Sampler, prompts: Sequence[list[int]]
    ) -> tuple[list[list[int]], list[int]]:
        """Let the target continue prompts; return whole texts and where the answers begin."""
        texts = []
        plain = self.engine(choose("drafting", "none").build, sampler)
        for at in range(0, len(prompts), self.batch):
            batch = plain.batch(self.requests(prompts, at), text=False)
            for _ in batch.steps():
                pass
            texts += batch.session.tokens
        return texts, [len(prompt) for prompt in prompts]

    def vector(
        self, draft: DraftModel, sampler: Sampler, proposal: Proposal, prompts: Sequence[list[int]]
    ) -> AcceptanceVector:
        """Measure a draft on the target's own answers to some prompts."""
        texts, starts = self.texts(sampler, prompts)
        draws = 1 if sampler.greedy else DRAWS
        return measure_acceptance(
            self.model, draft, sampler, proposal, 32, texts, starts=starts, draws=draws
        )

    def decode(
        self, tree: TreeTopology, kind: str, sampler: Sampler, prompts: Sequence[list[int]]
    ) -> Yield:
        """Decode prompts with a tree."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            file = Path(folder) / "tree.json"
            tree.write(file)
            settings = {"topology": str(file), "kind": kind}
            engine = self.engine(choose("drafting", "sequoia", settings).build, sampler)
            return self.run(engine, prompts)

    def run(self, engine: Engine, prompts: Sequence[list[int]]) -> Yield:
        """Decode prompts some at a time; the last step counts whole, though its text is cut."""
        tokens, passes = [], []
        for at in range(0, len(prompts), self.batch):
            requests = self.requests(prompts, at)
            steps = [step.accepted.count for step in engine.batch(requests, text=False).steps()]
            counts = torch.stack(steps)  # [step, row]
            tokens += counts.sum(0).tolist()
            passes += (counts > 0).sum(0).tolist()
        return Yield(tokens, passes)

    def requests(self, prompts: Sequence[list[int]], at: int) -> list[Request]:
        """Return one batch of requests, each with its own noise."""
        some = prompts[at : at + self.batch]
        return [
            Request(prompt, self.case.tokens, key=key) for key, prompt in enumerate(some, start=at)
        ]

    def engine(self, build: Callable[..., Any], sampler: Sampler) -> Engine:
        """Return our loop with a drafting method."""
        return Engine(
            model=self.model,
            attention=FullAttention(),
            sampler=sampler,
            drafting=build,
            drafts=DraftLoader(self.model),
            say=print,
        )


def planned(vector: AcceptanceVector, nodes: int) -> TreeTopology:
    """Return Sequoia's tree."""
    from fivefold_sequoia.planning import plan

    return plan(vector, nodes, min(nodes, 16))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half its 95 % interval; texts are independent."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    spread_ = sum((x - mean) ** 2 for x in values) / (len(values) - 1)
    return mean, TRUE_95 * math.sqrt(spread_ / len(values))


# ------------------------------------------------------------------------------------------ report


def report(result: Result, out: Path) -> None:
    """Print figures and draw growth and rules."""
    for name, value in result.figures.items():
        print(f"{name} = {'null' if value is None else f'{value:.3f}'}")
    rows: list[dict[str, Any]] = list(result.rows)
    grown = [row for row in rows if "growth" in row and "tokens_a_pass" in row]
    lines = {
        method: [(r["nodes"], r["tokens_a_pass"]) for r in grown if r["growth"] == method]
        for method in dict.fromkeys(row["growth"] for row in grown)
    }
    draw(lines, "nodes of the tree", "tokens a target pass", out / "growth.svg", log=True)
    judged = [row for row in rows if "rule" in row]
    kind = judged[0]["draft"]
    lines = {
        rule: [
            (r["temperature"], r["acceptance"])
            for r in judged
            if r["rule"] == rule and r["draft"] == kind
        ]
        for rule in RULES
    }
    up = f"share of nodes with a child that stands ({CHILDREN} children)"
    draw(lines, "temperature", up, out / "rules.svg")


def draw(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    path: Path,
    *,
    log: bool = False,
) -> None:
    """Draw lines over one another."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    if log:
        axes.set_xscale("log", base=2)
    axes.set(xlabel=across, ylabel=up)
    axes.legend()
    FigureCanvasSVG(figure).print_figure(path)


if __name__ == "__main__":
    sys.exit(main())
