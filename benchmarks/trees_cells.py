"""What Sequoia's trees yield in every cell: against their prediction, against chains."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from fivefold.result import Result
from fivefold_lm import Sampler
from fivefold_sequoia.planning import plan
from fivefold_speculative import AcceptanceVector, DraftKind, DraftLoader, Proposal, TreeTopology
from trees_bench import Trees, Yield

SIZES = (16, 32, 64)


def measure_cells(bench: Trees, out: Path) -> None:
    """Measure every cell that the record lacks, and write it as it comes."""
    case, result = bench.case, bench.result
    for kind, temperature, name in product(case.kinds, case.temperatures, case.classes):
        if not bench.has(draft=kind, temperature=temperature, prompts=name):
            measure_cell(bench, kind, temperature, name)
        summarise_cells(result)
        result.write(out)


def measure_cell(bench: Trees, kind: str, temperature: float, name: str) -> None:
    """Measure on both halves, decode the held-out half; a row a tree."""
    sampler = bench.sampler(temperature)
    draft = DraftLoader(bench.model)("shipped", DraftKind(kind))
    proposal = Proposal.WITHOUT_REPLACEMENT if temperature else Proposal.POINT_MASS
    held_out = bench.prompts(name, held_out=True)
    vectors = {
        "open": bench.vector(draft, sampler, proposal, bench.prompts(name, held_out=False)),
        "held_out": bench.vector(draft, sampler, proposal, held_out),
    }
    cell = {"draft": kind, "temperature": temperature, "prompts": name}
    starts = [len(prompt) for prompt in held_out]
    for nodes in SIZES:
        decoded: dict[TreeTopology, Yield] = {}
        for on, ranked in product(vectors, (True, False)):
            vector = vectors[on] if ranked else vectors[on].plain()
            tree = planned(vector, nodes)
            _yield_row(
                bench,
                {**cell, "measured_on": on, "ranked": ranked, "tree": "sequoia"},
                (tree, vector, kind, sampler, held_out),
                decoded,
            )
        vector = vectors["held_out"]
        tree = planned(vector, nodes)
        texts = decoded[tree].texts
        _yield_row(
            bench,
            {**cell, "measured_on": "decoded", "ranked": True, "tree": "sequoia"},
            (
                tree,
                bench.vector_on(draft, sampler, proposal, texts, starts),
                kind,
                sampler,
                held_out,
            ),
            decoded,
        )
        chains = {"chain": TreeTopology.chain(nodes - 1)}
        if nodes == SIZES[-1]:
            some = [k_chains(nodes, k) for k in range(1, min(nodes - 1, 32) + 1)]
            chains["k_chains"] = max(some, key=vector.expected_tokens)
        for label, tree in chains.items():
            _yield_row(
                bench,
                {**cell, "measured_on": "held_out", "ranked": True, "tree": label},
                (tree, vector, kind, sampler, held_out),
                decoded,
            )


def _yield_row(
    bench: Trees,
    row: dict[str, object],
    what: tuple[TreeTopology, AcceptanceVector, str, Sampler, list[list[int]]],
    decoded: dict[TreeTopology, Yield],
) -> None:
    """Decode with a tree, once, and record it beside its prediction."""
    tree, vector, kind, sampler, prompts = what
    if tree not in decoded:
        decoded[tree] = bench.decode(tree, kind, sampler, prompts)
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
    bench.result.rows.append(row)
    shown = {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}
    print(shown, flush=True)


def summarise_cells(result: Result) -> None:
    """Make figures of the cells that are there: of each the worst."""
    rows: list[dict[str, Any]] = [row for row in result.rows if "predicted" in row]
    for figure, on, ranked in (
        ("prediction_error", "held_out", True),
        ("prediction_error_plain", "held_out", False),
        ("prediction_error_on_decoded", "decoded", True),
        ("prediction_error_from_open_half", "open", True),
        ("prediction_error_plain_from_open_half", "open", False),
    ):
        wanted = {"measured_on": on, "ranked": ranked, "tree": "sequoia"}
        errors = [abs(row["error"]) for row in rows if wanted.items() <= row.items()]
        result.figures[figure] = max(errors)
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
    result.figures["sequoia_over_best_chain"] = min(over["chain"])
    result.figures["sequoia_over_k_chains"] = min(over["k_chains"])
    result.figures["chain_ratio_off_prediction"] = max(off)


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


def planned(vector: AcceptanceVector, nodes: int) -> TreeTopology:
    """Return Sequoia's tree."""
    return plan(vector, nodes, min(nodes, 16))
