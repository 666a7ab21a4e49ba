"""The task `fivefold train` and what it refuses before torch is loaded (imports nothing heavy)."""

from __future__ import annotations

from importlib.util import find_spec

from fivefold import Group, Run, Task, UserError
from fivefold_lm.groups import RUNTIME

from ..config import HeadConfig
from .config import (
    DataConfig,
    DistillConfig,
    LoraConfig,
    Objective,
    OptimizerConfig,
    TrainConfig,
    TrainModelConfig,
    When,
)

MODEL = Group(
    node="model",
    config=TrainModelConfig,
    options={"smollm2": {"name": "smollm2"}},
    default="smollm2",
    free="name",
)
DATA = Group(
    node="data",
    config=DataConfig,
    options={"austen": {"name": "austen"}},
    default="austen",
    free="name",
)
OPTIMIZER = Group(node="optimizer", config=OptimizerConfig)
LORA = Group(node="lora", config=LoraConfig)
DISTILL = Group(node="distill", config=DistillConfig)

TRAIN = Task(
    name="train",
    config=TrainConfig,
    run="fivefold_mst_train.engine.front:train",
    summary="train a model on long sequences, or distil a draft",
    hooks={"training": "plain"},
    groups=(MODEL, DATA, OPTIMIZER, LORA, DISTILL, RUNTIME),
    provides=frozenset({"task:train"}),
    check="fivefold_mst_train.engine.task:check",
)


def check(config: TrainConfig, run: Run) -> None:
    """Refuse settings that do not go together, and packages that are not there.

    Raises:
        UserError: names the setting and the remedy.
    """
    lora = run.node("lora", LoraConfig)
    distils = config.objective is Objective.DISTILL
    if distils and not config.teacher:
        raise UserError(
            "a student needs somebody to learn from",
            setting="teacher",
            value=config.teacher,
            remedy="give teacher= a model, such as teacher=smollm2",
        )
    if config.teacher and not distils:
        raise UserError(
            "only a student has a teacher",
            setting="teacher",
            value=config.teacher,
            remedy="add objective=distill, or leave it out",
        )
    _check_unused(config, run)
    if lora.rank:
        _need("peft", "lora.rank", lora.rank)
        if distils and run.node("distill", DistillConfig).layers:
            raise UserError(
                "a student made anew has no weights to adapt",
                setting="lora.rank",
                value=lora.rank,
                remedy="leave LoRA out, or set distill.layers=0 and give the student as model=",
            )
    if config.tensorboard is When.ALWAYS:
        _need("tensorboard", "tensorboard", config.tensorboard)
    _check_steps_in_backward(config, run)


def _check_unused(config: TrainConfig, run: Run) -> None:
    """Refuse settings that would do nothing, or other than they say."""
    lora, distill = run.node("lora", LoraConfig), run.node("distill", DistillConfig)
    is_student = config.objective is Objective.DISTILL
    for node, given, plain, is_used, wanted in (
        ("lora", vars(lora), vars(LoraConfig()), bool(lora.rank), "lora.rank"),
        ("distill", vars(distill), vars(DistillConfig()), is_student, "objective=distill"),
    ):
        changed = [name for name, value in given.items() if value != plain[name]]
        if changed and not is_used:
            raise UserError(
                f"it does nothing without {wanted}",
                setting=f"{node}.{changed[0]}",
                value=given[changed[0]],
                remedy=f"give {wanted} too, or leave it out",
            )
    head = getattr(run.settings("training"), "head", HeadConfig())
    if head.ignore_index != HeadConfig.ignore_index:
        raise UserError(
            "these data mark what is not learnt by -100, and every token is to be learnt",
            setting="training.head.ignore_index",
            value=head.ignore_index,
            remedy="leave it out; it is for labels of your own (apply_mst)",
        )


def _check_steps_in_backward(config: TrainConfig, run: Run) -> None:
    """Refuse what cannot be had once parameters are stepped while backward runs."""
    if not getattr(run.settings("training"), "optimizer_in_backward", False):
        return
    remedy = "or leave training.optimizer_in_backward out"
    if config.accumulate > 1:
        raise UserError(
            "parameters that are stepped in backward see one batch alone",
            setting="accumulate",
            value=config.accumulate,
            remedy=f"set accumulate=1, {remedy}",
        )
    optimizer = run.node("optimizer", OptimizerConfig)
    if optimizer.clip:
        raise UserError(
            "the norm of all gradients is not known while parameters are stepped in backward",
            setting="optimizer.clip",
            value=optimizer.clip,
            remedy=f"set optimizer.clip=0, {remedy}",
        )


def _need(package: str, setting: str, value: object) -> None:
    if find_spec(package) is None:
        raise UserError(
            f"the package {package} is not installed",
            setting=setting,
            value=value,
            remedy=f"pip install {package}, or leave the setting out",
        )
