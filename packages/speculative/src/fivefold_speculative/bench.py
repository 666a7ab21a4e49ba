"""`fivefold bench`: drafting methods beside plain decoding, interleaved in one process."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from fivefold import Choice, Run, UserError
from fivefold_lm import LanguageModel

from ._counted import counted
from ._words import Rule
from .engine import Engine
from .ledger import Ledger
from .prompt_sets import Prompt
from .record import Record, Request
from .repetition import repeated_4grams
from .session import Session
from .step_profile import (
    Ceilings,
    decode_profiled,
    refuse_accelerators,
    refuse_streaming,
    show_profile,
)
from .task_configs import BenchConfig, choose_methods

PLAIN = "none"
"""The method every other one is measured against."""
COLUMNS = (
    "method",
    "tokens_per_second",
    "ratio_to_plain",
    "mean_acceptance_length",
    "repeated_4grams",
    "identical_to_plain",
)
_WARM_UP_TOKENS = 8


@dataclass
class Contender:
    """A method with settings, and what was measured of it.

    Args:
        label: its name in tables: the method, with the settings that were given.
        engine: what decodes by it.
        seconds: wall time of each repeat, by batch of prompts.
        records: the answers of the first repeat, by batch.
        rule: the acceptance rule that `auto` became.
        stages: seconds of each stage of the loop in the first repeat, by batch.
    """

    label: str
    engine: Engine
    seconds: list[list[float]] = field(default_factory=list)
    records: list[list[Record]] = field(default_factory=list)
    rule: Rule = Rule.AUTO
    stages: list[dict[str, float]] = field(default_factory=list)

    def keep(self, batches: int) -> None:
        """Forget all but the first batches."""
        del self.seconds[batches:], self.records[batches:], self.stages[batches:]

    @property
    def seconds_a_pass(self) -> dict[str, float]:
        """Seconds of each stage of the loop, over the target's passes of the first repeat."""
        # a batch's rows pass together: its longest row tells how often
        passes = sum(max(r.num_spec_steps for r in batch) for batch in self.records)
        names = {name for batch in self.stages for name in batch}
        return {
            name: sum(batch.get(name, 0.0) for batch in self.stages) / max(passes, 1)
            for name in sorted(names)
        }

    @property
    def tokens(self) -> list[list[int]]:
        """New tokens of every prompt, in order."""
        return [record.tokens for batch in self.records for record in batch]

    @property
    def tokens_per_second(self) -> float:
        """New tokens over the medians of the batches' wall times."""
        return sum(map(len, self.tokens)) / sum(median(times) for times in self.seconds)

    @property
    def mean_acceptance_length(self) -> float:
        """New tokens a target pass, over all prompts."""
        records = [record for batch in self.records for record in batch]
        accepted = sum(record.num_accepted_draft_tokens for record in records)
        return 1 + accepted / max(sum(record.num_spec_steps for record in records), 1)

    @property
    def histogram(self) -> list[int]:
        """Target passes by the number of drafted tokens kept."""
        histograms = [r.acceptance_histogram for batch in self.records for r in batch]
        longest = max(map(len, histograms), default=0)
        return [sum(h[place] for h in histograms if place < len(h)) for place in range(longest)]


def compare(prompts: Sequence[Prompt], config: BenchConfig, run: Run) -> None:
    """Measure for `fivefold bench`: warm up, take turns, print the table, draw the figures.

    Args:
        prompts: what is answered, by every method.
        config: the task's settings.
        run: the run.

    Raises:
        UserError: the model cannot be loaded, or a method or a prompt does not suit it.
    """
    base = Engine.of(run, config.rule)
    if config.profile:
        refuse_accelerators(base.model.device)
        refuse_streaming(base.model)
    requests = _requests(base, prompts, config)
    contenders = contenders_of(base, config, run)
    size = config.batch_size
    batches = [requests[start : start + size] for start in range(0, len(requests), size)]
    warm_up(contenders, batches[0])
    try:
        measure(contenders, batches, config.repeats, run)
    finally:  # Ctrl-C keeps what all methods have finished
        finished = min(len(contender.records) for contender in contenders)
        if finished:
            for contender in contenders:
                contender.keep(finished)
            report(contenders, batches[:finished], base, config, run)
    if config.profile:
        profile(contenders, batches, base.model, run)


def report(
    contenders: Sequence[Contender],
    batches: Sequence[Sequence[Request]],
    base: Engine,
    config: BenchConfig,
    run: Run,
) -> None:
    """Print the table, and write figures, single measurements and plots."""
    base.report_streaming(run)
    rows = [row_of(contender, contenders[0], config) for contender in contenders]
    for row, contender in zip(rows, contenders, strict=True):
        run.row(**row)
        for name in ("mean_acceptance_length", "ratio_to_plain", "tokens_per_second"):
            run.figure(f"{name}_{contender.label}", row[name])
    num_prompts = sum(map(len, batches))
    run.figure("num_prompts", num_prompts)
    size, model = counted(num_prompts, "prompt"), base.model
    title = f"{config.prompts}, {size}, {model.name}, {model.dtype}"
    run.table(title, rows, COLUMNS)
    _write_cells(contenders, batches, run)
    if config.plots:
        draw(contenders, title, run)


def contenders_of(base: Engine, config: BenchConfig, run: Run) -> list[Contender]:
    """Return plain decoding and the methods asked for, each built once to find its faults early.

    Raises:
        UserError: an unknown method or setting, or one that does not suit the model or the rule.
    """
    chosen: list[tuple[str, Choice]] = []
    for name, values, choice in choose_methods(config, run):
        chosen.append((_label(name, values), choice))
    if not config.methods:
        chosen.append((run.method("drafting").name, run.chosen("drafting")))
    contenders = [Contender(PLAIN, base.plain())]
    for label, choice in chosen:
        if label != PLAIN:
            contenders.append(Contender(label, replace(base, drafting=choice.build)))
    labels = [contender.label for contender in contenders]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is listed twice", setting="methods", remedy="list each only once")
    return contenders


def warm_up(contenders: Sequence[Contender], batch: Sequence[Request]) -> None:
    """Decode a few tokens by every method: libraries load, drafts are read, memory is taken."""
    short = [replace(request, max_new_tokens=_WARM_UP_TOKENS) for request in batch]
    for contender in contenders:
        prepared = contender.engine.batch(short, text=False)
        contender.rule = prepared.rule.name
        for _ in prepared.steps():
            pass


def measure(
    contenders: Sequence[Contender], batches: Sequence[Sequence[Request]], repeats: int, run: Run
) -> None:
    """Let all methods decode a batch before the next one is begun, in an order that rotates."""
    for contender in contenders:
        contender.seconds = [[] for _ in batches]
    for repeat in range(repeats):
        for place, batch in enumerate(batches):
            shift = (repeat + place) % len(contenders)
            for contender in [*contenders[shift:], *contenders[:shift]]:
                begin = time.perf_counter()
                session = decode_once(contender.engine, batch)
                contender.seconds[place].append(time.perf_counter() - begin)
                if repeat == 0:
                    contender.records.append(session.records)
                    contender.stages.append(session.timing.metrics())
        run.note(f"repeat {repeat + 1} of {repeats} done")


def profile(
    contenders: Sequence[Contender],
    batches: Sequence[Sequence[Request]],
    model: LanguageModel,
    run: Run,
) -> None:
    """Decode everything once more, outside the figures, and print where each method's steps go."""
    ceilings = Ceilings.of(model)
    run.figure("read_bandwidth", ceilings.read_bandwidth)
    run.figure("product_rate", ceilings.product_rate)
    run.print(f"ceilings: {ceilings}")
    for contender in contenders:
        ledger = Ledger()
        for batch in batches:
            decode_profiled(contender.engine, batch, ledger)
        show_profile(contender.label, ledger, ceilings, run)


def decode_once(engine: Engine, batch: Sequence[Request]) -> Session:
    """Decode one batch, prompt included, and return its session; text is not made."""
    prepared = engine.batch(batch, text=False)
    for _ in prepared.steps():
        pass
    return prepared.session


def row_of(contender: Contender, plain: Contender, config: BenchConfig) -> dict[str, Any]:
    """Return what `result.json` holds of a method.

    `identical_to_plain` is null where the method draws its samples by other random numbers than
    plain decoding, so that only the law is the same.
    """
    sampling = contender.engine.sampling
    comparable = contender.rule in (Rule.GREEDY, Rule.LOOKUP)
    return {
        "method": contender.label,
        "prompts": config.prompts,
        "temperature": sampling.temperature,
        "batch": config.batch_size,
        "seed": sampling.seed,
        "tokens_per_second": contender.tokens_per_second,
        "ratio_to_plain": contender.tokens_per_second / plain.tokens_per_second,
        "mean_acceptance_length": contender.mean_acceptance_length,
        "repeated_4grams": repeated_4grams(contender.tokens),
        "identical_to_plain": contender.tokens == plain.tokens if comparable else None,
        "num_new_tokens": sum(map(len, contender.tokens)),
        "acceptance_histogram": contender.histogram,
        "seconds_a_pass": contender.seconds_a_pass,
    }


def draw(contenders: Sequence[Contender], title: str, run: Run) -> None:
    """Draw the bars and the histogram into the run folder."""
    try:
        from .bench_plots import draw_acceptance, draw_ratios
    except ModuleNotFoundError as error:
        run.note(f"no figures: {error.name} is not installed; run `pip install matplotlib`")
        return
    plain = contenders[0].tokens_per_second
    ratios = {c.label: c.tokens_per_second / plain for c in contenders}
    draw_ratios(ratios, title, run.folder / "tokens_per_second.png")
    histograms = {c.label: c.histogram for c in contenders[1:]}
    draw_acceptance(histograms, title, run.folder / "acceptance.png")


def _requests(engine: Engine, prompts: Sequence[Prompt], config: BenchConfig) -> list[Request]:
    requests = [
        Request(
            tokens=engine.model.encode(prompt.content, config.chat),
            max_new_tokens=config.max_new_tokens,
            id=prompt.id,
            key=key,
        )
        for key, prompt in enumerate(prompts)
    ]
    for request in requests:
        engine.check(request)
    return requests


def _label(name: str, values: dict[str, Any]) -> str:
    """Return a method's name with the settings that were given: `chain(length=3)`."""
    said = ",".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    return f"{name}({said})".replace('"', "").replace(" ", "") if said else name


def _write_cells(
    contenders: Sequence[Contender], batches: Sequence[Sequence[Request]], run: Run
) -> None:
    """Keep every single measurement beside the table, one a line."""
    lines = [
        json.dumps(
            {
                "method": contender.label,
                "ids": [request.id for request in batch],
                "seconds": contender.seconds[place],
                "token_ids": [record.tokens for record in contender.records[place]],
                **{
                    name: [record.metrics()[name] for record in contender.records[place]]
                    for name in ("mean_acceptance_length", "num_spec_steps", "num_draft_tokens")
                },
            }
        )
        for place, batch in enumerate(batches)
        for contender in contenders
    ]
    run.write_text(run.folder / "cells.jsonl", "\n".join(lines) + "\n", "hydra.run.dir")
