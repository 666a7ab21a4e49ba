"""`fivefold plan`: which method, which tree, or plain decoding, on this machine."""

from __future__ import annotations

import time
from dataclasses import replace

from fivefold import Run, UserError

from .._words import Rule
from ..choosing import choose
from ..config import AutoConfig
from ..engine import Engine, memory_errors
from ..prompt_sets import chat_prompts, spread
from ..record import Request
from ..task_configs import PlanConfig
from .offers import PLAIN
from .plans import Plan, make_plan, write

_COLUMNS = {
    "chosen": "",
    "method": "method",
    "settings": "settings",
    "nodes": "nodes",
    "tokens a step": "tokens",
    "ms a step": "ms",
    "predicted ratio": "predicted",
    "tried ratio": "tried",
    "measured tokens/s": "tokens/s",
}
"""What a row of the result shows in the table, and the short heading that fits a terminal."""


def run(config: PlanConfig, run: Run) -> int:
    """Run `fivefold plan`."""
    settings = run.settings("drafting")
    if not isinstance(settings, AutoConfig):
        raise UserError(
            "a plan compares all methods",
            setting="drafting",
            value=run.method("drafting").name,
            remedy="leave it out, and name the methods by drafting.methods=[...]",
        )
    engine = Engine.of(run, Rule.AUTO)
    requests = [
        Request(engine.model.encode(prompt.content), config.max_new_tokens, key=key)
        for key, prompt in enumerate(spread(chat_prompts("open"), config.batch))
    ]
    with memory_errors():
        plan, path = make_plan(engine.session(requests), settings)
        if config.measure:
            plan = measured(plan, engine, requests, run)
            write(path, plan)
    for place in range(len(plan.offers)):
        run.row(**_row(plan, place))
    shown = [
        {short: row[column] for column, short in _COLUMNS.items()}
        for row in run.result.rows
        if row["shown"]
    ]
    title = f"{engine.model.name}, batch {config.batch}, temperature {engine.sampling.temperature}"
    run.table(title, shown)
    run.figure("predicted_ratio_to_plain", plan.ratio(plan.best))
    if plan.tried:
        run.figure("tried_ratio_to_plain", plan.tried[plan.chosen])
    if plan.link is not None:
        run.figure("link_bytes_per_second", plan.link)
        run.print(f"layers come at {plan.link / 1e9:.2f} GB/s")
    run.print(f"drafting=auto takes {plan.best.label}")
    return 0


def measured(plan: Plan, engine: Engine, requests: list[Request], run: Run) -> Plan:
    """Decode with plain decoding and with the best offer of every method; no text ends early."""
    engine = replace(engine, model=replace(engine.model, eos_ids=()))
    for place in _best_places(plan):
        offer = plan.offers[place]
        one = engine.plain()
        if offer.method != PLAIN:
            build = choose("drafting", offer.method, offer.settings).build
            one = replace(engine, drafting=build)
        for _ in range(2):  # the first time drafts are loaded and memory is taken
            batch = one.batch(requests, text=False)
            steps = batch.steps()
            next(steps)  # prompts are read before the clock starts
            begin = time.perf_counter()
            tokens = sum(len(row) for outcome in steps for row in outcome.new_tokens)
            seconds = time.perf_counter() - begin
        plan = plan.after(place, tokens / seconds)
        run.note(f"{offer.label}: {tokens / seconds:.1f} tokens/s")
    return plan


def _best_places(plan: Plan) -> list[int]:
    """Return the places of the best promise of every method, and of what was tried."""
    best: dict[str, int] = {}
    for place, offer in enumerate(plan.offers):
        if offer.method not in best or offer.promise > plan.offers[best[offer.method]].promise:
            best[offer.method] = place
    return sorted({*best.values(), *plan.tried, plan.chosen})


def _row(plan: Plan, place: int) -> dict[str, object]:
    offer = plan.offers[place]
    return {
        "chosen": "*" if place == plan.chosen else "",
        "method": offer.method,
        "settings": ", ".join(f"{key}={value}" for key, value in offer.settings.items()),
        "nodes": offer.nodes,
        "tokens a step": round(offer.expected_tokens, 2),
        "ms a step": round(offer.seconds * 1e3, 1),
        "predicted tokens/s a row": round(offer.promise, 1),
        "predicted ratio": round(plan.ratio(offer), 2),
        "tried ratio": round(plan.tried[place], 2) if place in plan.tried else None,
        "measured tokens/s": round(offer.measured, 1) or None,
        "shown": place in _best_places(plan),
    }
