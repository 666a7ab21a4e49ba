"""Where each task begins: what can be refused without torch is refused before torch is imported.

Importing torch and loading a model take seconds; a missing file is not worth them.
"""

from __future__ import annotations

from contextlib import ExitStack

from fivefold import Run
from fivefold_lm.config import ModelConfig

from .answer_file import AnswerFile
from .prompt_sets import bench_prompts, output_of, prompts_of
from .task_configs import (
    AuditConfig,
    BenchConfig,
    ChatConfig,
    DemoConfig,
    GenerateConfig,
    PlanConfig,
)


def generate(config: GenerateConfig, run: Run) -> None:
    """Run `fivefold generate`: read the prompts, open the output, then answer.

    Raises:
        UserError: no prompt, an input that cannot be read, an output that cannot be written, and
            whatever `answer_prompts` refuses.
    """
    prompts, path = prompts_of(config), output_of(config)
    with ExitStack() as stack:
        file = stack.enter_context(AnswerFile(path)) if path is not None else None
        announce(run)
        from .generate import answer_prompts

        answer_prompts(prompts, config, run, file)


def chat(config: ChatConfig, run: Run) -> None:
    """Run `fivefold chat`."""
    announce(run)
    from .chat import run as begin

    begin(config, run)


def bench(config: BenchConfig, run: Run) -> None:
    """Run `fivefold bench`: read the prompts, then measure on them.

    Raises:
        UserError: prompts that cannot be read, and whatever `compare` refuses.
    """
    prompts = bench_prompts(config)
    announce(run)
    from .bench import compare

    compare(prompts, config, run)


def audit(config: AuditConfig, run: Run) -> int:
    """Run `fivefold audit`; the status is 1 when a check failed."""
    announce(run)
    from .audit import run as begin

    return begin(config, run)


def demo(config: DemoConfig, run: Run) -> int:
    """Run `fivefold demo`; the status is 1 when the two texts differ."""
    announce(run)
    from .demo import run as begin

    return begin(config, run)


def plan(config: PlanConfig, run: Run) -> int:
    """Run `fivefold plan`."""
    announce(run)
    from .planner.task import run as begin

    return begin(config, run)


def announce(run: Run) -> None:
    """Say that the model is being loaded, on stderr: it is silent for seconds otherwise."""
    run.note(f"loading {run.node('model', ModelConfig).name}")
