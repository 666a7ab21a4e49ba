"""`fivefold demo`: one prompt answered plainly and speculatively, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from fivefold import Run

from .answers import Answer, Job, Piece, answer, make_jobs
from .engine import Engine
from .prompt_sets import Prompt
from .task_configs import DemoConfig

_WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Take:
    """One way to answer, timed.

    Args:
        method: the drafting method's name.
        written: the answer.
        seconds: wall time of the call after warm-up, prompt included.
    """

    method: str
    written: Answer
    seconds: float

    def row(self, plain: Take, *, is_greedy: bool) -> dict[str, object]:
        """Return a line of the table; sampled texts differ by chance and are not compared."""
        record, same = self.written.record, self.written.token_ids == plain.written.token_ids
        rate = record.draft_acceptance_rate
        return {
            "method": self.method,
            "tokens": len(record.tokens),
            "tokens_per_second": round(len(record.tokens) / self.seconds, 1),
            "tokens_per_pass": round(record.mean_acceptance_length, 2),
            "acceptance": None if rate is None else round(rate, 3),
            "identical to plain decoding": ("yes" if same else "no") if is_greedy else "-",
        }


def run(config: DemoConfig, run: Run) -> int:
    """Run `fivefold demo`; the status is 1 when the two texts differ.

    Raises:
        UserError: the model cannot be loaded, or the prompt does not fit.
    """
    engine = Engine.of(run, config.rule)
    is_greedy = engine.sampler.greedy
    prompt = Prompt("demo", config.prompt)
    jobs = make_jobs(engine, prompt, first_key=0, max_new_tokens=config.max_new_tokens)
    name = run.method("drafting").name
    run.print(f"{config.prompt}\n")
    plain = _take(run, "plain decoding", "none", engine.plain(), jobs)
    fast = _take(run, f"drafting={name}", name, engine, jobs)
    rows = [take.row(plain, is_greedy=is_greedy) for take in (plain, fast)]
    for row in rows:
        run.row(**row)
    run.table(f"{engine.model.name}, {engine.model.dtype}", rows)
    run.figure("ratio_to_plain", plain.seconds / fast.seconds)
    run.figure("mean_acceptance_length", fast.written.record.mean_acceptance_length)
    if not is_greedy:
        return 0
    same = plain.written.token_ids == fast.written.token_ids
    run.print(f"identical to plain decoding: {'yes' if same else 'no'}")
    return 0 if same else 1


def _take(run: Run, title: str, method: str, engine: Engine, jobs: list[Job]) -> Take:
    """Warm up, then answer with live text."""
    short = [replace(job.request, max_new_tokens=_WARM_UP_TOKENS) for job in jobs]
    for _ in engine.batch(short, text=False).steps():
        pass
    run.print(f"--- {title}")
    begin = time.perf_counter()
    try:
        for event in answer(engine, jobs):
            if isinstance(event, Piece):
                run.stream(event.text)
            else:
                written = event
        seconds = time.perf_counter() - begin
    finally:  # also of a text that Ctrl-C cut short, which would share its line with the message
        run.print("\n")
    return Take(method, written, seconds)
