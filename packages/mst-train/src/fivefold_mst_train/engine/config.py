"""Settings of `fivefold train`: the run, its model, data, optimizer, LoRA and distillation.

Light: importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from fivefold import UserError
from fivefold_lm.config import DTYPES, ModelConfig

from ..config import one_of


class Objective(StrEnum):
    """What is minimised."""

    NEXT_TOKEN = "next_token"
    """Cross entropy of the next token."""
    DISTILL = "distill"
    """Divergence of a small student's law from a teacher's."""


class LossOn(StrEnum):
    """Which tokens of a conversation are learnt."""

    ANSWERS = "answers"
    """What the assistant says."""
    ALL = "all"
    """Every token."""


class OptimizerKind(StrEnum):
    """What turns gradients into steps."""

    ADAMW = "adamw"
    """AdamW for everything."""
    MUON = "muon"
    """Muon for the layers' matrices, AdamW for embeddings, output rows and vectors."""


class Schedule(StrEnum):
    """How the learning rate goes after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Parallel(StrEnum):
    """How processes started by torchrun share the work."""

    DDP = "ddp"
    """Each holds the whole model; gradients are averaged."""
    FSDP2 = "fsdp2"
    """Each holds a share of every weight, gradient and moment (`fully_shard`)."""


class When(StrEnum):
    """Whether something optional is done."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass
class TrainModelConfig:
    """Which model is trained, and where."""

    name: str = "smollm2"
    """`smollm2`, a hub id, a local folder (a checkpoint too), or a GGUF file."""
    revision: str = ""
    """Branch, tag or commit of a hub model; empty takes the newest."""
    dtype: str = "float32"
    """Number format of weights, gradients and optimizer state: float32, bfloat16 or float16."""
    device: str = "auto"
    """Where it is trained: cpu, cuda, cuda:1, xpu, or auto for the first accelerator; under
    torchrun each process takes the device of its own number."""
    trust_remote_code: bool = False
    """Allow a hub model to run Python code of its own."""
    token: str = ""
    """Hub access token; empty uses the one of `hf auth login`, if any."""
    chat_template: str = ""
    """Jinja chat template, or a file that holds one, for data of conversations."""

    def __post_init__(self) -> None:
        """Refuse what no model could satisfy.

        Raises:
            UserError: an empty name, an unknown number format or device.
        """
        one_of(self.dtype, DTYPES, "model.dtype")
        self.for_loading(self.name)

    def for_loading(self, name: str, device: str = "") -> ModelConfig:
        """Return the settings with which `fivefold_lm` loads a model: stock torch, no kernels.

        Args:
            name: of the model; a teacher or a checkpoint may stand in for our own.
            device: in place of our own.
        """
        return ModelConfig(
            name=name,
            revision=self.revision if name == self.name else "",
            dtype=self.dtype,
            device=device or self.device,
            trust_remote_code=self.trust_remote_code,
            token=self.token,
            chat_template=self.chat_template,
            kernels="torch",
        )


@dataclass
class DataConfig:
    """What is trained on."""

    name: str = "austen"
    """`austen` (six novels, in the package), a folder of text, a `.jsonl`, `.txt`, `.parquet` or
    `.csv` file, or the name of a dataset on the hub."""
    subset: str = ""
    """Configuration of a hub dataset (`wikitext-2-raw-v1`)."""
    split: str = "train"
    """Split of a hub dataset."""
    text: str = "text"
    """Field that holds text."""
    messages: str = "messages"
    """Field that holds a conversation: a list of `{role, content}`; takes precedence over text."""
    loss_on: LossOn = LossOn.ANSWERS
    """Tokens of conversations that are learnt: `answers` or `all`."""
    mask_documents: bool = False
    """Keep packed documents apart: no attention from one to the other, positions from 0 in each."""
    max_documents: int = 0
    """Documents to take; 0: all."""
    eval_share: float = 0.05
    """Share of the blocks held out for evaluation, spread evenly; 0: none."""
    eval_name: str = ""
    """Other data for evaluation, in place of a share: as `name`."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to train on.

        Raises:
            UserError: names the setting.
        """
        _require(bool(self.name.strip()), "data.name", self.name, "no data is named", "see --help")
        at_least(self.max_documents, 0, "data.max_documents")
        _require(
            0 <= self.eval_share < 1,
            "data.eval_share",
            self.eval_share,
            "no share",
            "give a value from 0 to less than 1",
        )


@dataclass
class OptimizerConfig:
    """How gradients become steps."""

    name: OptimizerKind = OptimizerKind.ADAMW
    """`adamw`, or `muon` (for the layers' matrices; AdamW for the rest)."""
    lr: float = 0.0
    """Peak learning rate; 0: 5e-5, with LoRA 2e-4, for a student made anew 2e-3."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors have none."""
    beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: float = 0.999
    """Decay of AdamW's mean of squares."""
    eps: float = 1e-8
    """Added to AdamW's denominator."""
    clip: float = 1.0
    """Largest norm of all gradients together; 0: any."""
    schedule: Schedule = Schedule.COSINE
    """How the rate goes after the warm-up: `constant`, `linear` or `cosine`."""
    warmup: float = 0.03
    """Share of the run in which the rate rises."""
    final: float = 0.0
    """Share of the peak rate that is left at the end."""

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: names the setting and the range.
        """
        for name in ("lr", "weight_decay", "clip"):
            value = getattr(self, name)
            _require(
                0 <= value < math.inf,
                f"optimizer.{name}",
                value,
                "a value that is no size",
                "give 0 or more",
            )
        for name in ("beta1", "beta2", "warmup"):
            value = getattr(self, name)
            _require(
                0 <= value < 1,
                f"optimizer.{name}",
                value,
                "a value out of range",
                "give a value from 0 to less than 1",
            )
        _require(
            0 < self.eps < math.inf,
            "optimizer.eps",
            self.eps,
            "no denominator",
            "give more than 0",
        )
        _require(
            0 <= self.final <= 1,
            "optimizer.final",
            self.final,
            "no share",
            "give a value from 0 to 1",
        )


@dataclass
class LoraConfig:
    """Low-rank adapters (needs the package `peft`)."""

    rank: int = 0
    """Rank of the adapters; 0 trains the model itself."""
    alpha: float = 0.0
    """Scale: adapters count alpha/rank times; 0: twice the rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is left out at random."""
    targets: list[str] = field(default_factory=list)
    """Names of the modules that get adapters (`q_proj`, …); empty: every linear layer but the
    head."""

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: names the setting.
        """
        at_least(self.rank, 0, "lora.rank")
        at_least(self.alpha, 0, "lora.alpha")
        _require(
            0 <= self.dropout < 1,
            "lora.dropout",
            self.dropout,
            "no share",
            "give a value from 0 to less than 1",
        )


@dataclass
class DistillConfig:
    """How a student learns a teacher's law (`objective=distill`)."""

    layers: int = 2
    """Layers of the student, 1 to 6, of the teacher's shape, with its embedding and output rows;
    0: the student is `model=`."""
    words: int = 0
    """Words the student can propose: those most frequent in the data; 0: the whole vocabulary."""
    temperature: float = 1.0
    """Temperature of both laws."""
    samples: int = 0
    """Blocks of text that the teacher writes first, to be trained on in place of the data; each
    begins with tokens of the data. 0: the data themselves."""
    prompt_len: int = 32
    """Tokens of data at the head of each sample."""
    sample_temperature: float = 0.7
    """Temperature at which the teacher writes; 0 is greedy."""
    sample_batch: int = 16
    """Samples written at once."""

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: names the setting.
        """
        _require(
            0 <= self.layers <= 6,
            "distill.layers",
            self.layers,
            "a draft of so many layers",
            "give 1 to 6, or 0 and the student as model=",
        )
        for name in ("words", "samples", "sample_temperature"):
            at_least(getattr(self, name), 0, f"distill.{name}")
        _require(
            self.words != 1,
            "distill.words",
            self.words,
            "a student of one word has nothing to learn",
            "give 2 or more, or 0 for the whole vocabulary",
        )
        for name in ("prompt_len", "sample_batch"):
            at_least(getattr(self, name), 1, f"distill.{name}")
        _require(
            0 < self.temperature < math.inf,
            "distill.temperature",
            self.temperature,
            "no temperature",
            "give more than 0",
        )


@dataclass
class TrainConfig:
    """Train a language model, or distil a draft; `training=mst` makes long sequences fit."""

    seq_len: int = 1024
    """Tokens of one sequence: documents are packed into blocks of so many."""
    steps: int = 100
    """Steps of the optimizer, those before a resumed checkpoint included."""
    minutes: float = 0.0
    """Train for so many minutes instead of `steps`; the learning rate follows the clock."""
    batch_size: int = 1
    """Sequences of a process that are trained at the same time."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    objective: Objective = Objective.NEXT_TOKEN
    """`next_token`, or `distill` (a student learns the law of `teacher=`)."""
    teacher: str = ""
    """The model that `objective=distill` learns from: as `model=`."""
    autocast: bool = False
    """Compute in bfloat16 where that is safe; weights stay in `model.dtype`."""
    seed: int = 0
    """Seed of the order of blocks, of dropout and of what is made at random."""
    resume: str = ""
    """Checkpoint to go on from, or a folder of checkpoints: the newest. Give the other settings as
    they were."""
    output: str = ""
    """Folder of checkpoints and metrics; empty: the run folder."""
    save_every: int = 100
    """Steps between checkpoints; 0: only the last. The last step is always saved."""
    keep: int = 2
    """Checkpoints to keep, the newest; 0: all."""
    eval_every: int = 0
    """Steps between evaluations; 0: only at the end."""
    eval_blocks: int = 64
    """Most held-out blocks that one evaluation reads; 0: all."""
    parallel: Parallel = Parallel.DDP
    """How processes of torchrun share the work: `ddp` or `fsdp2`."""
    memory: When = When.AUTO
    """Measure the live peak: `auto` (on an accelerator every step, on a CPU the first two),
    `always`, or `never`."""
    tensorboard: When = When.AUTO
    """Write TensorBoard events: `auto` (where the package `tensorboard` is), `always`, `never`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UserError: names the setting.
        """
        at_least(self.seq_len, 2, "seq_len")
        for name in ("steps", "batch_size", "accumulate"):
            at_least(getattr(self, name), 1, name)
        for name in ("minutes", "save_every", "keep", "eval_every", "eval_blocks", "seed"):
            at_least(getattr(self, name), 0, name)
        _require(self.seed < 2**63, "seed", self.seed, "no seed", "give one below 2^63")


def at_least(value: int | float, least: int | float, setting: str) -> None:
    """Refuse a number that is too small, infinite or none.

    Raises:
        UserError: naming the setting and the least value.
    """
    problem = "too small a number" if value < least else "no finite number"
    _require(least <= value < math.inf, setting, value, problem, f"give {least} or more")


def _require(holds: bool, setting: str, value: object, problem: str, remedy: str) -> None:
    if not holds:
        raise UserError(problem, setting=setting, value=value, remedy=remedy)
